"""Epipolar distance: a measure of correspondence that needs cameras, but no depth.

Cameras determine a line of another view on which a point of the first view lies, its epipolar line. Where
on the line is unknown without depth. So a wrong prediction may be near the line by chance.

Axes: N points, V views. Positions are (column, row) as in `tracks`: the first pixel's centre is (0, 0).
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from muskie_jax.data.posed.views import PosedViews

DISTANCES = (1, 2, 5, 10, 25, 50)  # thresholds, pixels
# Cameras closer than this fraction of the largest distance in the group have no reliable epipolar lines.
MIN_BASELINE = 0.02


def draw_pixels(rng: np.random.Generator, size: tuple[int, int], count: int) -> Int[np.ndarray, "N 2"]:
    """Draws at most `count` distinct pixels of an image of `size` (height, width), uniformly."""
    height, width = size
    chosen = rng.permutation(height * width)[:count]
    return np.stack([chosen % width, chosen // width], -1)


def fundamental_matrices(views: PosedViews) -> Float[np.ndarray, "V 3 3"]:
    """Returns F of each view: x' F x = 0 for a point at x in the first view and x' in the other.

    x and x' are homogeneous pixel coordinates; the first pixel's centre is (0.5, 0.5, 1). F is zero for a
    view taken from the first view's position. Source: Hartley and Zisserman, Multiple View Geometry, 9.2.
    """
    poses = views.world_to_camera @ np.linalg.inv(views.world_to_camera[0])
    x, y, z = poses[:, :3, 3].T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).reshape(-1, 3, 3)
    inverse = np.linalg.inv(views.intrinsics)
    return inverse.swapaxes(1, 2) @ cross @ poses[:, :3, :3] @ inverse[0]


def has_baseline(world_to_camera: Float[np.ndarray, "V 4 4"]) -> Bool[np.ndarray, " V"]:
    """Returns whether each view was taken far enough from the first view to have epipolar lines.

    The unit of the poses may be arbitrary, so the distance is compared with the largest distance between
    two cameras of the group. If that is zero, no view has epipolar lines.
    """
    rotation, translation = world_to_camera[:, :3, :3], world_to_camera[:, :3, 3]
    centres = -np.einsum("vji,vj->vi", rotation, translation)
    distances = np.linalg.norm(centres[:, None] - centres, axis=-1)
    # Below the second bound, differences of the centres are rounding errors.
    rounding = 1e-9 * np.abs(centres).max(initial=0)
    return distances[0] > max(MIN_BASELINE * distances.max(), rounding)


def epipolar_distances(
    points: Float[np.ndarray, "N 2"],
    predicted: Float[np.ndarray, "*batch N V 2"],
    fundamental: Float[np.ndarray, "V 3 3"],
) -> Float[np.ndarray, "*batch N V"]:
    """Returns the symmetric epipolar distance of predictions, in pixels.

    It is the mean of two distances: of the prediction from the epipolar line of its point, and of the point
    from the epipolar line of the prediction in the first view.
    """
    homogeneous = lambda x: np.concatenate([x + 0.5, np.ones_like(x[..., :1])], -1)
    point, other = homogeneous(np.asarray(points, np.float64)), homogeneous(predicted)
    line = np.einsum("vij,nj->nvi", fundamental, point)
    line_in_first = np.einsum("vij,...nvi->...nvj", fundamental, other)
    product = np.abs((other * line).sum(-1))
    length = lambda line: np.maximum(np.linalg.norm(line[..., :2], axis=-1), np.finfo(np.float64).tiny)
    return (product / length(line) + product / length(line_in_first)) / 2
