"""Recall of correspondence: how often the surface points that features match are close to each other.

The protocols are those of Probe3D (El Banani et al., arXiv 2404.08636; constants of its code). Features are
interpolated to a grid of every fourth pixel. Each grid point with depth in the first view is matched to the
most similar one with depth in the other view. The 1000 matches with the clearest ratio of distances count.
A match is right if its two surface points are close. docs/evaluation.md lists the differences from Probe3D.

Axes: V views, N = rows * columns points of a view's grid, M matches. No ground truth decides what may be
matched: points that the other view does not see count as errors if they are among the clearest.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from muskie_jax.correspondence.tracks import back_project
from muskie_jax.data.posed.views import PosedViews
from muskie_jax.models.framewise import cubic_weights

STRIDE = 4  # pixels between grid points
MATCHES = 1000  # matches that count per pair of views
CENTIMETRES = (1, 2, 5)
# In pixels of the view: 5, 25 and 50 of Probe3D on NAVI. On ScanNet it counts pixels of the grid, and its
# 5, 10 and 20 are 20, 40 and 80 of the view.
PIXELS = (5, 10, 20, 25, 40, 50, 80)
SMALLEST_DISTANCE = 1e-9
CHUNK = 512  # query points whose similarities are in memory at once


class RecallProtocol(NamedTuple):
    """What differs between Probe3D's evaluations on NAVI and on ScanNet.

    Attributes:
      interpolate: function of two lengths that returns the weights, (new, old), of a line of features.
      centred: whether the ray of a grid point goes through the centre of its STRIDE x STRIDE pixels. Its
        depth is always that of their first pixel; without `centred`, so is its ray.
      angles: limits of the ranges of rotation between the two views, degrees.
    """

    interpolate: Callable[[int, int], np.ndarray]
    centred: bool
    angles: tuple[int, ...]


def linear_weights(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Returns resampling weights of linear interpolation, edges repeated."""
    centres = np.clip((np.arange(new) + 0.5) * old / new - 0.5, 0, old - 1)
    return np.maximum(1 - np.abs(centres[:, None] - np.arange(old)), 0)


# Probe3D pairs views of NAVI up to 120 degrees apart; the last range is for other datasets.
PROTOCOLS = {
    "navi": RecallProtocol(cubic_weights, False, (0, 30, 60, 90, 120, 180)),
    "scannet": RecallProtocol(linear_weights, True, (0, 15, 30, 60, 180)),
}


class Errors(NamedTuple):
    """Errors of the matches that count, between two views.

    Attributes:
      metres: distance between the matched surface points.
      pixels: distance between their projections into the other view.
    """

    metres: Float[np.ndarray, " M"]
    pixels: Float[np.ndarray, " M"]


