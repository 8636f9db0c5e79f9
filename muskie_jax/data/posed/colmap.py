"""Reads COLMAP models, with depth or without: a folder with one recording, or a folder of such folders.

Files of a recording:

- `sparse/`, its subfolders such as `sparse/0/`, or the same below `colmap/`: models, that is, cameras,
  images and points, text or binary. The largest model is read;
- `images/`: undistorted images (`colmap image_undistorter`). Lens distortion below 0.1 pixels is ignored;
- for depth, `stereo/depth_maps/<name>.geometric.bin` as COLMAP's dense stereo writes it; or a map of
  z-depth (see `muskie_jax.data.depth`), `depth/<name>.png` or `depth/<stem>.png`, in steps of `depth_unit`
  metres. If no image has depth, the recording has none.

The root may also be the folder of models, or a model itself. Frames whose image or depth map does not exist
are left out. A model is in metres only if it was scaled to metres; otherwise errors in metres are in the
model's unit. Models are read with pycolmap, which the extra `colmap` installs.
"""

import pathlib
import re
import shlex
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32
from ml_collections import ConfigDict

from muskie_jax.data.depth import depth_size, load_depth
from muskie_jax.data.images import MAX_PIXELS, BadImage, read_file
from muskie_jax.data.posed.colmap_points import overlap_from_points
from muskie_jax.data.posed.distortion import check_distortion
from muskie_jax.data.posed.frames import Frame, RGBDDataset, Sequence, build_sequence, pinhole_intrinsics
from muskie_jax.data.posed.missing import leave_out_missing
from muskie_jax.data.posed.parsing import find_sequences, names_from_paths, subfolders
from muskie_jax.data.scan import natural_key
from muskie_jax.errors import UserError, first_line

EXPECTED_FILES = "sparse/cameras.bin, sparse/0/cameras.bin, colmap/sparse/0/cameras.bin or their .txt"
PARTS = ("cameras", "images", "points3D")  # files of a model
LEVELS = 3  # a model in colmap/sparse/0 is this many levels below the folder of images
DENSE = ".geometric.bin"
DEPTH_FILES = (".png", ".npy", ".tif", ".tiff", ".exr")
HEADER = re.compile(rb"(\d{1,6})&(\d{1,6})&1&")  # a dense depth map's width, height, and one channel
MAX_HEADER = 16  # bytes


class Model(NamedTuple):
    """The largest model of a recording.

    Attributes:
      folder: the model's folder.
      reconstruction: pycolmap's `Reconstruction`, which owns the images.
      images: its posed images by name, objects of pycolmap.
      note: a line about the models that were left out, or an empty one.
    """

    folder: pathlib.Path
    reconstruction: Any
    images: dict[str, Any]
    note: str


def read(root: pathlib.Path, settings: ConfigDict) -> RGBDDataset:
    """Returns the largest model of each folder as a sequence; raises UserError."""
    folders = find_sequences(root, lambda path: bool(_model_folders(path)), EXPECTED_FILES)
    pycolmap = _import_pycolmap()
    sequences, notes, models = [], [], {}
    for name, folder in folders:
        model = _largest_model(pycolmap, _model_folders(folder))
        base = _image_root(folder, model.folder)
        sequence = _sequence(name if base == folder else base.name, base, model, settings)
        sequences.append(sequence)
        images = {base / "images" / path: image for path, image in model.images.items()}
        models[sequence.name] = model.reconstruction, images
        notes += [model.note] if model.note else []
    kept, left_out = leave_out_missing(sequences)
    has_points = all(reconstruction.num_points3D() for reconstruction, _ in models.values())
    return RGBDDataset(
        kept,
        read_depth,
        read_depth_size,
        any_depth_size=True,
        overlap=overlap_from_points(models) if has_points else None,
        notes=(*notes, *left_out),
    )


def _import_pycolmap() -> Any:
    try:
        import pycolmap  # pyright: ignore[reportMissingImports]  # an optional extra
    except ImportError as error:
        raise UserError(
            'COLMAP models need pycolmap: install it with python -m pip install -e ".[colmap]" '
            "-c constraints.txt"
        ) from error
    return pycolmap


