"""The field of view that point maps imply, and that of cameras."""

import numpy as np
from jaxtyping import Float


def tangents_of_points(local: Float[np.ndarray, "V H W 3"]) -> Float[np.ndarray, "V 2"]:
    """Returns the x / z and y / z of borders that fit the local points best, by least squares.

    The camera is assumed to look along the centre of the view, with straight lines.
    """
    height, width = local.shape[1:3]
    rows, columns = np.indices((height, width)) + 0.5
    from_centre = np.stack([2 * columns / width - 1, 2 * rows / height - 1], -1)
    slope = local[..., :2] / local[..., 2:]
    return (slope * from_centre).sum((1, 2)) / np.square(from_centre).sum((0, 1))


def tangents_of_intrinsics(
    intrinsics: Float[np.ndarray, "V 3 3"], size: tuple[int, int]
) -> Float[np.ndarray, "V 2"]:
    """Returns half of x / z and y / z between opposite borders of views of a size (height, width)."""
    height, width = size
    return np.array([width, height]) / (2 * intrinsics[:, [0, 1], [0, 1]])
