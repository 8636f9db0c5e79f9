"""Files of point clouds with cameras.

They are a page for browsers, `.html`; `.glb` for 3D programs; or `.ply` for point cloud tools.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from muskie_jax.checks import require
from muskie_jax.errors import UserError
from muskie_jax.files import atomic_write, user_path
from muskie_jax.photographs.opening import short_names
from muskie_jax.photographs.output_files import check_output
from muskie_jax.photographs.reconstructing import Scene
from muskie_jax.viewer.page import Layer, viewer_page
from muskie_jax.viz.cameras import CAMERA_SIZE, TO_VIEWER, camera_colours, scene_size

TRIMESH_MISSING = (
    "point clouds are written by trimesh: install it with python -m pip install -e "
    '".[viewer]" -c constraints.txt'
)
PAGE = ".html"
SUFFIXES = (PAGE, ".glb", ".ply")
SAMPLES = 40  # points on each line of a camera in a point cloud
# Lines of a camera: from its centre, 0, to the corners of its view, and between these.
LINES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))
CORNERS = ((-1, -1), (1, -1), (1, 1), (-1, 1))


def plan_scene_file(out: str, photographs: Sequence[pathlib.Path], force: bool) -> pathlib.Path:
    """Returns the path of a scene's file, before anything is computed.

    Raises:
      UserError: if the name has another suffix, trimesh is needed and missing, or the file must not or
        cannot be written, see `check_output`.
    """
    path = user_path(out)
    require(
        path.suffix.lower() in SUFFIXES,
        f"--out={out} must be a page or a point cloud: a name that ends with {', '.join(SUFFIXES[:-1])} or "
        f"{SUFFIXES[-1]}",
    )
    if path.suffix.lower() != PAGE:
        import_trimesh()
    check_output(path, photographs, force)
    return path


def import_trimesh() -> Any:
    """Imports trimesh, an optional dependency.

    Raises:
      UserError: if it is not installed.
    """
    try:
        import trimesh
    except ImportError as error:
        raise UserError(TRIMESH_MISSING) from error
    return trimesh


def write_scene(path: pathlib.Path, scene: Scene, force: bool = False) -> None:
    """Writes coloured points, and a pyramid per camera: lines in a `.glb`, rows of points in a `.ply`.

    A `.html` file is the page of `viewer_page`, whose title is the file's name. Axes are those of viewers:
    x right, y up, z backward, from the first camera.

    Raises:
      UserError: if trimesh is needed and missing, or the file exists without `force` or cannot be written.
    """
    if path.suffix.lower() == PAGE:
        with atomic_write(path, force) as part:
            part.write_text(scene_page(scene, path.stem), encoding="utf-8")
    else:
        content = point_cloud(scene, path.suffix.lower())
        with atomic_write(path, force) as part:
            part.write_bytes(content)


def scene_page(scene: Scene, title: str) -> str:
    """Returns a page on which a person turns the scene, see `viewer_page`."""
    layer = Layer("predicted", scene.points, scene.colours, scene.camera_to_world, scene.tangents)
    return viewer_page(title, short_names(scene.paths), scene.pictures, [layer])


def point_cloud(scene: Scene, suffix: str) -> bytes:
    """Returns the content of a file that ends with ".glb" or ".ply", see `write_scene`.

    Raises:
      UserError: if trimesh is missing.
    """
    trimesh = import_trimesh()
    points, segments = scene.points @ TO_VIEWER, camera_lines(scene) @ TO_VIEWER
    colours = camera_colours(len(segments))
    if suffix == ".glb":
        written = trimesh.Scene()
        written.add_geometry(trimesh.PointCloud(points, linear(scene.colours)), geom_name="points")
        for number, (lines, colour) in enumerate(zip(segments, colours)):
            camera = trimesh.load_path(lines)
            camera.colors = np.tile([*linear(colour), 255], (len(camera.entities), 1)).astype(np.uint8)
            written.add_geometry(camera, geom_name=f"camera {number + 1}: {scene.paths[number].name}")
    else:
        steps = np.linspace(0, 1, SAMPLES)[:, None]
        sampled = segments[..., :1, :] * (1 - steps) + segments[..., 1:, :] * steps
        every = np.concatenate([points, sampled.reshape(-1, 3)])
        repeated = np.repeat(colours, len(LINES) * SAMPLES, 0)
        written = trimesh.PointCloud(every, np.concatenate([scene.colours, repeated]))
    return written.export(file_type=suffix[1:])


def linear(colours: UInt8[np.ndarray, "*shape 3"]) -> UInt8[np.ndarray, "*shape 3"]:
    """Returns sRGB colours as linear intensities, as glTF 2.0 defines the colours of vertices."""
    x = np.asarray(colours) / 255
    intensity = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return (255 * intensity).round().astype(np.uint8)


def camera_lines(scene: Scene) -> Float[np.ndarray, "V lines 2 3"]:
    """Returns the ends of the lines of each camera's pyramid, in the frame of the points."""
    depth = CAMERA_SIZE * scene_size(scene.points, scene.camera_to_world)
    ends = np.zeros((len(scene.tangents), 5, 3))
    ends[:, 1:, :2] = np.array(CORNERS) * scene.tangents[:, None]
    ends[:, 1:, 2] = 1
    rotation, centre = scene.camera_to_world[:, :3, :3], scene.camera_to_world[:, :3, 3]
    corners = np.einsum("vij,vkj->vki", rotation, depth * ends) + centre[:, None]
    return corners[:, np.array(LINES)]