def _model_folders(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the models of one recording. COLMAP writes several if it cannot connect all images."""
    numbered = [path for path in subfolders(folder) if path.name.isdigit()]
    groups = [[folder, *numbered]]
    for sparse in (folder / "sparse", folder / "colmap" / "sparse"):
        groups.append([sparse, *subfolders(sparse)] if sparse.is_dir() else [])
    found = ([path for path in candidates if _is_model(path)] for candidates in groups)
    return next(filter(None, found), [])


def _is_model(folder: pathlib.Path) -> bool:
    return any((folder / f"cameras.{kind}").is_file() for kind in ("bin", "txt"))


def _image_root(folder: pathlib.Path, model: pathlib.Path) -> pathlib.Path:
    """Returns the folder of `images`: the recording's, or one above its model if the root is the model."""
    above = model.resolve().parents[:LEVELS]
    return next((path for path in (folder, *above) if (path / "images").is_dir()), folder)


def _largest_model(pycolmap: Any, folders: list[pathlib.Path]) -> Model:
    models = [_read_model(pycolmap, folder) for folder in folders]
    largest = max(models, key=lambda model: len(model.images))  # the first among equals
    if len(models) == 1:
        return largest
    others = [f"{model.folder.name} ({len(model.images)})" for model in models if model is not largest]
    note = (
        f"{largest.folder}: it is the largest of {len(models)} models, with {len(largest.images)} images; "
        f"left out {', '.join(others)}"
    )
    return largest._replace(note=note)


def _read_model(pycolmap: Any, folder: pathlib.Path) -> Model:
    try:
        model = pycolmap.Reconstruction(str(folder))
        images = {number: image for number, image in model.images.items() if image.has_pose}
        names = {number: image.name for number, image in images.items()}
        if not all((folder / f"{part}.bin").is_file() for part in PARTS):
            names |= _names_of_text_model(folder / "images.txt")
        by_name = {names[number]: image for number, image in images.items()}
        return Model(folder, model, by_name, "")
    except Exception as error:  # pycolmap raises many kinds of exceptions
        raise UserError(f"{folder}: pycolmap cannot read the model: {first_line(error)}") from error


def _names_of_text_model(path: pathlib.Path) -> dict[int, str]:
    """Returns names by image; pycolmap would end a name at its first space."""
    names = {}
    lines = iter(path.read_text().splitlines())
    for line in lines:
        if line.strip() and not line.startswith("#"):
            fields = line.split(maxsplit=9)  # identifier, pose, camera, name
            names[int(fields[0])] = fields[9].strip()
            next(lines, None)  # the points of the image, which may be an empty line
    return names


def _sequence(name: str, folder: pathlib.Path, model: Model, settings: ConfigDict) -> Sequence:
    paths = sorted(model.images, key=natural_key)
    names = names_from_paths(paths)
    frames = [
        _frame(folder, frame_name, number, path, model, settings.depth_unit)
        for number, (frame_name, path) in enumerate(zip(names, paths))
    ]
    return build_sequence(name, frames, settings.every)


def _frame(folder: pathlib.Path, name: str, number: int, path: str, model: Model, unit: float) -> Frame:
    image = model.images[path]
    camera = model.reconstruction.cameras[image.camera_id]
    intrinsics = pinhole_intrinsics(
        camera.focal_length_x, camera.focal_length_y, camera.principal_point_x, camera.principal_point_y
    )
    size = camera.height, camera.width
    parameters = dict(zip(camera.params_info.replace(" ", "").split(","), camera.params))
    coefficients = parameters | {"k1": parameters.get("k1", parameters.get("k", 0.0))}
    command = ["colmap", "image_undistorter", "--image_path", f"{folder / 'images'}"]
    command += ["--input_path", f"{model.folder}", "--output_path", f"{folder / 'undistorted'}"]
    check_distortion(
        camera.model_name,
        coefficients,
        intrinsics,
        size,
        f"{folder}, {path}",
        f"run {shlex.join(command)}, and set root={folder / 'undistorted'}",
    )
    pose = np.concatenate([image.cam_from_world().matrix(), [[0, 0, 0, 1]]])
    return Frame(
        name, number, folder / "images" / path, _find_depth(folder, path), intrinsics, pose, size, unit
    )


def _find_depth(folder: pathlib.Path, path: str) -> pathlib.Path | None:
    """Returns the path of an image's depth map; None if there is none."""
    stem = pathlib.PurePosixPath(path).with_suffix("")
    candidates = [folder / "stereo" / "depth_maps" / (path + DENSE)]
    candidates += [folder / "depth" / f"{start}{kind}" for kind in DEPTH_FILES for start in (path, stem)]
    return next(filter(pathlib.Path.is_file, candidates), None)


def read_depth(path: pathlib.Path, unit: float = 0.0) -> Float32[np.ndarray, "H W"]:
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
