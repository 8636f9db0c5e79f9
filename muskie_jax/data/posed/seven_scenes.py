"""7-Scenes: `<scene>/seq-XX/frame-XXXXXX.{color.png|color.jpg, depth.png, pose.txt}`.

Poses are camera-to-world, depth is in millimetres, 65535 or 0 where it is missing. Of a scene with a
`TestSplit.txt` only the sequences that it lists are read. The root may be the dataset, a scene, or one
sequence.

Kinect's depth is that of another camera, 2.5 cm beside the colour camera and with another focal length
(585 pixels, colour about 525). Taken as it is, it is off by up to 40 pixels at the image's border. What is
common: a calibration of another Kinect, used by "On the Limits of Pseudo Ground Truth in Visual Camera
Re-localisation" (Brachmann et al. 2021) and much of what came after it, moves it into the colour camera,
and that is done here while it is read: of the points that fall into a pixel the nearest is kept. Where
somebody has done so before and kept `frame-XXXXXX.depth.proj.png`, that file is read in its stead. Poses,
although found by tracking depth, are then taken for those of the colour camera, again as is common. What
remains is an error of several pixels: judge by wide thresholds.

Protocol (ours): consecutive frames of every twentieth of the video.
"""

import pathlib
import re

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.data.depth import DEPTH_UNIT, read_depth
from muskie_jax.data.images import read_file
from muskie_jax.data.posed.frames import (
    Frame,
    Recordings,
    Sequence,
    WrongRoot,
    inverse_pose,
    pinhole,
    read_matrix,
    sequence_of,
    subfolders,
    understood,
)
from muskie_jax.errors import UserError

IN_ROOT = "<scene>/seq-XX/frame-XXXXXX.color.png"
COLOUR = pinhole(525.0, 525.0, 320.0, 240.0)
DEPTH = pinhole(585.0, 585.0, 320.0, 240.0)
SIZE = (480, 640)  # of both
# From the axes of the depth camera to those of the colour camera, metres
# (projet.liris.cnrs.fr/voir/activities-dataset/kinect-calibration.html).
DEPTH_TO_COLOUR = np.array([
    [0.99996518, 0.00267651, -0.00790410, -0.02555894],
    [-0.00274093, 0.99996303, -0.00815045, 0.00010110],
    [0.00788199, 0.00817183, 0.99993555, 0.00203183],
    [0.0, 0.0, 0.0, 1.0],
])  # fmt: skip
MISSING = 65535
SPLIT = "TestSplit.txt"


def read(root: pathlib.Path, settings: ConfigDict) -> Recordings:
    """The test sequences below a folder; raises UserError."""
    if _colours(root):
        found = [(root.resolve().name, root)]
    else:
        places = [root] if any(map(_colours, subfolders(root))) else subfolders(root)
        found = [(f"{p.resolve().name}/{seq.name}", seq) for p in places for seq in _evaluated(p)]
    if not found:
        raise WrongRoot(root, IN_ROOT)
    return Recordings(tuple(_sequence(*one, settings.every) for one in found), registered_depth)


def _evaluated(scene: pathlib.Path) -> list[pathlib.Path]:
    sequences = [folder for folder in subfolders(scene) if _colours(folder)]
    split = scene / SPLIT
    if not (sequences and split.is_file()):
        return sequences
    with understood(split):
        listed = [int(number) for number in re.findall(r"\d+", split.read_text())]
    missing = [number for number in listed if scene / f"seq-{number:02d}" not in sequences]
    if missing:
        raise UserError(f"{split} lists a sequence that is not there: seq-{missing[0]:02d}")
    return [scene / f"seq-{number:02d}" for number in listed]


def _colours(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for kind in ("png", "jpg") for path in folder.glob(f"frame-*.color.{kind}"))


def _sequence(name: str, folder: pathlib.Path, every: int) -> Sequence:
    frames = []
    for image in _colours(folder)[::every]:
        stem = image.name.partition(".")[0]
        with understood(image):
            number = int(stem.removeprefix("frame-"))
        registered, pose = folder / f"{stem}.depth.proj.png", folder / f"{stem}.pose.txt"
        depth = registered if registered.is_file() else folder / f"{stem}.depth.png"
        world_to_camera = inverse_pose(read_matrix(pose), str(pose))
        frames.append(Frame(f"{number:06d}", number, image, depth, COLOUR, world_to_camera, SIZE))
    return sequence_of(name, frames)


def registered_depth(frame: Frame) -> np.ndarray:
    """Depth as the colour camera has it, metres, float32 (h, w); raises `BadImage`."""
    steps = read_depth(read_file(frame.depth), str(frame.depth))
    depth = np.where(steps == MISSING, 0, steps).astype(np.float32) * np.float32(DEPTH_UNIT)
    return depth if frame.depth.name.endswith(".proj.png") else register(depth)


def register(depth: np.ndarray) -> np.ndarray:
    """A depth map of the depth camera, (h, w), as the colour camera would have seen it."""
    height, width = depth.shape
    rows, columns = np.nonzero(depth)
    to_size = np.diag([width / SIZE[1], height / SIZE[0], 1.0])
    z = depth[rows, columns].astype(np.float64)
    rays = np.linalg.inv(to_size @ DEPTH) @ np.stack([columns + 0.5, rows + 0.5, np.ones_like(z)])
    points = DEPTH_TO_COLOUR[:3, :3] @ (rays * z) + DEPTH_TO_COLOUR[:3, 3:]
    x, y, z = to_size @ COLOUR @ points
    ahead = points[2] > 0
    x, y, z = (axis[ahead] for axis in (x / points[2], y / points[2], z))
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    place = y[inside].astype(int) * width + x[inside].astype(int)
    nearest = np.full(height * width, np.inf)
    np.minimum.at(nearest, place, z[inside])
    return np.where(np.isfinite(nearest), nearest, 0).reshape(height, width).astype(np.float32)
