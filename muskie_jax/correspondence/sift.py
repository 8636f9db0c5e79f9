"""Dense SIFT descriptors by OpenCV, to compare features with.

Source: D. G. Lowe, Distinctive Image Features from Scale-Invariant Keypoints, 2004, section 6.
"""

from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from muskie_jax.errors import UserError
from muskie_jax.viz.reconstruction import to_pixels

CELL = 8  # pixels from one descriptor to the next
CHANNELS = 128  # of a descriptor: 4x4 parts, 8 directions
WINDOW = 48  # side of the square that a descriptor covers, pixels
WINDOW_OF_SIZE = 6  # sides of this square per unit of an OpenCV keypoint's size


def import_opencv(needing: str) -> Any:
    """Imports OpenCV, an optional dependency.

    Args:
      needing: what needs it, for the message.

    Raises:
      UserError: if it is not installed.
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            f"{needing} needs OpenCV: install it with python -m pip install -e "
            '".[opencv]" -c constraints.txt'
        ) from error
    return cv2


def dense_sift(images: Float[np.ndarray, "B V H W 3"]) -> Float32[np.ndarray, "B V h w 128"]:
    """Returns upright descriptors of the centres of square cells, which have CELL pixels a side.

    Args:
      images: images in [-1, 1], whose sides are divisible by CELL.
    """
    cv2 = import_opencv("dense_sift")
    batch, views, height, width = images.shape[:4]
    rows, columns = height // CELL, width // CELL
    centre = lambda cell: (cell + 0.5) * CELL - 0.5  # (0, 0) is the centre of the first pixel
    keypoints = [
        cv2.KeyPoint(centre(x), centre(y), WINDOW / WINDOW_OF_SIZE, 0)
        for y in range(rows)
        for x in range(columns)
    ]
    sift = cv2.SIFT_create()
    descriptors = [
        sift.compute(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), keypoints)[1]
        for image in to_pixels(np.asarray(images)).reshape(-1, height, width, 3)
    ]
    return np.stack(descriptors).reshape(batch, views, rows, columns, CHANNELS).astype(np.float32)
