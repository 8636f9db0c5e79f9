"""Reads scenes with a `scene_metadata.npz`, which preprocessing of ScanNet++ and ARKitScenes writes.

Its arrays, with one entry per image:

- `images`: file names, with or without extension;
- `trajectories`: camera_to_world, metres, OpenCV axes;
- `intrinsics`: 3x3 matrices, or (width, height, fx, fy, cx, cy), in pixels.
"""

import pathlib
import zipfile

import numpy as np
from jaxtyping import Float64

from muskie_jax.data.posed.frames import (
    Frame,
    Sequence,
    build_sequence,
    invert_pose,
    pinhole_intrinsics,
)
from muskie_jax.data.posed.parsing import parsing
from muskie_jax.data.scan import EXTENSIONS, natural_key
from muskie_jax.errors import UserError

SCENE_METADATA = "scene_metadata.npz"


def read_scene(name: str, folder: pathlib.Path, images: str, depth: str, every: int) -> Sequence:
    """Returns the frames of a scene, in natural order of their names.

    Args:
      name: the scene's name.
      folder: the scene's folder.
      images, depth: names of the folders of `<stem>.jpg` and of `<stem>.png`, 16-bit z-depth.
      every: stride of the frames that are read.

    Raises:
      UserError: if the file cannot be parsed, or a camera is invalid.
    """
    path = folder / SCENE_METADATA
    try:
        with parsing(path), np.load(path, allow_pickle=False) as data:
            stems = [_stem(str(image)) for image in data["images"]]
            poses = data["trajectories"].astype(np.float64).reshape(len(stems), 4, 4)
            cameras = data["intrinsics"].astype(np.float64).reshape(len(stems), -1)
            cameras = [_parse_intrinsics(values) for values in cameras]
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} cannot be parsed: {error}") from error
    ordered = sorted(zip(stems, poses, cameras), key=lambda entry: natural_key(entry[0]))
    frames = [
        Frame(
            stem,
            number,
            folder / images / f"{stem}.jpg",
            folder / depth / f"{stem}.png",
            intrinsics,
            invert_pose(pose, f"{path}, {stem}"),
            size,
        )
        for number, (stem, pose, (intrinsics, size)) in enumerate(ordered)
    ]
    return build_sequence(name, frames, every)


def _stem(image: str) -> str:
    """Returns a file name without folder and extension. A name such as 41069021_305.2 has no extension."""
    name = pathlib.PurePosixPath(image)
    return name.stem if name.suffix.lower() in EXTENSIONS else name.name


def _parse_intrinsics(
    values: Float64[np.ndarray, " n"],
) -> tuple[Float64[np.ndarray, "3 3"], tuple[int, int] | None]:
    """Returns the camera matrix, and the (height, width) that it refers to if it is known."""
    if len(values) == 9:
        return values.reshape(3, 3), None
    width, height, *pinhole = values
    return pinhole_intrinsics(*pinhole), (int(height), int(width))
