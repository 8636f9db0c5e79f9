"""Reads `cameras.json`, which lists depth maps and cameras for the images of a folder.

Its key `frames` lists one object per image:

image             path of the image, relative to the folder of `cameras.json`
depth             optional: path of a map of z-depth, such as a 16-bit PNG (see `muskie_jax.data.depth`).
                  0 = missing. All files use the same unit.
intrinsics        3x3, pixels. The upper left corner of the image is (0, 0), and the centre of its
                  first pixel is (0.5, 0.5).
world_to_camera   4x4, OpenCV axes. Its unit of length is 1000 units of integer depth, that is, metres if
                  depth is in millimetres, or one unit of depth in floats.
"""

import json
import pathlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from muskie_jax.errors import UserError

CAMERAS = "cameras.json"


class PosedImage(NamedTuple):
    """One image of a `cameras.json`. Paths are relative to the file's folder; "" is no depth."""

    image: str
    depth: str
    intrinsics: Float64[np.ndarray, "3 3"]
    world_to_camera: Float64[np.ndarray, "4 4"]


def read_cameras(path: pathlib.Path) -> list[PosedImage]:
    """Returns the images of a `cameras.json`, in the order of the file.

    Raises:
      UserError: if the file cannot be read or does not have the format above.
    """
    try:
        return [
            PosedImage(
                str(frame["image"]),
                str(frame.get("depth") or ""),
                np.array(frame["intrinsics"], np.float64).reshape(3, 3),
                np.array(frame["world_to_camera"], np.float64).reshape(4, 4),
            )
            for frame in json.loads(path.read_text())["frames"]
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} cannot be parsed: {type(error).__name__} {error}") from error
