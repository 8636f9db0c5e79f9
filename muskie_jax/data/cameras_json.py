"""`cameras.json`: depth and cameras of the images of a folder.

It holds `frames`, a list of objects with `image` and `depth` (paths in the folder; the latter a 16-bit
PNG of z-depth, 0 = missing, one unit for all), `intrinsics` (3x3, pixels; the image's upper left corner is
(0, 0), its first pixel's centre (0.5, 0.5)) and `world_to_camera` (4x4, OpenCV axes, its translation in
thousands of the depth's units: metres where depth is in millimetres).
"""

import json
import pathlib
from typing import NamedTuple

import numpy as np

from muskie_jax.errors import UserError

CAMERAS = "cameras.json"


class CameraOfImage(NamedTuple):
    """An image of the file. Paths are relative to the file's folder.

    Attributes:
      image, depth: the files.
      intrinsics: float64 (3, 3).
      world_to_camera: float64 (4, 4).
    """

    image: str
    depth: str
    intrinsics: np.ndarray
    world_to_camera: np.ndarray


def read_cameras(path: pathlib.Path) -> list[CameraOfImage]:
    """All images of a `cameras.json`, in its order.

    Raises:
      UserError: if the file cannot be read, or is no such file.
    """
    try:
        return [
            CameraOfImage(
                str(frame["image"]),
                str(frame["depth"]),
                np.array(frame["intrinsics"], np.float64).reshape(3, 3),
                np.array(frame["world_to_camera"], np.float64).reshape(4, 4),
            )
            for frame in json.loads(path.read_text())["frames"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be understood: {type(error).__name__} {error}") from error
