"""Recall of correspondence: how often the surface points that features match are close to each other.

The protocol is that of Probe3D (El Banani et al., arXiv 2404.08636). Features are interpolated to a grid of
every fourth pixel. Each grid point with depth in the first view is matched to the most similar one with
depth in the other view. The 1000 matches with the clearest ratio of distances count. A match is right if
its two surface points are close. docs/evaluation.md lists the differences from Probe3D.

Axes: V views, N = rows * columns points of a view's grid, M matches. No ground truth decides what may be
matched: points that the other view does not see count as errors if they are among the clearest.
"""

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
PIXELS = (5, 10, 20, 25, 50)
ANGLES = (0, 15, 30, 60, 90, 120, 180)  # degrees of rotation between the two views
SMALLEST_DISTANCE = 1e-9
CHUNK = 512  # query points whose similarities are in memory at once


class Grid(NamedTuple):
    """The grid points of a group's views.

    Attributes:
      points: surface points in each view's camera frame, metres; the camera's centre without depth.
      known: whether a grid point has depth and, in datasets of objects, shows the object.
    """

    points: Float[np.ndarray, "V N 3"]
    known: Bool[np.ndarray, "V N"]


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


def surface_grid(views: PosedViews) -> Grid:
    """Returns the grid points of all views: the pixels nearest to the centres of STRIDE x STRIDE pixels."""
    count, height, width = views.depth.shape
    rows, columns = grid_size((height, width))
    row = ((np.arange(rows) + 0.5) * height / rows).astype(int)
    column = ((np.arange(columns) + 0.5) * width / columns).astype(int)
    chosen = np.ix_(range(count), row, column)
    depth, known = views.depth[chosen], (views.valid & (views.depth > 0))[chosen]
    positions = np.stack(np.meshgrid(column + 0.5, row + 0.5), -1)
    positions = np.broadcast_to(positions, (*depth.shape, 2))
    points = back_project(positions, depth.astype(np.float64), views.intrinsics[:, None, None])
    return Grid(points.reshape(count, -1, 3), known.reshape(count, -1))


def match_grids(
    features: Float[Array, "V h w d"], known: Bool[Array, "V N"], grid: tuple[int, int]
) -> tuple[Int[Array, "V-1 N"], Float[Array, "V-1 N"]]:
    """Returns, for each grid point of the first view, the most similar one of every other view.

    Args:
      features: patch features of one layer.
      known: see `Grid`; only known points are matched.
      grid: rows and columns of the grid.

    Returns:
      The index of the match in the other view's grid. And how clear it is: 1 minus the ratio of its cosine
      distance to that of the second best; -1 if the point or any match is unknown.
    """
    dense = _unit(_interpolate(features.astype(jnp.float32), grid))

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


def _interpolate(features: Float[Array, "V h w d"], grid: tuple[int, int]) -> Float[Array, "V N d"]:
    """Interpolates features bicubically, as PyTorch does."""
    rows, columns = (
        cubic_weights(old, new).astype(np.float32) for old, new in zip(features.shape[1:3], grid)
    )
    dense = jnp.einsum("rh,cw,vhwd->vrcd", rows, columns, features, precision="highest")
    return dense.reshape(len(features), grid[0] * grid[1], -1)


def _unit(x: Array) -> Array:
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), SMALLEST_DISTANCE)


def match_errors(
    index: Int[np.ndarray, " N"],
    clear: Float[np.ndarray, " N"],
    grid: Grid,
    views: PosedViews,
    other: int,
) -> Errors:
    """Returns the errors of the clearest matches of the first view in another, at most MATCHES.

    Args:
      index, clear: what `match_grids` returns for this view.
      grid: see `surface_grid`.
      views: the group's views.
      other: index of the other view.
    """
    usable = np.flatnonzero(clear >= 0)
    chosen = usable[np.argsort(-clear[usable], kind="stable")[:MATCHES]]
    to_other = views.world_to_camera[other] @ np.linalg.inv(views.world_to_camera[0])
    true = grid.points[0, chosen] @ to_other[:3, :3].T + to_other[:3, 3]
    found = grid.points[other, index[chosen]]
    project = lambda points: _project(points, views.intrinsics[other])
    pixels = np.linalg.norm(project(true) - project(found), axis=-1)
    # A point behind the camera has no position in the image.
    return Errors(np.linalg.norm(true - found, axis=-1), np.where(true[:, 2] > 0, pixels, np.inf))


def _project(points: Float[np.ndarray, "M 3"], intrinsics: np.ndarray) -> Float[np.ndarray, "M 2"]:
    image = points @ intrinsics.T
    return image[:, :2] / np.maximum(image[:, 2:], SMALLEST_DISTANCE)


def recall_metrics(errors: Errors) -> dict[str, float]:
    """Returns `cm_1`, `cm_2`, `cm_5` and `px_5` to `px_50`: percentages of matches below a distance."""
    metrics = {f"cm_{limit}": 100 * float((errors.metres < limit / 100).mean()) for limit in CENTIMETRES}
    return metrics | {f"px_{limit}": 100 * float((errors.pixels < limit).mean()) for limit in PIXELS}
