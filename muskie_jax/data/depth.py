"""Depth maps in files: 16-bit PNGs, checked before their pixels are decoded."""

import io
import pathlib

import numpy as np
from PIL import Image

from muskie_jax.data.images import MAX_PIXELS, BadImage, bad_image, read_file

DEPTH_UNIT = 1e-3  # metres of one step of a depth map, where nothing else is said


def load_depth(path: pathlib.Path, unit: float = DEPTH_UNIT) -> np.ndarray:
    """A depth map in metres, float32 (h, w), from the file of a 16-bit PNG; 0 = missing.

    Raises:
      BadImage: if it is missing, none, or damaged.
    """
    return read_depth(read_file(path), str(path)).astype(np.float32) * np.float32(unit)


def read_depth(data: bytes, name: str) -> np.ndarray:
    """The steps of a depth map, uint16 (h, w), from a 16-bit PNG.

    Raises:
      BadImage: if it is none, or damaged.
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