def grid_size(size: tuple[int, int]) -> tuple[int, int]:
    """Returns the rows and columns of the grid of a view of `size` (height, width)."""
    height, width = size
    return max(1, height // STRIDE), max(1, width // STRIDE)


def known_points(views: PosedViews) -> Bool[np.ndarray, "V N"]:
    """Returns whether grid points have depth and, in datasets of objects, show the object."""
    return _at_grid(views.valid & (views.depth > 0)).reshape(len(views.depth), -1)


def grid_points(views: PosedViews, protocol: str) -> Float[np.ndarray, "V N 3"]:
    """Returns the surface points of the grid in each view's camera frame, metres.

    A point without depth is the camera's centre. `protocol` is a key of PROTOCOLS.
    """
    depth = _at_grid(views.depth).astype(np.float64)
    offset = STRIDE / 2 if PROTOCOLS[protocol].centred else 0.5
    row, column = (STRIDE * np.arange(side) + offset for side in depth.shape[1:])
    positions = np.broadcast_to(np.stack(np.meshgrid(column, row), -1), (*depth.shape, 2))
    points = back_project(positions, depth, views.intrinsics[:, None, None])
    return points.reshape(len(depth), -1, 3)


def _at_grid(x: np.ndarray) -> np.ndarray:
    """Returns the first of every STRIDE x STRIDE pixels, (V, H, W) -> (V, rows, columns)."""
    rows, columns = grid_size((x.shape[1], x.shape[2]))
    return x[:, ::STRIDE, ::STRIDE][:, :rows, :columns]


def match_grids(
    features: Float[Array, "V h w d"], known: Bool[Array, "V N"], grid: tuple[int, int], protocol: str
) -> tuple[Int[Array, "V-1 N"], Float[Array, "V-1 N"]]:
    """Returns, for each grid point of the first view, the most similar one of every other view.

    Args:
      features: patch features of one layer.
      known: see `known_points`; only known points are matched.
      grid: rows and columns of the grid.
      protocol: a key of PROTOCOLS.

    Returns:
      The index of the match in the other view's grid. And how clear it is: 1 minus the ratio of its cosine
      distance to that of the second best; -1 if the point or any match is unknown.
    """
    dense = _unit(_interpolate(features.astype(jnp.float32), grid, protocol))

    def of_view(arguments):
        other, other_known = arguments

        def of_point(query):
            similarity = jnp.where(other_known, jnp.matmul(other, query, precision="highest"), -jnp.inf)
            index, best = jnp.argmax(similarity), jnp.max(similarity)
            second = jnp.max(similarity.at[index].set(-jnp.inf))  # faster than top_k on CPUs
            distance = jnp.maximum(1 - best, SMALLEST_DISTANCE)
            clear = 1 - distance / jnp.maximum(1 - second, SMALLEST_DISTANCE)
            return index, jnp.where(jnp.isfinite(best), clear, -1)

        return jax.lax.map(of_point, dense[0], batch_size=CHUNK)

    index, clear = jax.lax.map(of_view, (dense[1:], known[1:]))
    return index, jnp.where(known[0], clear, -1)


def _interpolate(
    features: Float[Array, "V h w d"], grid: tuple[int, int], protocol: str
) -> Float[Array, "V N d"]:
    weights = PROTOCOLS[protocol].interpolate
    rows, columns = (weights(old, new).astype(np.float32) for old, new in zip(features.shape[1:3], grid))
    dense = jnp.einsum("rh,cw,vhwd->vrcd", rows, columns, features, precision="highest")
    return dense.reshape(len(features), grid[0] * grid[1], -1)


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), SMALLEST_DISTANCE)


def match_errors(
    index: Int[np.ndarray, " N"],
    clear: Float[np.ndarray, " N"],
    points: Float[np.ndarray, "V N 3"],
    views: PosedViews,
    other: int,
) -> Errors:
    """Returns the errors of the clearest matches of the first view in another, at most MATCHES.

    Args:
      index, clear: what `match_grids` returns for this view.
      points: see `grid_points`.
      views: the group's views.
      other: index of the other view.
    """
    usable = np.flatnonzero(clear >= 0)
    chosen = usable[np.argsort(-clear[usable], kind="stable")[:MATCHES]]
    to_other = views.world_to_camera[other] @ np.linalg.inv(views.world_to_camera[0])
    true = points[0, chosen] @ to_other[:3, :3].T + to_other[:3, 3]
    found = points[other, index[chosen]]
    project = lambda points: _project(points, views.intrinsics[other])
    pixels = np.linalg.norm(project(true) - project(found), axis=-1)
    # A point behind the camera has no position in the image.
    return Errors(np.linalg.norm(true - found, axis=-1), np.where(true[:, 2] > 0, pixels, np.inf))


def _project(points: Float[np.ndarray, "M 3"], intrinsics: np.ndarray) -> Float[np.ndarray, "M 2"]:
    image = points @ intrinsics.T
    return image[:, :2] / np.maximum(image[:, 2:], SMALLEST_DISTANCE)


def recall_metrics(errors: Errors) -> dict[str, float]:
    """Returns `cm_1`, `cm_2`, `cm_5` and `px_5` to `px_80`: percentages of matches below a distance."""
    metrics = {f"cm_{limit}": 100 * float((errors.metres < limit / 100).mean()) for limit in CENTIMETRES}
    return metrics | {f"px_{limit}": 100 * float((errors.pixels < limit).mean()) for limit in PIXELS}
