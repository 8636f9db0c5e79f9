"""Ours, beyond the paper: answers finer than a patch, and a check which of them to trust.

Letters in shapes: V views, N points; L = h x w cells of a view's grid of patches; F channels.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from muskie_jax.correspondence.predictors import cell_size

# The two constants were chosen on rooms and photographs, for attention and features alike.
SPREAD = 1.0  # of the neighbours that agree, standard deviation in cells
FEATURE_TEMPERATURE = 0.1  # of cosine similarities
CYCLE_CELLS = 1.5  # how far from its start a point may come back, in cells


def feature_maps(features: Array) -> Array:
    """How alike the cells of the first view and of each are: (V, h, w, F) -> float32 (V, L, L).

    A softmax over the view's cells of the cosine of features less the mean of their view, which is
    mostly the view's exposure.
    """
    flat = features.reshape(len(features), -1, features.shape[-1]).astype(jnp.float32)
    flat = flat - flat.mean(1, keepdims=True)
    flat = flat / jnp.maximum(jnp.linalg.norm(flat, axis=-1, keepdims=True), 1e-6)
    cosine = jnp.einsum("lf,vmf->vlm", flat[0], flat, precision="high")
    return jax.nn.softmax(cosine / FEATURE_TEMPERATURE, axis=-1)


def refined_predictor(maps: Array, points: Array, size: tuple[int, int], grid: tuple[int, int]) -> Array:
    """Where neighbours agree that a point moved to.

    What is near a point mostly moves as the point does. So a cell c of view v is scored for a point by
    the maps of the cells around it, each read as far beside c as it lies beside the point: neighbours
    within a cell agree on one motion, where a single map may have peaks elsewhere. Between the cells
    around a point the scores are interpolated, and the answer is the mean of the 3 x 3 cells around the
    best, weighted by how far they are above the worst of these.

    Args:
      maps: float (V, L, L), at least 0: how well each cell of the first view fits each of view v.
      points: (N, 2), columns and rows of pixels of the first view.

    Returns:
      float32 (N, V, 2).
    """
    scale = cell_size(size, grid)
    last = jnp.array(grid[::-1]) - 1
    place = jnp.clip((points + 0.5) / scale - 0.5, 0, last)
    base = jnp.clip(jnp.floor(place), 0, jnp.maximum(last - 1, 0)).astype(jnp.int32)
    scores = _agreement(maps.reshape(-1, *grid, *grid), base, place - base)  # (V, N, h, w)
    moved = _centre_of_best(scores) - base
    return points[:, None] + scale * moved.swapaxes(0, 1)


def _agreement(maps: Array, base: Array, between: Array) -> Array:
    """Maps (V, h, w, h, w) around cells `base` (N, 2) and `between` (N, 2) them and the next ones.

    Interpolation of four cells, each with its eight neighbours, is a weighted sum over 4 x 4 cells; a
    cell outside the grid has nothing to say.
    """
    views, height, width = maps.shape[:3]
    offsets = np.arange(-1, 3)
    near = lambda distance: np.where(np.abs(distance) <= 1, np.exp(-(distance**2) / (2 * SPREAD**2)), 0)
    # (N, 2, 4): of both axes, how much the cell at each offset counts.
    share = (1 - between)[..., None] * near(offsets) + between[..., None] * near(offsets - 1)

    def add(total, offset):
        cell = base + offset  # (N, 2)
        inside = ((cell >= 0) & (cell < jnp.array([width, height]))).all(-1)
        weight = share[:, 0, offset[0] + 1] * share[:, 1, offset[1] + 1] * inside
        column, row = jnp.moveaxis(jnp.clip(cell, 0, jnp.array([width, height]) - 1), -1, 0)
        padded = jnp.pad(maps[:, row, column], ((0, 0), (0, 0), (1, 2), (1, 2)))
        start = (0, 0, offset[1] + 1, offset[0] + 1)
        beside = jax.lax.dynamic_slice(padded, start, (views, len(base), height, width))
        return total + weight[:, None, None] * beside, None

    pairs = jnp.array([(column, row) for row in offsets for column in offsets])
    zeros = jnp.zeros((views, len(base), height, width), jnp.float32)
    return jax.lax.scan(add, zeros, pairs)[0]


def _centre_of_best(scores: Array) -> Array:
    """Scores (V, N, h, w) -> (V, N, 2), column and row of the best, between cells."""
    height, width = scores.shape[2:]
    best = scores.reshape(*scores.shape[:2], -1).argmax(-1)
    offsets = jnp.array([(column, row) for row in (-1, 0, 1) for column in (-1, 0, 1)])
    cells = jnp.stack([best % width, best // width], -1)[:, :, None] + offsets  # (V, N, 9, 2)
    last = jnp.array([width - 1, height - 1])
    inside = ((cells >= 0) & (cells <= last)).all(-1)
    column, row = jnp.moveaxis(jnp.clip(cells, 0, last), -1, 0)
    views, points = jnp.indices(best.shape)
    around = scores[views[..., None], points[..., None], row, column]
    lowest = jnp.where(inside, around, jnp.inf).min(-1, keepdims=True)
    weight = jnp.where(inside, around - lowest, 0)
    total = weight.sum(-1, keepdims=True)
    weight = jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), (offsets == 0).all(-1))
    return (weight[..., None] * cells).sum(-2)


def is_cycle_consistent(
    maps: Array, points: Array, predicted: Array, size: tuple[int, int], grid: tuple[int, int]
) -> Array:
    """Which answers are cycle consistent: the cell that an answer is in is best matched by where it began.

    Args:
      maps: float (V, L, L), the first view's cell, then view v's.
      points: (N, 2), columns and rows; predicted: (N, V, 2).

    Returns:
      bool (N, V): whether the first view's best cell for it lies within 1.5 cells of the point.
    """
    scale, last = cell_size(size, grid), jnp.array(grid[::-1]) - 1
    place = lambda positions: (positions + 0.5) / scale - 0.5
    column, row = jnp.moveaxis(jnp.clip(jnp.round(place(predicted)), 0, last).astype(jnp.int32), -1, 0)
    cell = (row * grid[1] + column).T  # (V, N)
    back = jnp.take_along_axis(maps, cell[:, None], axis=2).argmax(1)  # (V, N)
    returned = jnp.stack([back % grid[1], back // grid[1]], -1)
    return (jnp.linalg.norm(returned - place(points), axis=-1) <= CYCLE_CELLS).T
