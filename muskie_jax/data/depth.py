"""Reads depth maps; the header is checked before any pixel is decoded.

A depth map is a 16-bit PNG or TIFF, a TIFF or PFM of floats, a NumPy file `.npy`, or an OpenEXR file `.exr`
with one channel of depth.
"""

import contextlib
import io
import pathlib
from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, UInt16
from PIL import Image

from muskie_jax.data.depth_arrays import exr_size, npy_size, read_exr, read_npy
from muskie_jax.data.images import MAX_PIXELS, BadImage, bad_image, read_file
from muskie_jax.errors import UserError

DEPTH_UNIT = 1e-3  # metres per step of an integer depth map, unless a dataset defines its own unit
FORMATS = ("PNG", "TIFF", "PPM")  # PPM includes PFM
DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N")  # 16 bits
MODES = (*DEEP_GREY, "I", "F")  # and 32 bits, integers or floats
# Readers of whole files, and of sizes from headers, of the formats that Pillow does not read.
ARRAY_READERS = {".npy": (read_npy, npy_size), ".exr": (read_exr, exr_size)}


def load_depth(path: pathlib.Path, unit: float = 0.0) -> Float32[np.ndarray, "h w"]:
    """Returns a depth map in metres; 0 = missing. Values that are not finite or not positive become 0.

    Args:
      path: the file's path. Its extension defines the format.
      unit: metres per step; 0: a millimetre if the file contains integers, a metre if it contains floats.

    Raises:
      BadImage: if the file is missing, damaged, or not a depth map.
      UserError: if the package that reads the format is not installed.
    """
    values = _read_values(path)
    depth = values.astype(np.float32) * np.float32(unit or _unit_of(values))
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))


def natural_unit(path: pathlib.Path) -> float:
    """Returns the metres per step that `load_depth` assumes for a file if no unit is given."""
    with contextlib.suppress(BadImage, UserError):
        return _unit_of(_read_values(path))
    return DEPTH_UNIT


def depth_size(path: pathlib.Path) -> tuple[int, int]:
    """Returns (height, width) of a depth map from its header; raises as `load_depth`."""
    if path.suffix.lower() in ARRAY_READERS:
        _, size = ARRAY_READERS[path.suffix.lower()]
        return size(path)
    with _open_pillow(path, str(path)) as image:
        return image.height, image.width


def read_depth(data: bytes, name: str) -> UInt16[np.ndarray, "h w"]:
    """Decodes a depth map from the bytes of a 16-bit PNG, in the PNG's own unit.

    Args:
      data: the file's bytes.
      name: the file's name in error messages.

    Raises:
      BadImage: if the bytes are damaged or not a 16-bit PNG.
    """
    depth = _read_pillow(data, name, ("PNG",))
    if depth.dtype != np.uint16:
        raise BadImage(f"{name}: its depth has {8 * depth.itemsize} bits, not 16")
    return depth


def _read_values(path: pathlib.Path) -> np.ndarray:
    if path.suffix.lower() in ARRAY_READERS:
        read, _ = ARRAY_READERS[path.suffix.lower()]
        return read(path)
    return _read_pillow(read_file(path), str(path))


def _unit_of(values: np.ndarray) -> float:
    """Returns metres per step: floats are taken to be metres, integers millimetres."""
    return 1.0 if np.issubdtype(values.dtype, np.floating) else DEPTH_UNIT


def _read_pillow(data: bytes, name: str, formats: tuple[str, ...] = FORMATS) -> np.ndarray:
    """Returns the values of an image file, 16 or 32 bits; raises `BadImage`."""
    with _open_pillow(io.BytesIO(data), name, formats) as image:
        values = np.asarray(image)
    return values.astype(values.dtype.newbyteorder("="))


@contextlib.contextmanager
def _open_pillow(
    file: pathlib.Path | io.BytesIO, name: str, formats: tuple[str, ...] = FORMATS
) -> Iterator[Image.Image]:
    """Opens an image file after checking its header; raises `BadImage`, also for errors of the caller."""
    try:
        with Image.open(file, formats=formats) as image:
            if image.width * image.height > MAX_PIXELS:
                size = f"{image.width}x{image.height}"
                raise BadImage(f"{name}: its depth, {size}, is over {MAX_PIXELS:,} pixels")
            if image.mode not in MODES:
                raise BadImage(
                    f"{name}: its depth has pixel mode {image.mode}, not 16 bits of grey or floats"
                )
            yield image
    except (BadImage, MemoryError):
        raise
    except Exception as error:  # Pillow raises many kinds of exceptions for broken files
        if isinstance(error, OSError) and error.errno:
            raise BadImage(f"{name}: {error.strerror}") from error
        raise bad_image(f"{name}: its depth", error, formats) from error
