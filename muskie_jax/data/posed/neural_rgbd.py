"""Neural RGB-D: rendered rooms, exact.

`<scene>/images/img<i>.png`, `depth/depth<i>.png` (as rendered; 16 bits, millimetres, 0 = missing; where
that folder is not there, `depth_filtered`), `focal.txt` (one number, pixels) and `poses.txt` (4N x 4,
camera-to-world with OpenGL's camera axes; without it `trainval_poses.txt`, which were estimated). Row
block i belongs to image i; where it is not a number, tracking failed, and the frame is left out. The centre
of the image is that of its middle.

Protocol (ours): consecutive frames of every twentieth of the video.
"""

import pathlib

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.data.posed.frames import (
    OPENGL,
    Frame,
    Recordings,
    Sequence,
    inverse_pose,
    pinhole,
    sequence_folders,
    sequence_of,
    understood,
    was_tracked,
)
from muskie_jax.data.posed.headers import image_size
from muskie_jax.data.scan import natural_key
from muskie_jax.errors import UserError

IN_ROOT = "focal.txt"


def read(root: pathlib.Path, settings: ConfigDict) -> Recordings:
    """All scenes of a folder; raises UserError, or `BadImage` for an image whose size is needed."""
    scenes = sequence_folders(root, lambda path: (path / IN_ROOT).is_file(), IN_ROOT)
    return Recordings(tuple(_scene(*scene, settings.every) for scene in scenes))


def _scene(name: str, folder: pathlib.Path, every: int) -> Sequence:
    images = sorted((folder / "images").glob("img*.png"), key=lambda path: natural_key(path.name))
    if not images:
        raise UserError(f"{folder}: there is no images/img0.png in it")
    file = _first(folder, "poses.txt", "trainval_poses.txt")
    depths = _first(folder, "depth", "depth_filtered")
    poses = _poses(file)
    size = image_size(images[0])
    with understood(folder / "focal.txt"):
        focal = float((folder / "focal.txt").read_text())
    intrinsics = pinhole(focal, focal, size[1] / 2, size[0] / 2)
    frames = []
    for image in images[::every]:
        with understood(image):
            number = int(image.stem.removeprefix("img"))
        if number >= len(poses):
            raise UserError(f"{file} has {len(poses)} poses, none for {image.name}")
        if not was_tracked(poses[number]):
            continue
        depth = depths / f"depth{number}.png"
        pose = inverse_pose(poses[number], f"{file}, pose {number}")
        frames.append(Frame(image.stem, number, image, depth, intrinsics, OPENGL @ pose, size))
    return sequence_of(name, frames)


def _first(folder: pathlib.Path, *names: str) -> pathlib.Path:
    found = [folder / name for name in names if (folder / name).exists()]
    if not found:
        raise UserError(f"{folder}: there is neither {' nor '.join(names)} in it")
    return found[0]


def _poses(path: pathlib.Path) -> np.ndarray:
    """float64 (N, 4, 4); what is not a number may be written as -nan(ind)."""
    with understood(path):
        words = path.read_text().split()
        numbers = [np.nan if "nan" in word.lower() else float(word) for word in words]
        return np.array(numbers).reshape(-1, 4, 4)
