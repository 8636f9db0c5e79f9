"""COLMAP models with dense depth: a folder with one, or a folder of such folders.

`sparse/` or `sparse/0/` (cameras, images, points; text or binary), `images/`, and for each image either
`stereo/depth_maps/<name>.geometric.bin`, as COLMAP's dense stereo writes it, or `depth/<name>.png`
or `depth/<stem>.png`, a 16-bit PNG of z-depth (`depth_unit` metres per step, by default a millimetre).
Images must be undistorted (`colmap image_undistorter`). A model is in metres only if it was given them;
else what is called metres here is the model's unit.

Models are read with pycolmap, which is what the extra `colmap` installs.
"""

import pathlib
import re
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.data.depth import DEPTH_UNIT, load_depth
from muskie_jax.data.images import MAX_PIXELS, BadImage, read_file
from muskie_jax.data.posed.frames import (
    Frame,
    Recordings,
    Sequence,
    pinhole,
    sequence_folders,
    sequence_of,
    short_names,
)
from muskie_jax.data.posed.headers import depth_size
from muskie_jax.data.scan import natural_key
from muskie_jax.errors import UserError, first_line

IN_ROOT = "sparse/cameras.bin, sparse/0/cameras.bin or their .txt"
PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")
DENSE = ".geometric.bin"
HEADER = re.compile(rb"(\d{1,6})&(\d{1,6})&1&")  # of a dense depth map: width, height, one channel
LONGEST_HEADER = 16  # bytes


def read(root: pathlib.Path, settings: ConfigDict) -> Recordings:
    """All models of a folder; raises UserError."""
    models = sequence_folders(root, lambda path: _model(path) is not None, IN_ROOT)
    pycolmap = _pycolmap()
    unit = settings.depth_unit or DEPTH_UNIT
    sequences = [_sequence(pycolmap, *model, unit, settings.every) for model in models]
    return Recordings(tuple(sequences), dense_depth, dense_size, any_depth_size=True)


def _pycolmap() -> Any:
    try:
        import pycolmap
    except ImportError as error:
        raise UserError(
            'COLMAP models need pycolmap: python -m pip install -e ".[colmap]" -c constraints.txt gets it'
        ) from error
    return pycolmap


def _model(folder: pathlib.Path) -> pathlib.Path | None:
    for place in (folder / "sparse", folder / "sparse" / "0"):
        if any((place / f"cameras.{kind}").is_file() for kind in ("bin", "txt")):
            return place
    return None


def _sequence(pycolmap: Any, name: str, folder: pathlib.Path, unit: float, every: int) -> Sequence:
    path = _model(folder)
    try:
        model = pycolmap.Reconstruction(str(path))
        images = [image for image in model.images.values() if image.has_pose]
    except Exception as error:  # what it raises is of many kinds
        raise UserError(f"{path}: pycolmap cannot read the model: {first_line(error)}") from error
    images.sort(key=lambda image: natural_key(image.name))
    names = short_names([image.name for image in images])
    frames = [
        _frame(folder, own, number, image, model.cameras[image.camera_id], unit)
        for number, (own, image) in enumerate(zip(names, images))
    ]
    return sequence_of(name, frames, every)


def _frame(folder: pathlib.Path, name: str, number: int, image: Any, camera: Any, unit: float) -> Frame:
    where = f"{folder}, {image.name}"
    if camera.model_name not in PINHOLES:
        raise UserError(
            f"{where}: the camera is no pinhole but {camera.model_name}: "
            "run colmap image_undistorter, and use its folder"
        )
    intrinsics = pinhole(
        camera.focal_length_x, camera.focal_length_y, camera.principal_point_x, camera.principal_point_y
    )
    pose = np.concatenate([image.cam_from_world().matrix(), [[0, 0, 0, 1]]])
    stem = pathlib.PurePosixPath(image.name).with_suffix(".png")
    candidates = [
        folder / "stereo" / "depth_maps" / (image.name + DENSE),
        folder / "depth" / f"{image.name}.png",
        folder / "depth" / stem,
    ]
    depth = next(filter(pathlib.Path.is_file, candidates), None)
    if depth is None:
        raise UserError(f"{where}: no depth: neither {candidates[0]} nor {candidates[-1]} is there")
    size = camera.height, camera.width
    return Frame(name, number, folder / "images" / image.name, depth, intrinsics, pose, size, unit)


def dense_depth(frame: Frame) -> np.ndarray:
    """Depth in the model's units, float32 (h, w), of either kind of file; raises `BadImage`."""
    if not frame.depth.name.endswith(DENSE):
        return load_depth(frame.depth, frame.depth_unit)
    data = read_file(frame.depth)
    height, width, begin = _dense_header(frame.depth, data, len(data))
    depth = np.frombuffer(data, "<f4", offset=begin).reshape(height, width)
    return np.where(np.isfinite(depth) & (depth > 0), depth, 0)


def dense_size(path: pathlib.Path) -> tuple[int, int]:
    """(height, width) of either kind of file, from its header; raises `BadImage`."""
    if not path.name.endswith(DENSE):
        return depth_size(path)
    try:
        with path.open("rb") as file:
            return _dense_header(path, file.read(LONGEST_HEADER), path.stat().st_size)[:2]
    except OSError as error:
        raise BadImage(f"{path}: {error.strerror}") from error


def _dense_header(path: pathlib.Path, data: bytes, length: int) -> tuple[int, int, int]:
    """Height, width, and where the pixels begin, of a file of `length` bytes that begins with `data`."""
    header = HEADER.match(data)
    width, height = map(int, header.groups()) if header else (0, 0)
    if not 0 < width * height <= MAX_PIXELS or length != header.end() + 4 * width * height:
        raise BadImage(f"{path}: it is no depth map of COLMAP's, or not whole")
    return height, width, header.end()
