"""Extensions of the paper's predictors: sub-patch accuracy, and a cycle-consistency check.

Axes: V views, N points, h x w cells of a view's patch grid, L = h*w, F channels.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float32, Real

from muskie_jax.correspondence.predictors import cell_size

# Tuned on rooms and photographs, for both attention and features.
NEIGHBOURHOOD = 1 / 8  # standard deviation of neighbours' weights, as a fraction of a view's shorter side
RADIUS = 1.5  # distance of the furthest neighbours, in standard deviations
FEATURE_TEMPERATURE = 0.05  # temperature of the softmax over cosine similarities
CYCLE_CELLS = 1.5  # largest cycle error of a consistent prediction, in cells


def feature_maps(
    features: Float[Array, "V h w F"], valid: Bool[Array, "V h w"] | None = None
) -> Float32[Array, "V L L"]:
    """Returns the similarity of every cell of the first view (axis 1) to every cell of view v (axis 2).

    Similarity is a softmax, over view v's cells, of `feature_cosines`.

    Args:
      features: features of the views' cells.
      valid: cells that may match; each view has one at least. None: all. Others have similarity 0.
    """
    cosine = feature_cosines(features, valid)
    if valid is None:
        return jax.nn.softmax(cosine / FEATURE_TEMPERATURE, axis=-1)
    present = valid.reshape(len(valid), -1)
    similarity = jax.nn.softmax(cosine / FEATURE_TEMPERATURE, axis=-1, where=present[:, None])
    return jnp.where(present[0][:, None], similarity, 0)


def feature_cosines(
    features: Float[Array, "V h w F"], valid: Bool[Array, "V h w"] | None = None
) -> Float32[Array, "V L L"]:
    """Returns the cosine between every cell of the first view (axis 1) and every cell of view v (axis 2).

    Each view's mean feature is subtracted first, since it mostly encodes the view's exposure.

    Args:
      features: features of the views' cells.
      valid: cells that the means are taken over, see `feature_maps`.
    """
    flat = features.reshape(len(features), -1, features.shape[-1]).astype(jnp.float32)
    present = None if valid is None else valid.reshape(flat.shape[:2])
    flat = flat - flat.mean(1, keepdims=True, where=None if present is None else present[..., None])
    flat = flat / jnp.maximum(jnp.linalg.norm(flat, axis=-1, keepdims=True), 1e-6)
    return jnp.einsum("lf,vmf->vlm", flat[0], flat, precision="high")


def refined_predictor(
    maps: Float[Array, "V L L"], points: Real[Array, "N 2"], size: tuple[int, int], grid: tuple[int, int]
) -> Float32[Array, "N V 2"]:
    """Predicts positions with sub-patch accuracy; see `refined_matches`."""
    return refined_matches(maps, points, size, grid)[0]


def refined_matches(
    maps: Float[Array, "V L L"], points: Real[Array, "N 2"], size: tuple[int, int], grid: tuple[int, int]
) -> tuple[Float32[Array, "N V 2"], Float32[Array, "N V"]]:
    """Predicts positions with sub-patch accuracy, by aggregating the maps of neighbouring cells.

    Neighbouring points usually have similar displacements. A single map may have spurious peaks, but the
    maps of neighbouring cells agree on one displacement. The maps of the cells around a point are therefore
    shifted by each cell's offset from the point and summed, with weights that fall with distance. Their
    width is a fraction of the view, so that a finer grid averages over more cells. The sums, called
    scores, are interpolated between the cells around the point. The prediction is the mean of the 3 x 3
    cells around the best score. Each cell is weighted by its score minus the lowest of the nine scores.

    Args:
      maps: how well each cell of the first view (axis 1) matches each cell of view v (axis 2); values
        are non-negative.
      points: (column, row), in pixels of the first view.
      size: (height, width) of the images, in pixels.
      grid: (h, w), in cells.

    Returns:
      The predictions, and the concentration of each: the fraction of all scores in the 3 x 3 cells.
    """
    scale = cell_size(size, grid)
    last = jnp.array(grid[::-1]) - 1
    coords = jnp.clip((points + 0.5) / scale - 0.5, 0, last)
    base = jnp.clip(jnp.floor(coords), 0, jnp.maximum(last - 1, 0)).astype(jnp.int32)
    scores = _aggregate_neighbours(maps.reshape(-1, *grid, *grid), base, coords - base)  # (V, N, h, w)
    best, mass = _mean_around_best(scores)
    total = scores.sum((2, 3))
    concentration = jnp.where(total > 0, mass / jnp.where(total > 0, total, 1), 0)
    return points[:, None] + scale * (best - base).swapaxes(0, 1), concentration.T


def _aggregate_neighbours(maps: Array, base: Array, fraction: Array) -> Array:
    """Returns scores (V, N, h, w) of points in cells `base` + `fraction`, both (N, 2).

    Interpolation between four cells, each with the (2r + 1)^2 cells around it, is a weighted sum over
    (2r + 2)^2 cells of `maps` (V, h, w, h, w). Cells outside the grid have weight 0.
    """
    views, height, width = maps.shape[:3]
    deviation = max(1.0, NEIGHBOURHOOD * min(height, width))  # in cells
    radius = int(RADIUS * deviation)
    offsets = np.arange(-radius, radius + 2)
    kernel = lambda distance: np.where(
        np.abs(distance) <= radius, np.exp(-(distance**2) / (2 * deviation**2)), 0
    )
    # (N, 2, 2r + 2): the weight of each offset, by axis.
    weights = (1 - fraction)[..., None] * kernel(offsets) + fraction[..., None] * kernel(offsets - 1)

    def add(total, offset):
        cell = base + offset  # (N, 2)
        inside = ((cell >= 0) & (cell < jnp.array([width, height]))).all(-1)
        weight = weights[:, 0, offset[0] + radius] * weights[:, 1, offset[1] + radius] * inside
        column, row = jnp.moveaxis(jnp.clip(cell, 0, jnp.array([width, height]) - 1), -1, 0)
        padded = jnp.pad(maps[:, row, column], ((0, 0), (0, 0), *2 * ((radius, radius + 1),)))
        start = (0, 0, offset[1] + radius, offset[0] + radius)
        shifted = jax.lax.dynamic_slice(padded, start, (views, len(base), height, width))
        return total + weight[:, None, None] * shifted, None

    pairs = jnp.array([(column, row) for row in offsets for column in offsets])
    zeros = jnp.zeros((views, len(base), height, width), jnp.float32)
    return jax.lax.scan(add, zeros, pairs)[0]


def _mean_around_best(scores: Array) -> tuple[Array, Array]:
    """Finds the best of scores (V, N, h, w), with sub-cell accuracy.

    Returns:
      Its (column, row), (V, N, 2), and the sum of the 3 x 3 scores around it, (V, N).
    """
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
    return (weight[..., None] * cells).sum(-2), jnp.where(inside, around, 0).sum(-1)


def is_cycle_consistent(
    maps: Float[Array, "V L L"],
    points: Real[Array, "N 2"],
    predicted: Float[Array, "N V 2"],
    size: tuple[int, int],
    grid: tuple[int, int],
) -> Bool[Array, "N V"]:
    """Returns whether matching a prediction back to the first view ends near its point.

    The prediction is rounded to its cell in view v. The first view's best match for that cell must lie
    within CYCLE_CELLS of the point.

    Args:
      maps: maps as in `refined_predictor`.
      points, predicted: (column, row), in pixels.
      size: (height, width) of the images, in pixels.
      grid: (h, w), in cells.
    """
    scale, last = cell_size(size, grid), jnp.array(grid[::-1]) - 1
    to_cells = lambda positions: (positions + 0.5) / scale - 0.5
    rounded = jnp.clip(jnp.round(to_cells(predicted)), 0, last).astype(jnp.int32)
    column, row = jnp.moveaxis(rounded, -1, 0)
    cell = (row * grid[1] + column).T  # (V, N)
    back = jnp.take_along_axis(maps, cell[:, None], axis=2).argmax(1)  # (V, N)
    returned = jnp.stack([back % grid[1], back // grid[1]], -1)
    return (jnp.linalg.norm(returned - to_cells(points), axis=-1) <= CYCLE_CELLS).T
