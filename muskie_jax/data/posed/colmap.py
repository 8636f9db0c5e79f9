"""Reads COLMAP models, with depth or without: a folder with one model, or a folder of such folders.

Files of a model:

- `sparse/` or `sparse/0/`: cameras, images and points, text or binary;
- `images/`: undistorted images (`colmap image_undistorter`);
- for depth, `stereo/depth_maps/<name>.geometric.bin` as COLMAP's dense stereo writes it, or a 16-bit PNG of
  z-depth, `depth/<name>.png` or `depth/<stem>.png`, in steps of `depth_unit` metres (default: 1 mm). If no
  image has depth, the recording has none.

A model is in metres only if it was scaled to metres; otherwise errors in metres are in the model's unit.
Models are read with pycolmap, which the extra `colmap` installs.
"""

import pathlib
import re
from typing import Any

import numpy as np
from jaxtyping import Float32
from ml_collections import ConfigDict

from muskie_jax.data.depth import DEPTH_UNIT, load_depth
from muskie_jax.data.images import MAX_PIXELS, BadImage, read_file
from muskie_jax.data.posed.frames import Frame, RGBDDataset, Sequence, build_sequence, pinhole_intrinsics
from muskie_jax.data.posed.headers import depth_size
from muskie_jax.data.posed.missing import leave_out_missing
from muskie_jax.data.posed.parsing import find_sequences, names_from_paths
from muskie_jax.data.scan import natural_key
from muskie_jax.errors import UserError, first_line

EXPECTED_FILES = "sparse/cameras.bin, sparse/0/cameras.bin or their .txt"
PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")
DENSE = ".geometric.bin"
HEADER = re.compile(rb"(\d{1,6})&(\d{1,6})&1&")  # a dense depth map's width, height, and one channel
MAX_HEADER = 16  # bytes


def read(root: pathlib.Path, settings: ConfigDict) -> RGBDDataset:
    """Returns all models of a folder as sequences; raises UserError."""
    models = find_sequences(root, lambda path: _model_folder(path) is not None, EXPECTED_FILES)
    pycolmap = _import_pycolmap()
    unit = settings.depth_unit or DEPTH_UNIT
    sequences, notes = leave_out_missing(
        _sequence(pycolmap, name, folder, unit, settings.every) for name, folder in models
    )
    return RGBDDataset(sequences, read_depth, read_depth_size, any_depth_size=True, notes=notes)


def _import_pycolmap() -> Any:
    try:
        import pycolmap  # pyright: ignore[reportMissingImports]  # an optional extra
    except ImportError as error:
        raise UserError(
            'COLMAP models need pycolmap: install it with python -m pip install -e ".[colmap]" '
            "-c constraints.txt"
        ) from error
    return pycolmap


def _model_folder(folder: pathlib.Path) -> pathlib.Path | None:
    for candidate in (folder / "sparse", folder / "sparse" / "0"):
        if any((candidate / f"cameras.{kind}").is_file() for kind in ("bin", "txt")):
            return candidate
    return None


def _sequence(pycolmap: Any, name: str, folder: pathlib.Path, unit: float, every: int) -> Sequence:
    path = _model_folder(folder)
    try:
        model = pycolmap.Reconstruction(str(path))
        images = [image for image in model.images.values() if image.has_pose]
    except Exception as error:  # pycolmap raises many kinds of exceptions
        raise UserError(f"{path}: pycolmap cannot read the model: {first_line(error)}") from error
    images.sort(key=lambda image: natural_key(image.name))
    names = names_from_paths([image.name for image in images])
    frames = [
        _frame(folder, frame_name, number, image, model.cameras[image.camera_id], unit)
        for number, (frame_name, image) in enumerate(zip(names, images))
    ]
    return build_sequence(name, frames, every)


def _frame(folder: pathlib.Path, name: str, number: int, image: Any, camera: Any, unit: float) -> Frame:
    where = f"{folder}, {image.name}"
    if camera.model_name not in PINHOLES:
        raise UserError(
            f"{where}: the camera model is {camera.model_name}, not a pinhole: "
            "run colmap image_undistorter, and use the folder that it writes"
        )
    intrinsics = pinhole_intrinsics(
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
    size = camera.height, camera.width
    return Frame(name, number, folder / "images" / image.name, depth, intrinsics, pose, size, unit)


def read_depth(path: pathlib.Path, unit: float = DEPTH_UNIT) -> Float32[np.ndarray, "H W"]:
    """Returns depth in the model's unit from either kind of file; raises `BadImage`."""
    if not path.name.endswith(DENSE):
        return load_depth(path, unit)
    data = read_file(path)
    height, width, start = _parse_dense_header(path, data, len(data))
    depth = np.frombuffer(data, "<f4", offset=start).reshape(height, width)
    return np.where(np.isfinite(depth) & (depth > 0), depth, 0)


def read_depth_size(path: pathlib.Path) -> tuple[int, int]:
    """Returns (height, width) of either kind of file from its header; raises `BadImage`."""
    if not path.name.endswith(DENSE):
        return depth_size(path)
    try:
        with path.open("rb") as file:
            height, width, _ = _parse_dense_header(path, file.read(MAX_HEADER), path.stat().st_size)
            return height, width
    except OSError as error:
        raise BadImage(f"{path}: {error.strerror}") from error


def _parse_dense_header(path: pathlib.Path, data: bytes, length: int) -> tuple[int, int, int]:
    """Returns the height and width of a dense depth map, and the offset of its pixels.

    Args:
      path: the file's path, for the message.
      data: the file's first bytes, which include the header.
      length: the file's length, bytes.
    """
    header = HEADER.match(data)
    if header:
        width, height = map(int, header.groups())
        if 0 < width * height <= MAX_PIXELS and length == header.end() + 4 * width * height:
            return height, width, header.end()
    raise BadImage(f"{path}: it is not a COLMAP depth map, or it is truncated")
