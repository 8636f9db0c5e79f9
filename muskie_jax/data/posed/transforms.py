"""Reads NeRF's `transforms.json` with depth.

The root is a folder with such a file, a folder of such folders, or the file itself.

Each object of `frames` has:

- `file_path`: the image, with or without extension;
- `depth_file_path`: a 16-bit PNG of z-depth. If no frame has one, the recording has no depth;
- `transform_matrix`: camera_to_world in metres, with OpenGL's camera axes.

Each frame, or the file for all frames, has `fl_x`, `fl_y`, `cx` and `cy` in pixels of an image of `w` x
`h`; or `camera_angle_x`, the horizontal field of view in radians. Defaults: `cx` and `cy` are the image's
centre, `fl_y` is `fl_x`, `w` and `h` are the image's own size.

The unit of depth, in metres per step, is the setting `depth_unit`; otherwise `depth_unit_scale_factor` or
`integer_depth_scale` of the file; otherwise a millimetre.
"""

import math
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float64
from ml_collections import ConfigDict

from muskie_jax.data.depth import DEPTH_UNIT
from muskie_jax.data.posed.frames import (
    OPENGL,
    Frame,
    RGBDDataset,
    Sequence,
    build_sequence,
    invert_pose,
    pinhole_intrinsics,
)
from muskie_jax.data.posed.headers import image_size
from muskie_jax.data.posed.missing import leave_out_missing
from muskie_jax.data.posed.parsing import find_sequences, names_from_paths, parsing, read_json
from muskie_jax.data.scan import EXTENSIONS
from muskie_jax.errors import UserError

EXPECTED_FILES = TRANSFORMS = "transforms.json"
UNITS = ("depth_unit_scale_factor", "integer_depth_scale")
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")
PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV")  # OPENCV only with zero distortion


def read(root: pathlib.Path, settings: ConfigDict) -> RGBDDataset:
    """Returns all sequences of a folder, or the only one if the root is a file.

    Raises:
      UserError: if a file is missing or cannot be parsed.
      BadImage: if the file does not give an image's size, and the image cannot be read.
    """
    if root.is_file() and root.suffix == ".json":
        files = [(root.stem, root)]
    else:
        folders = find_sequences(root, lambda path: (path / TRANSFORMS).is_file(), EXPECTED_FILES)
        files = [(name, folder / TRANSFORMS) for name, folder in folders]
    sequences, notes = leave_out_missing(_sequence(name, file, settings) for name, file in files)
    return RGBDDataset(sequences, notes=notes)


def _sequence(name: str, file: pathlib.Path, settings: ConfigDict) -> Sequence:
    contents = read_json(file)
    with parsing(file):
        units = [float(contents[key]) for key in UNITS if key in contents]
        unit = settings.depth_unit or (units[0] if units else DEPTH_UNIT)
        names = names_from_paths([str(frame["file_path"]) for frame in contents["frames"]])
        frames = [
            _frame(file, frame_name, number, contents | frame, unit)
            for number, (frame_name, frame) in enumerate(zip(names, contents["frames"]))
        ]
    return build_sequence(name, frames, settings.every)


def _frame(file: pathlib.Path, name: str, number: int, values: dict[str, Any], unit: float) -> Frame:
    """Returns a frame, given its values merged with the values for all frames."""
    where = f"{file}, {values['file_path']}"
    _check_pinhole(values, where)
    image = _find_image(file.parent / values["file_path"])
    size = (int(values["h"]), int(values["w"])) if "h" in values and "w" in values else image_size(image)
    pose = np.array(values["transform_matrix"], np.float64).reshape(4, 4)
    world_to_camera = OPENGL @ invert_pose(pose, where)
    depth = file.parent / values["depth_file_path"] if "depth_file_path" in values else None
    return Frame(name, number, image, depth, _intrinsics(values, size, where), world_to_camera, size, unit)


def _check_pinhole(values: dict[str, Any], where: str) -> None:
    model = values.get("camera_model", PINHOLES[0])
    distortion = [f"{key}={values[key]}" for key in DISTORTION if values.get(key)]
    if distortion or model not in PINHOLES:
        problem = distortion[0] if distortion else model
        raise UserError(f"{where}: the camera is not a pinhole ({problem}): undistort the images first")


def _intrinsics(values: dict[str, Any], size: tuple[int, int], where: str) -> Float64[np.ndarray, "3 3"]:
    height, width = size
    if "fl_x" in values:
        focal = float(values["fl_x"])
    elif "camera_angle_x" in values:
        focal = width / (2 * math.tan(float(values["camera_angle_x"]) / 2))
    else:
        raise UserError(f"{where}: neither fl_x nor camera_angle_x is given")
    centre = float(values.get("cx", width / 2)), float(values.get("cy", height / 2))
    return pinhole_intrinsics(focal, float(values.get("fl_y", focal)), *centre)


def _find_image(path: pathlib.Path) -> pathlib.Path:
    """Returns the image of a `file_path`. If the path has no extension, finds one that exists."""
    candidates = (path.with_name(path.name + extension) for extension in EXTENSIONS)
    return path if path.is_file() else next(filter(pathlib.Path.is_file, candidates), path)
