"""Reads depth maps from 16-bit PNGs; the header is checked before any pixel is decoded."""

import io
import pathlib

import numpy as np
from jaxtyping import Float32, UInt16
from PIL import Image

from muskie_jax.data.images import MAX_PIXELS, BadImage, bad_image, read_file

DEPTH_UNIT = 1e-3  # metres per step of a depth map, unless a dataset defines its own unit


def load_depth(path: pathlib.Path, unit: float = DEPTH_UNIT) -> Float32[np.ndarray, "h w"]:
    """Returns the depth map in a 16-bit PNG file, in metres; 0 = missing.

    Args:
      path: the file's path.
      unit: metres per step of the PNG.

    Raises:
      BadImage: if the file is missing, damaged, or not a 16-bit PNG.
    """
    return read_depth(read_file(path), str(path)).astype(np.float32) * np.float32(unit)


def read_depth(data: bytes, name: str) -> UInt16[np.ndarray, "h w"]:
    """Decodes a depth map from the bytes of a 16-bit PNG, in the PNG's own unit.

    Args:
      data: the file's bytes.
      name: the file's name in error messages.

    Raises:
      BadImage: if the bytes are damaged or not a 16-bit PNG.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise BadImage(f"{name}: its depth, {width}x{height}, is over {MAX_PIXELS:,} pixels")
            depth = np.asarray(image)
    except (BadImage, MemoryError):
        raise
    except Exception as error:
        raise bad_image(f"{name}: its depth", error, ("PNG",)) from error
    if depth.dtype != np.uint16:
        raise BadImage(f"{name}: its depth has pixel mode {image.mode}, not 16 bits of grey")
    return depth
