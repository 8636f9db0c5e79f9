"""Reads NeRF's `transforms.json`, with depth or without.

The root is a folder with such a file, a folder of such folders, or the file itself. Instead of
`transforms.json`, a folder may contain `transforms_train.json`, `transforms_val.json` and
`transforms_test.json`, as NeRF's synthetic scenes do: they become one sequence.

Each object of `frames` has:

- `file_path`: the image, with or without extension;
- `depth_file_path`: a map of z-depth (see `muskie_jax.data.depth`). If no frame has one, the recording has
  no depth;
- `transform_matrix`: camera_to_world in metres, with OpenGL's camera axes.

Each frame, or the file for all frames, has `fl_x`, `fl_y`, `cx` and `cy` in pixels of an image of `w` x
`h`; or `camera_angle_x`, the horizontal field of view in radians. Defaults: `cx` and `cy` are the image's
centre, `fl_y` is `fl_x`, `w` and `h` are the image's own size.

The unit of depth, in metres per step, is the setting `depth_unit`; otherwise `depth_unit_scale_factor` or
`integer_depth_scale` of the file; otherwise a millimetre for integers, and a metre for floats.
"""

import math
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Float64
from ml_collections import ConfigDict

from muskie_jax.data.posed.distortion import COEFFICIENTS, PINHOLES, check_distortion
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

TRANSFORMS = "transforms.json"
SPLITS = ("transforms_train.json", "transforms_val.json", "transforms_test.json")
EXPECTED_FILES = f"{TRANSFORMS} or {SPLITS[0]}"
UNIT_KEYS = ("depth_unit_scale_factor", "integer_depth_scale")
REMEDY = (
    "undistort the images, for example with colmap image_undistorter --image_path images --input_path "
    "colmap/sparse/0 --output_path undistorted, and read that folder as a COLMAP model"
)


def read(root: pathlib.Path, settings: ConfigDict) -> RGBDDataset:
    """Returns all sequences of a folder, or the only one if the root is a file.

    Raises:
      UserError: if a file is missing or cannot be parsed.
      BadImage: if the file does not give an image's size, and the image cannot be read.
    """
    if root.is_file() and root.suffix == ".json":
        recordings = [(root.stem, [root])]
    else:
        folders = find_sequences(root, lambda path: bool(_transforms_files(path)), EXPECTED_FILES)
        recordings = [(name, _transforms_files(folder)) for name, folder in folders]
    sequences, notes = leave_out_missing(_sequence(name, files, settings) for name, files in recordings)
    return RGBDDataset(sequences, notes=notes)


def _transforms_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns `transforms.json`, or the files of the splits if there is none; they show one scene."""
    files = [path for path in (folder / TRANSFORMS, *(folder / name for name in SPLITS)) if path.is_file()]
    return files[:1] if (folder / TRANSFORMS).is_file() else files


def _sequence(name: str, files: list[pathlib.Path], settings: ConfigDict) -> Sequence:
    entries = []  # per frame: its file, its values merged with those for all frames, the unit of depth
    for file in files:
        contents = read_json(file)
        with parsing(file):
            units = [float(contents[key]) for key in UNIT_KEYS if key in contents]
            unit = settings.depth_unit or (units[0] if units else 0.0)
            entries += [(file, contents | frame, unit) for frame in contents["frames"]]
            names = names_from_paths([str(values["file_path"]) for _, values, _ in entries])
    frames = []
    for number, (frame_name, (file, values, unit)) in enumerate(zip(names, entries)):
        with parsing(file):
            frames.append(_frame(file, frame_name, number, values, unit))
    return build_sequence(name, frames, settings.every)


def _frame(file: pathlib.Path, name: str, number: int, values: dict[str, Any], unit: float) -> Frame:
    """Returns a frame, given its values merged with the values for all frames."""
    where = f"{file}, {values['file_path']}"
    image = _find_image(file.parent / values["file_path"])
    size = _size(values, image)
    # Without an image, the intrinsics may be unknown; `leave_out_missing` then removes the frame.
    intrinsics = _intrinsics(values, size, where) if size else np.eye(3)
    pose = np.array(values["transform_matrix"], np.float64).reshape(4, 4)
    world_to_camera = OPENGL @ invert_pose(pose, where)
    depth = file.parent / values["depth_file_path"] if "depth_file_path" in values else None
    return Frame(name, number, image, depth, intrinsics, world_to_camera, size, unit)


def _size(values: dict[str, Any], image: pathlib.Path) -> tuple[int, int] | None:
    """Returns the (height, width) that the intrinsics refer to, or None without values and image."""
    if "h" in values and "w" in values:
        return int(values["h"]), int(values["w"])
    return image_size(image) if image.is_file() else None


def _intrinsics(values: dict[str, Any], size: tuple[int, int], where: str) -> Float64[np.ndarray, "3 3"]:
    height, width = size
    if "fl_x" in values:
        focal = float(values["fl_x"])
    elif "camera_angle_x" in values:
        focal = width / (2 * math.tan(float(values["camera_angle_x"]) / 2))
    else:
        raise UserError(f"{where}: neither fl_x nor camera_angle_x is given")
    centre = float(values.get("cx", width / 2)), float(values.get("cy", height / 2))
    intrinsics = pinhole_intrinsics(focal, float(values.get("fl_y", focal)), *centre)
    model = values.get("camera_model", "OPENCV")
    if values.get("k4"):  # the distortion is not a polynomial
        model = "FULL_OPENCV"
    elif model in PINHOLES and any(values.get(name) for name in COEFFICIENTS):
        model = "OPENCV"
    check_distortion(model, values, intrinsics, size, where, REMEDY)
    return intrinsics


def _find_image(path: pathlib.Path) -> pathlib.Path:
    """Returns the image of a `file_path`. If the path has no extension, finds one that exists."""
    candidates = (path.with_name(path.name + extension) for extension in EXTENSIONS)
    return path if path.is_file() else next(filter(pathlib.Path.is_file, candidates), path)
