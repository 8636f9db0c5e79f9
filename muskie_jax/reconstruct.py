"""Reconstructs the points and cameras of photographs of one scene.

    muskie reconstruct 1.jpg 2.jpg 3.jpg --model reconstruction.safetensors --out scene.html

Photographs may have any sizes and orientations; folders stand for their images. All are cropped to their
median aspect ratio. The network needs a decoder of cameras and point maps, see docs/reconstruction.md.
Writes coloured points and the cameras: a page for browsers, or a .glb or .ply file for other programs.
Their scale is arbitrary.
"""

import math

from absl import flags, logging

from muskie_jax.command_line import OUT, run_command
from muskie_jax.compilation_cache import keep_compiled_programs
from muskie_jax.data.load_images import LoadedImages, load_images
from muskie_jax.photographs.command_flags import define_force, define_size
from muskie_jax.photographs.opening import SIZE, check_view_size, find_photographs
from muskie_jax.photographs.reconstructing import MAX_POINTS, open_reconstruction, reconstruct_views
from muskie_jax.photographs.scene_files import plan_scene_file, write_scene
from muskie_jax.writers import log, print_result

_MODEL = flags.DEFINE_string(
    "model", None, "A network with a decoder: a work directory, a weights file, or user/name on the hub."
)
_SIZE = define_size(None, f"; by default as in its training, or {SIZE} if that is unknown")
_MAX = flags.DEFINE_integer("max", MAX_POINTS, "Points to write at most.", lower_bound=1)
_FORCE = define_force()

NEEDED = {"model": "reconstruction.safetensors", "out": "scene.html"}
OPTIONAL = ("size", "max", "force")
HELP = {"out": "Page or point cloud to write: .html, .glb or .ply."}
ARGUMENTS = ("1.jpg", "2.jpg")
MUCH_CROPPED = 0.8  # fraction of a photograph's area; cropping to less is reported


def reconstruct(arguments: list[str]) -> None:
    """Reconstructs the photographs of the command line; flags must be parsed."""
    logging.set_verbosity(logging.WARNING)
    keep_compiled_programs()
    photographs = find_photographs(arguments)
    assert OUT.value is not None and _MODEL.value is not None, "needed flags"
    path = plan_scene_file(OUT.value, photographs, _FORCE.value)
    network = open_reconstruction(_MODEL.value)
    size, patch = network.size if _SIZE.value is None else _SIZE.value, network.model.backbone.patch
    check_view_size(size, patch)
    views = load_images(photographs, size, patch)
    height, width = views.images.shape[1:3]
    log(f"The network sees photographs as views of {width}x{height} pixels (--size)")
    _describe_crops(views)
    scene = reconstruct_views(network, views.images, views.paths, _MAX.value)
    write_scene(path, scene, _FORCE.value)
    count = len(scene.paths)
    log(f"{path}: {len(scene.points)} points of {count} photograph{'s' * (count != 1)}")
    cameras = [
        {
            "photograph": str(each),
            "camera_to_world": pose.astype(float).round(6).tolist(),
            "field_of_view": round(2 * math.degrees(math.atan(float(tangents[0]))), 2),
        }
        for each, pose, tangents in zip(scene.paths, scene.camera_to_world, scene.tangents)
    ]
    print_result({"job": "reconstruct", "points": len(scene.points), "cameras": cameras, "out": str(path)})


def _describe_crops(views: LoadedImages) -> None:
    """Logs how many photographs lose much of their area to the common aspect ratio."""
    fractions = views.fractions()
    count = int((fractions < MUCH_CROPPED).sum())
    if count:
        least = int(fractions.argmin())
        log(
            f"{count} of {len(fractions)} photographs lose more than {1 - MUCH_CROPPED:.0%} to the common "
            f"aspect ratio; {views.paths[least]} keeps {fractions[least]:.0%}. To keep more, reconstruct "
            "portrait and landscape photographs separately"
        )


def main(invocation: str = "python -m muskie_jax.reconstruct") -> None:
    """Reconstructs the photographs in `sys.argv`. `invocation` is how messages refer to the program."""
    run_command(invocation, __doc__ or "", reconstruct, NEEDED, OPTIONAL, ARGUMENTS, HELP)


if __name__ == "__main__":
    main()
