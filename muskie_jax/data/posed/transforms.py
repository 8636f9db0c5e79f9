"""NeRF's `transforms.json`, with depth: a folder with one, a folder of such folders, or the file itself.

`frames[]` with `file_path` (with or without its extension), `depth_file_path` (a 16-bit PNG of z-depth) and
`transform_matrix` (camera-to-world, OpenGL's camera axes), and, for a frame or for all, `fl_x`, `fl_y`,
`cx`, `cy` in pixels of an image of `w` x `h`, or `camera_angle_x`, the horizontal field of view in radians.
What is not said of the centre is the image's centre, of `fl_y` is `fl_x`, of the size is the image's own.

The unit of depth, in metres per step, is `depth_unit` of the settings; else `depth_unit_scale_factor` or
`integer_depth_scale` of the file; else millimetres. Poses must be in metres.
"""

import math
import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.data.depth import DEPTH_UNIT
from muskie_jax.data.posed.frames import (
    OPENGL,
    Frame,
    Recordings,
    Sequence,
    inverse_pose,
    pinhole,
    read_json,
    sequence_folders,
    sequence_of,
    short_names,
    understood,
)
from muskie_jax.data.posed.headers import image_size
from muskie_jax.data.scan import EXTENSIONS
from muskie_jax.errors import UserError

IN_ROOT = TRANSFORMS = "transforms.json"
UNITS = ("depth_unit_scale_factor", "integer_depth_scale")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV")  # the last where nothing is distorted


def read(root: pathlib.Path, settings: ConfigDict) -> Recordings:
    """All sequences of a folder; raises UserError, or `BadImage` for an image whose size is needed."""
    if root.is_file() and root.suffix == ".json":
        files = [(root.stem, root)]
    else:
        folders = sequence_folders(root, lambda path: (path / TRANSFORMS).is_file(), IN_ROOT)
        files = [(name, folder / TRANSFORMS) for name, folder in folders]
    return Recordings(tuple(_sequence(name, file, settings) for name, file in files))


def _sequence(name: str, file: pathlib.Path, settings: ConfigDict) -> Sequence:
    whole = read_json(file)
    with understood(file):
        unit = settings.depth_unit or next((float(whole[key]) for key in UNITS if key in whole), DEPTH_UNIT)
        names = short_names([str(frame["file_path"]) for frame in whole["frames"]])
        frames = [
            _frame(file, name, number, whole | frame, unit)
            for number, (name, frame) in enumerate(zip(names, whole["frames"]))
        ]
    return sequence_of(name, frames, settings.every)


def _frame(file: pathlib.Path, name: str, number: int, known: dict[str, Any], unit: float) -> Frame:
    """A frame, from what is said of it and of all."""
    where = f"{file}, {known['file_path']}"
    if "depth_file_path" not in known:
        raise UserError(f"{where}: no depth_file_path: correspondence is measured where depth is known")
    distorted = [key for key in DISTORTION if known.get(key)]
    if distorted or known.get("camera_model", PINHOLES[0]) not in PINHOLES:
        what = f"{distorted[0]}={known[distorted[0]]}" if distorted else known["camera_model"]
        raise UserError(f"{where}: the camera is no pinhole ({what}): undistort the images first")
    image = _image(file.parent / known["file_path"])
    size = (int(known["h"]), int(known["w"])) if "h" in known and "w" in known else image_size(image)
    pose = np.array(known["transform_matrix"], np.float64).reshape(4, 4)
    world_to_camera = OPENGL @ inverse_pose(pose, where)
    depth = file.parent / known["depth_file_path"]
    return Frame(name, number, image, depth, _intrinsics(known, size, where), world_to_camera, size, unit)


def _intrinsics(known: dict[str, Any], size: tuple[int, int], where: str) -> np.ndarray:
    height, width = size
    if "fl_x" in known:
        focal = float(known["fl_x"])
    elif "camera_angle_x" in known:
        focal = width / (2 * math.tan(float(known["camera_angle_x"]) / 2))
    else:
        raise UserError(f"{where}: neither fl_x nor camera_angle_x is known")
    centre = float(known.get("cx", width / 2)), float(known.get("cy", height / 2))
    return pinhole(focal, float(known.get("fl_y", focal)), *centre)


def _image(path: pathlib.Path) -> pathlib.Path:
    found = (path.with_name(path.name + extension) for extension in EXTENSIONS)
    return path if path.is_file() else next(filter(pathlib.Path.is_file, found), path)
