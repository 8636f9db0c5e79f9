"""Accepts cameras whose lens distortion is negligible, and refuses others."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float64

from muskie_jax.errors import UserError

MAX_DISTORTION = 0.1  # pixels
PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")
# Models of COLMAP with the polynomial distortion of OpenCV.
DISTORTED = ("SIMPLE_RADIAL", "RADIAL", "OPENCV")
COEFFICIENTS = ("k1", "k2", "k3", "p1", "p2")
GRID = 9  # rows and columns of the pixels at which distortion is evaluated


def check_distortion(
    model: str,
    coefficients: Mapping[str, float],
    intrinsics: Float64[np.ndarray, "3 3"],
    size: tuple[int, int],
    where: str,
    remedy: str,
) -> None:
    """Raises UserError for a camera whose distortion moves a pixel by MAX_DISTORTION or more.

    Args:
      model: name of the camera model, as in COLMAP.
      coefficients: coefficients of distortion by name, see `distortion_pixels`.
      intrinsics: camera matrix, in pixels of an image of `size` (height, width).
      where: prefix of the message.
      remedy: what to do, for the message.
    """
    if model in PINHOLES:
        return
    if model not in DISTORTED:
        raise UserError(f"{where}: the camera model is {model}, not a pinhole: {remedy}")
    moved = distortion_pixels(coefficients, intrinsics, size)
    if not moved < MAX_DISTORTION:
        raise UserError(
            f"{where}: the lens distortion ({model}) is up to {moved:.1f} pixels, over {MAX_DISTORTION}: "
            f"{remedy}"
        )


def distortion_pixels(
    coefficients: Mapping[str, float], intrinsics: Float64[np.ndarray, "3 3"], size: tuple[int, int]
) -> float:
    """Returns how far OpenCV's distortion moves a pixel, at most, in pixels.

    Args:
      coefficients: k1, k2, k3 (radial), p1, p2 (tangential); missing ones are 0.
      intrinsics: camera matrix, in pixels of an image of `size` (height, width).
    """
    k1, k2, k3, p1, p2 = (float(coefficients.get(name) or 0) for name in COEFFICIENTS)
    height, width = size
    # Distortion is usually largest at the corners, but radial terms of opposite signs may cancel there.
    rows, columns = np.meshgrid(np.linspace(0, height, GRID), np.linspace(0, width, GRID), indexing="ij")
    pixels = np.stack([columns.ravel(), rows.ravel(), np.ones(GRID * GRID)])
    x, y, _ = np.linalg.solve(intrinsics, pixels)
    squared = x * x + y * y
    radial = k1 * squared + k2 * squared**2 + k3 * squared**3
    moved_x = x * radial + 2 * p1 * x * y + p2 * (squared + 2 * x * x)
    moved_y = y * radial + p1 * (squared + 2 * y * y) + 2 * p2 * x * y
    return float(np.hypot(intrinsics[0, 0] * moved_x, intrinsics[1, 1] * moved_y).max())
