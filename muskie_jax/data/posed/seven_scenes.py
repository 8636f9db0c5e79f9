"""Reads 7-Scenes: `<scene>/seq-XX/frame-XXXXXX.{color.png|color.jpg, depth.png, pose.txt}`.

The root is the dataset, one scene, or one sequence. Poses are camera_to_world; depth is in millimetres, and
missing where it is 65535 or 0. If a scene has a `TestSplit.txt`, only the sequences it lists are read.

Depth belongs to Kinect's depth camera. It is 2.5 cm from the colour camera and has another focal length
(585 pixels; the colour camera's is about 525). Without registration, depth is off by up to 40 pixels at the
image border. So depth is registered to the colour camera while it is read. If several points fall into a
pixel, the nearest is kept. The calibration was measured on another Kinect. "On the Limits of Pseudo Ground
Truth in Visual Camera Re-localisation" (Brachmann et al. 2021) and much later work use it too. Depth that
is already registered, `frame-XXXXXX.depth.proj.png`, is read instead where it exists.

Poses were found by tracking depth, but are used for the colour camera, as is common. Errors of several
pixels remain, so prefer wide thresholds on this dataset.

Protocol (ours): groups of consecutive frames, after keeping every twentieth frame of the video.
"""

import pathlib
import re

import numpy as np
from jaxtyping import Float32
from ml_collections import ConfigDict

from muskie_jax.data.depth import DEPTH_UNIT, read_depth
from muskie_jax.data.images import read_file
from muskie_jax.data.posed.frames import (
    Frame,
    RGBDDataset,
    Sequence,
    build_sequence,
    invert_pose,
    pinhole_intrinsics,
)
from muskie_jax.data.posed.parsing import WrongRoot, parsing, read_matrix, subfolders
from muskie_jax.errors import UserError

EXPECTED_FILES = "<scene>/seq-XX/frame-XXXXXX.color.png"
COLOUR_INTRINSICS = pinhole_intrinsics(525.0, 525.0, 320.0, 240.0)
DEPTH_INTRINSICS = pinhole_intrinsics(585.0, 585.0, 320.0, 240.0)
SIZE = (480, 640)  # (height, width) of colour and depth
# Maps the axes of the depth camera to the axes of the colour camera, metres
# (projet.liris.cnrs.fr/voir/activities-dataset/kinect-calibration.html).
DEPTH_TO_COLOUR = np.array([
    [0.99996518, 0.00267651, -0.00790410, -0.02555894],
    [-0.00274093, 0.99996303, -0.00815045, 0.00010110],
    [0.00788199, 0.00817183, 0.99993555, 0.00203183],
    [0.0, 0.0, 0.0, 1.0],
])  # fmt: skip
MISSING = 65535
SPLIT = "TestSplit.txt"


def read(root: pathlib.Path, settings: ConfigDict) -> RGBDDataset:
    """Returns the test sequences below a folder; raises UserError."""
    folders = _find_sequences(root)
    if not folders:
        raise WrongRoot(root, EXPECTED_FILES)
    sequences = tuple(_sequence(name, folder, settings.every) for name, folder in folders)
    return RGBDDataset(sequences, read_registered_depth)


def _find_sequences(root: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
    """Returns names and folders of the test sequences of a dataset, a scene, or a sequence."""
    if _colour_images(root):
        return [(root.resolve().name, root)]
    is_scene = any(map(_colour_images, subfolders(root)))
    scenes = [root] if is_scene else subfolders(root)
    return [
        (f"{scene.resolve().name}/{folder.name}", folder)
        for scene in scenes
        for folder in _test_sequences(scene)
    ]


def _test_sequences(scene: pathlib.Path) -> list[pathlib.Path]:
    sequences = [folder for folder in subfolders(scene) if _colour_images(folder)]
    split = scene / SPLIT
    if not (sequences and split.is_file()):
        return sequences
    with parsing(split):
        listed = [int(number) for number in re.findall(r"\d+", split.read_text())]
    missing = [number for number in listed if scene / f"seq-{number:02d}" not in sequences]
    if missing:
        raise UserError(f"{split} lists a sequence that does not exist: seq-{missing[0]:02d}")
    return [scene / f"seq-{number:02d}" for number in listed]


def _colour_images(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(path for kind in ("png", "jpg") for path in folder.glob(f"frame-*.color.{kind}"))


def _sequence(name: str, folder: pathlib.Path, every: int) -> Sequence:
    frames = []
    for image in _colour_images(folder)[::every]:
        stem = image.name.partition(".")[0]
        with parsing(image):
            number = int(stem.removeprefix("frame-"))
        registered, pose = folder / f"{stem}.depth.proj.png", folder / f"{stem}.pose.txt"
        depth = registered if registered.is_file() else folder / f"{stem}.depth.png"
        world_to_camera = invert_pose(read_matrix(pose), str(pose))
        frames.append(
            Frame(f"{number:06d}", number, image, depth, COLOUR_INTRINSICS, world_to_camera, SIZE)
        )
    return build_sequence(name, frames)


def read_registered_depth(path: pathlib.Path, unit: float = 0) -> Float32[np.ndarray, "H W"]:
    """Returns depth as seen by the colour camera, in metres; raises `BadImage`. `unit` is ignored."""
    del unit
    values = read_depth(read_file(path), str(path))
    depth = np.where(values == MISSING, 0, values).astype(np.float32) * np.float32(DEPTH_UNIT)
    return depth if path.name.endswith(".proj.png") else register(depth)


def register(depth: Float32[np.ndarray, "H W"]) -> Float32[np.ndarray, "H W"]:
    """Warps a depth map of the depth camera into the colour camera; each pixel keeps its nearest point."""
    height, width = depth.shape
    rows, columns = np.nonzero(depth)
    to_size = np.diag([width / SIZE[1], height / SIZE[0], 1.0])
    z = depth[rows, columns].astype(np.float64)
    pixels = np.stack([columns + 0.5, rows + 0.5, np.ones_like(z)])
    rays = np.linalg.inv(to_size @ DEPTH_INTRINSICS) @ pixels
    points = DEPTH_TO_COLOUR[:3, :3] @ (rays * z) + DEPTH_TO_COLOUR[:3, 3:]
    x, y, z = to_size @ COLOUR_INTRINSICS @ points
    in_front = points[2] > 0
    x, y, z = (axis[in_front] for axis in (x / points[2], y / points[2], z))
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    flat_index = y[inside].astype(int) * width + x[inside].astype(int)
    nearest = np.full(height * width, np.inf)
    np.minimum.at(nearest, flat_index, z[inside])
    return np.where(np.isfinite(nearest), nearest, 0).reshape(height, width).astype(np.float32)
