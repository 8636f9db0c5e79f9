"""Reads the layout of TUM RGB-D: a folder with these files, or a folder of such folders.

- `rgb.txt` and `depth.txt`: lines "timestamp path", seconds, paths relative to the folder. Depth maps are
  16-bit PNGs of z-depth in steps of 1/5000 m (setting: `depth_unit`), registered to the colour camera;
- `groundtruth.txt`: lines "timestamp tx ty tz qx qy qz qw", camera_to_world in metres.

A frame is an image with the nearest depth map and the nearest pose in time, each at most 0.02 s away. Other
images are left out. If there is no `depth.txt`, the recording has no depth.

Intrinsics are the setting `intrinsics`, or else those that the dataset's authors publish for the camera in
the folder's name, such as `rgbd_dataset_freiburg1_desk` or `fr1_desk`. Lens distortion of fr1 and fr2 is
ignored, since depth was registered without it.
"""

import pathlib
import re

import numpy as np
from jaxtyping import Float64, Int
from ml_collections import ConfigDict

from muskie_jax.data.posed.frames import (
    Frame,
    RGBDDataset,
    Sequence,
    build_sequence,
    invert_pose,
    pinhole_intrinsics,
    rotation_from_quaternion,
)
from muskie_jax.data.posed.missing import leave_out_missing
from muskie_jax.data.posed.parsing import find_sequences, parsing
from muskie_jax.errors import UserError

EXPECTED_FILES = "rgb.txt and groundtruth.txt"
DEPTH_UNIT = 1 / 5000
MAX_GAP = 0.02  # seconds
SIZE = (480, 640)  # (height, width) that the published intrinsics refer to
CAMERAS = {  # fx, fy, cx, cy
    "1": (517.306408, 516.469215, 318.643040, 255.313989),
    "2": (520.908620, 521.007327, 325.141442, 249.701764),
    "3": (535.4, 539.2, 320.1, 247.6),
}
CAMERA_NAME = re.compile(r"(?<![a-z])(?:freiburg|fr)[ _-]?([123])(?!\d)", re.IGNORECASE)


def read(root: pathlib.Path, settings: ConfigDict) -> RGBDDataset:
    """Returns all sequences of a folder; raises UserError."""
    is_sequence = lambda path: (path / "rgb.txt").is_file() and (path / "groundtruth.txt").is_file()
    folders = find_sequences(root, is_sequence, EXPECTED_FILES)
    found = [_sequence(name, folder, settings) for name, folder in folders]
    sequences, notes = leave_out_missing(sequence for sequence, _ in found)
    return RGBDDataset(sequences, notes=(*(note for _, note in found if note), *notes))


def _sequence(name: str, folder: pathlib.Path, settings: ConfigDict) -> tuple[Sequence, str]:
    """Returns a sequence, and a note about images that were left out, or an empty one."""
    times, images = _read_files(folder / "rgb.txt")
    pose_times, poses = _read_poses(folder / "groundtruth.txt")
    has_depth = (folder / "depth.txt").is_file()
    depth_times, depths = _read_files(folder / "depth.txt") if has_depth else (times, images)
    nearest_pose, nearest_depth = _nearest(times, pose_times), _nearest(times, depth_times)
    intrinsics = pinhole_intrinsics(*(settings.intrinsics or _published_intrinsics(folder)))
    size = None if settings.intrinsics else SIZE
    frames, left_out = [], 0
    for number in range(0, len(images), settings.every):
        pose, depth = nearest_pose[number], nearest_depth[number]
        if pose < 0 or depth < 0:
            left_out += 1
            continue
        frames.append(
            Frame(
                pathlib.PurePosixPath(images[number]).stem,
                number,
                folder / images[number],
                folder / depths[depth] if has_depth else None,
                intrinsics,
                invert_pose(poses[pose], f"{folder / 'groundtruth.txt'}, pose {pose}"),
                size,
                settings.depth_unit or DEPTH_UNIT,
            )
        )
    note = (
        f"{folder}: left out {left_out} of {left_out + len(frames)} images, which have no depth or pose "
        f"within {MAX_GAP} s"
    )
    return build_sequence(name, frames), note if left_out else ""


def _nearest(times: Float64[np.ndarray, " n"], others: Float64[np.ndarray, " m"]) -> Int[np.ndarray, " n"]:
    """Returns the index of the nearest other time for each time, or -1 if it is over MAX_GAP away."""
    order = np.argsort(others, kind="stable")
    before_first, after_last = [-np.inf], [np.inf]
    ordered = np.concatenate([before_first, others[order], after_last])
    index = np.concatenate([[-1], order, [-1]])
    right = np.searchsorted(ordered, times)
    nearest = np.where(times - ordered[right - 1] <= ordered[right] - times, right - 1, right)
    return np.where(np.abs(ordered[nearest] - times) <= MAX_GAP, index[nearest], -1)


def _published_intrinsics(folder: pathlib.Path) -> tuple[float, float, float, float]:
    camera = CAMERA_NAME.search(folder.resolve().name)
    if not camera:
        raise UserError(
            f"{folder}: the intrinsics are unknown, since its name contains none of freiburg1, freiburg2, "
            "freiburg3, fr1, fr2, fr3: set the dataset's intrinsics to (fx, fy, cx, cy) in pixels, such as "
            "(525.0, 525.0, 319.5, 239.5)"
        )
    return CAMERAS[camera[1]]


def _read_lines(path: pathlib.Path) -> list[str]:
    lines = map(str.strip, path.read_text().splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _read_files(path: pathlib.Path) -> tuple[Float64[np.ndarray, " n"], list[str]]:
    """Returns the timestamps and the paths of a list of files; raises UserError."""
    with parsing(path):
        rows = [line.split(maxsplit=1) for line in _read_lines(path)]
        return np.array([float(time) for time, _ in rows]), [file for _, file in rows]


def _read_poses(path: pathlib.Path) -> tuple[Float64[np.ndarray, " n"], Float64[np.ndarray, "n 4 4"]]:
    """Returns the timestamps and camera_to_world of a trajectory; raises UserError."""
    with parsing(path):
        numbers = np.array([line.split() for line in _read_lines(path)], np.float64).reshape(-1, 8)
    poses = np.tile(np.eye(4), (len(numbers), 1, 1))
    for pose, (_, *position, x, y, z, w) in zip(poses, numbers):
        pose[:3, :3] = rotation_from_quaternion(np.array([w, x, y, z]))
        pose[:3, 3] = position
    return numbers[:, 0], poses
