"""Files of point clouds with cameras: `.glb` for viewers and browsers, `.ply` for point cloud tools."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps

from muskie_jax.checks import require
from muskie_jax.errors import UserError
from muskie_jax.files import atomic_write, user_path
from muskie_jax.photographs.output_files import check_output
from muskie_jax.photographs.reconstructing import Scene

SUFFIXES = (".glb", ".ply")
CAMERA_SIZE = 0.05  # depth of a camera's pyramid, relative to the scene's size
EXTENT = (5, 95)  # percentiles of the points between which the scene's size is measured
SAMPLES = 40  # points on each line of a camera in a point cloud
# From OpenCV's axes to those of glTF and of most viewers: x right, y up, z backward.
TO_VIEWER = np.diag([1.0, -1.0, -1.0])
# Lines of a camera: from its centre, 0, to the corners of its view, and between these.
LINES = ((0, 1), (0, 2), (0, 3), (0, 4), (1, 2), (2, 3), (3, 4), (4, 1))
CORNERS = ((-1, -1), (1, -1), (1, 1), (-1, 1))


def plan_scene_file(out: str, photographs: Sequence[pathlib.Path], force: bool) -> pathlib.Path:
    """Returns the path of a scene's file, before anything is computed.

    Raises:
      UserError: if the name has another suffix, trimesh is missing, or the file must not or cannot be
        written, see `check_output`.
    """
    path = user_path(out)
    require(
        path.suffix.lower() in SUFFIXES,
        f"--out={out} must be a point cloud: a name that ends with {' or '.join(SUFFIXES)}",
    )
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
        raise UserError(
            "point clouds are written by trimesh: install it with python -m pip install -e "
            '".[viewer]" -c constraints.txt'
        ) from error
    return trimesh


def write_scene(path: pathlib.Path, scene: Scene, force: bool = False) -> None:
    """Writes coloured points, and a pyramid per camera: lines in a `.glb`, rows of points in a `.ply`.

    Axes are those of viewers: x right, y up, z backward, from the first camera.

    Raises:
      UserError: if trimesh is missing, or the file exists without `force` or cannot be written.
    """
    trimesh = import_trimesh()
    to_first = np.linalg.inv(scene.camera_to_world[0].astype(np.float64))
    view_from_first = lambda x: (x @ to_first[:3, :3].T + to_first[:3, 3]) @ TO_VIEWER
    points = view_from_first(scene.points)
    segments = view_from_first(camera_lines(scene))
    colours = camera_colours(len(segments))
    if path.suffix.lower() == ".glb":
        written = trimesh.Scene()
        written.add_geometry(trimesh.PointCloud(points, scene.colours), geom_name="points")
        for number, (lines, colour) in enumerate(zip(segments, colours)):
            camera = trimesh.load_path(lines)
            camera.colors = np.tile([*colour, 255], (len(camera.entities), 1)).astype(np.uint8)
            written.add_geometry(camera, geom_name=f"camera {number + 1}: {scene.paths[number].name}")
    else:
        steps = np.linspace(0, 1, SAMPLES)[:, None]
        sampled = segments[..., :1, :] * (1 - steps) + segments[..., 1:, :] * steps
        every = np.concatenate([points, sampled.reshape(-1, 3)])
        repeated = np.repeat(colours, len(LINES) * SAMPLES, 0)
        written = trimesh.PointCloud(every, np.concatenate([scene.colours, repeated]))
    with atomic_write(path, force) as part:
        part.write_bytes(written.export(file_type=path.suffix.lower()[1:]))


def camera_lines(scene: Scene) -> Float[np.ndarray, "V lines 2 3"]:
    """Returns the ends of the lines of each camera's pyramid, in the frame of the points."""
    extent = np.subtract(*np.percentile(scene.points, EXTENT[::-1], axis=0)) if len(scene.points) else 1.0
    distances = np.linalg.norm(scene.camera_to_world[:, :3, 3] - scene.camera_to_world[0, :3, 3], axis=1)
    depth = CAMERA_SIZE * max(float(np.max(extent)), float(distances.max()), 1e-6)
    ends = np.zeros((len(scene.tangents), 5, 3))
    ends[:, 1:, :2] = np.array(CORNERS) * scene.tangents[:, None]
    ends[:, 1:, 2] = 1
    rotation, centre = scene.camera_to_world[:, :3, :3], scene.camera_to_world[:, :3, 3]
    corners = np.einsum("vij,vkj->vki", rotation, depth * ends) + centre[:, None]
    return corners[:, np.array(LINES)]


def camera_colours(count: int) -> UInt8[np.ndarray, "count 3"]:
    """Returns a colour per camera, from blue for the first to red for the last."""
    return (255 * colormaps["turbo"](np.linspace(0.1, 0.9, count))[:, :3]).astype(np.uint8)
