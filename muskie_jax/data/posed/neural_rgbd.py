"""Reads Neural RGB-D: rendered rooms with exact depth.

Files of a scene:

- `images/img<i>.png`;
- `depth/depth<i>.png`: rendered depth, 16 bits, millimetres, 0 = missing. If the folder is missing,
  `depth_filtered` is read;
- `focal.txt`: one number, pixels. The principal point is the image's centre;
- `poses.txt`: 4N x 4, camera_to_world with OpenGL's camera axes; row block i belongs to image i. If it is
  missing, `trainval_poses.txt` is read, which contains estimated poses. A pose of NaN means that
  tracking failed, and its frame is skipped.

Protocol (ours): groups of consecutive frames, after keeping every twentieth frame of the video.
"""

import pathlib

import numpy as np
from jaxtyping import Float64
from ml_collections import ConfigDict

from muskie_jax.data.posed.frames import (
    OPENGL,
    Frame,
    RGBDDataset,
    Sequence,
    build_sequence,
    invert_pose,
    is_tracked,
    pinhole_intrinsics,
)
from muskie_jax.data.posed.headers import image_size
from muskie_jax.data.posed.parsing import find_sequences, parsing
from muskie_jax.data.scan import natural_key
from muskie_jax.errors import UserError

FOCAL = EXPECTED_FILES = "focal.txt"


def read(root: pathlib.Path, settings: ConfigDict) -> RGBDDataset:
    """Returns all scenes of a folder.

    Raises:
      UserError: if a file is missing or cannot be parsed.
      BadImage: if the header of a scene's first image cannot be read; it defines the size.
    """
    scenes = find_sequences(root, lambda path: (path / FOCAL).is_file(), EXPECTED_FILES)
    return RGBDDataset(tuple(_sequence(name, folder, settings.every) for name, folder in scenes))


def _sequence(name: str, folder: pathlib.Path, every: int) -> Sequence:
    images = sorted((folder / "images").glob("img*.png"), key=lambda path: natural_key(path.name))
    if not images:
        raise UserError(f"{folder}: images/img0.png is missing")
    poses_path = _first_existing(folder, "poses.txt", "trainval_poses.txt")
    depth_folder = _first_existing(folder, "depth", "depth_filtered")
    poses = _read_poses(poses_path)
    size = image_size(images[0])
    with parsing(folder / FOCAL):
        focal = float((folder / FOCAL).read_text())
    intrinsics = pinhole_intrinsics(focal, focal, size[1] / 2, size[0] / 2)
    frames = []
    for image in images[::every]:
        with parsing(image):
            number = int(image.stem.removeprefix("img"))
        if number >= len(poses):
            raise UserError(f"{poses_path} has {len(poses)} poses, none for {image.name}")
        if not is_tracked(poses[number]):
            continue
        depth = depth_folder / f"depth{number}.png"
        world_to_camera = OPENGL @ invert_pose(poses[number], f"{poses_path}, pose {number}")
        frames.append(Frame(image.stem, number, image, depth, intrinsics, world_to_camera, size))
    return build_sequence(name, frames)


def _first_existing(folder: pathlib.Path, *names: str) -> pathlib.Path:
    found = [folder / name for name in names if (folder / name).exists()]
    if not found:
        raise UserError(f"{folder}: neither {' nor '.join(names)} exists")
    return found[0]


def _read_poses(path: pathlib.Path) -> Float64[np.ndarray, "N 4 4"]:
    """Reads all poses of a file, in which NaN may be written as -nan(ind)."""
    with parsing(path):
        words = path.read_text().split()
        numbers = [np.nan if "nan" in word.lower() else float(word) for word in words]
        return np.array(numbers).reshape(-1, 4, 4)
