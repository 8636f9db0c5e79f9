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
FEATURE_TEMPERATURE = 0.05  # temperature of the softmaxes over cosine similarities
CYCLE_CELLS = 1.5  # largest cycle error of a consistent prediction, in cells


def feature_maps(
    features: Float[Array, "V h w F"], valid: Bool[Array, "V h w"] | None = None, mutual: bool = False
) -> Float32[Array, "V L L"]:
    """Returns the similarity of every cell of the first view (axis 1) to every cell of view v (axis 2).

    Similarity is a softmax, over view v's cells, of `feature_cosines`.

    Args:
      features: features of the views' cells.
      valid: cells that may match; each view has one at least. None: all. Others have similarity 0.
      mutual: whether similarity is the geometric mean of this softmax and the one over the first view's
        cells. Of points that view v sees, it finds more. Of others, it finds more that it should not.
    """
    present = jnp.ones(features.shape[:3], bool) if valid is None else valid
    present = present.reshape(len(features), -1)
    first, other = present[0, :, None], present[:, None]
    logits = feature_cosines(features, valid) / FEATURE_TEMPERATURE
    similarity = jax.nn.softmax(logits, axis=2, where=other)
    if mutual:
        similarity = jnp.sqrt(similarity * jax.nn.softmax(logits, axis=1, where=first))
    return jnp.where(first & other, similarity, 0)


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


def refined_matches(
    maps: Float[Array, "V L L"], points: Real[Array, "N 2"], size: tuple[int, int], grid: tuple[int, int]
) -> tuple[Float32[Array, "N V 2"], Float32[Array, "N V"]]:
    """Returns the `best_positions` of points by their `match_scores`."""
    return best_positions(match_scores(maps, points, size, grid, points), points, size)


def match_scores(
    maps: Float[Array, "V L L"],
    points: Real[Array, "N 2"],
    size: tuple[int, int],
    grid: tuple[int, int],
    reference: Real[Array, "N 2"],
) -> Float32[Array, "V N rows columns"]:
    """Returns how well each point matches each cell of view v, by aggregating maps of neighbouring cells.

    Neighbouring points usually have similar displacements. A single map may have spurious peaks, but the
    maps of neighbouring cells agree on one displacement. The maps of the cells around a point are therefore
    shifted by each cell's offset from the point and summed, with weights that fall with distance. Their
    width is a fraction of the view, so that a finer grid averages over more cells. The sums are
    interpolated between the cells around the point.

    A score is that of the position which lies in its cell as the point of `reference` lies in its own cell.
    Cells just outside the view have scores too, since the positions may lie inside.

    Args:
      maps: how well each cell of the first view (axis 1) matches each cell of view v (axis 2); values
        are non-negative.
      points: (column, row), in pixels of the first view.
      size: (height, width) of the images, in pixels.
      grid: (h, w), in cells.
      reference: `points`; or other points, for scores that are averaged with the scores of those.

    Returns:
      The scores, which sum to 1 for each view and point. They are 0 for a point without any match. The
      grid is padded by one cell on each side: (rows, columns) are (h + 2, w + 2).
    """
    base, fraction = _nearest_cells(points, size, grid)
    scores = _aggregate_neighbours(maps.reshape(-1, *grid, *grid), base, jnp.clip(fraction, 0, 1))
    if reference is not points:
        shift = fraction - _nearest_cells(reference, size, grid)[1]
        columns, rows = (_shifts(shift[:, axis], grid[1 - axis] + 2) for axis in (0, 1))
        scores = jnp.einsum("vnhw,nyh,nxw->vnyx", scores, rows, columns, precision="highest")
    total = scores.sum((2, 3), keepdims=True)
    return jnp.where(total > 0, scores / jnp.where(total > 0, total, 1), 0)


def best_positions(
    scores: Float[Array, "V N rows columns"], points: Real[Array, "N 2"], size: tuple[int, int]
) -> tuple[Float32[Array, "N V 2"], Float32[Array, "N V"]]:
    """Returns the position with the best scores for each point, with sub-patch accuracy.

    It is the mean of the 3 x 3 cells around the best score. Each cell is weighted by its score minus the
    lowest of the nine scores.

    Args:
      scores: scores of `match_scores`.
      points: the points, or its `reference`.
      size: (height, width) of the images, in pixels.

    Returns:
      The positions, (column, row) in pixels, inside the view; and the concentration of each: the sum of the
      3 x 3 scores.
    """
    grid = (scores.shape[2] - 2, scores.shape[3] - 2)
    best, concentration = _mean_around_best(scores)
    base, _ = _nearest_cells(points, size, grid)
    found = points[:, None] + cell_size(size, grid) * (best - 1 - base).swapaxes(0, 1)
    return jnp.clip(found, -0.5, jnp.array(size[::-1]) - 0.5), concentration.T


def _nearest_cells(points: Array, size: tuple[int, int], grid: tuple[int, int]) -> tuple[Array, Array]:
    """Returns the upper left one of the four cells around each point, and the point's distance from it.

    Both are (column, row), in cells. The distance is from -0.5 to 1.5, since points near the border lie
    outside all centres of cells.
    """
    coords, last = (points + 0.5) / cell_size(size, grid) - 0.5, jnp.array(grid[::-1]) - 1
    base = jnp.clip(jnp.floor(coords), 0, jnp.maximum(last - 1, 0)).astype(jnp.int32)
    return base, coords - base


def _shifts(offsets: Array, length: int) -> Array:
    """Returns matrices (N, length, length) that shift a row of scores by fractions of a cell, linearly."""
    cells = jnp.arange(length)
    return jnp.maximum(0, 1 - jnp.abs(cells[:, None] - cells - offsets[:, None, None]))


def _aggregate_neighbours(maps: Array, base: Array, fraction: Array) -> Array:
    """Returns scores (V, N, h + 2, w + 2) of points in cells `base` + `fraction`, both (N, 2).

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
        padded = jnp.pad(maps[:, row, column], ((0, 0), (0, 0), *2 * ((radius + 1, radius + 2),)))
        start = (0, 0, offset[1] + radius, offset[0] + radius)
        shifted = jax.lax.dynamic_slice(padded, start, (views, len(base), height + 2, width + 2))
        return total + weight[:, None, None] * shifted, None

    pairs = jnp.array([(column, row) for row in offsets for column in offsets])
    zeros = jnp.zeros((views, len(base), height + 2, width + 2), jnp.float32)
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
      maps: maps as in `match_scores`.
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
