"""Draws masks, which select the hidden patches of each view (paper section 3.2).

Each sampler takes a numpy Generator, the patch grid (hp, wp), the masking ratio and the number of masks. It
returns masks (count, hp, wp), True = hidden. Samplers are vectorised over masks, since on small images a
Python loop over views would take longer than a training step.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection

import numpy as np
from jaxtyping import Bool, Float, Int
from ml_collections import ConfigDict

from muskie_jax.checks import one_of, require
from muskie_jax.errors import UserError

Grid = tuple[int, int]
Masks = Bool[np.ndarray, "count hp wp"]

ASPECT_RANGE = (0.3, 3.0)  # width / height of rectangles and ellipses, drawn log-uniformly
BLOB_RADIUS = 5  # of the 11x11 box that blurs the noise of a blob, in patches
WALKS_AT_ONCE = 128  # masks of random walks that are drawn together; more would not fit in a core's cache


def hidden_count(grid: Grid, ratio: float) -> int:
    """Returns the number of hidden patches, ratio * L, rounded half to even."""
    return round(ratio * grid[0] * grid[1])


def _hide_largest(scores: Float[np.ndarray, "count hp wp"], ratio: float) -> Masks:
    """Hides exactly round(ratio * L) patches of each mask: those with the largest scores."""
    count, rows, columns = scores.shape
    size = rows * columns
    visible = size - hidden_count((rows, columns), ratio)
    smallest_first = np.argpartition(scores.reshape(count, size), min(visible, size - 1), axis=1)
    mask = np.ones((count, size), bool)
    np.put_along_axis(mask, smallest_first[:, :visible], False, axis=1)
    return mask.reshape(scores.shape)


def random_masks(rng: np.random.Generator, grid: Grid, ratio: float, count: int) -> Masks:
    """Hides exactly round(ratio * L) patches, drawn uniformly."""
    return _hide_largest(rng.random((count, *grid)), ratio)


def _draw_aspects(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.exp(rng.uniform(*np.log(ASPECT_RANGE), size=count))


def _rounded(lengths: np.ndarray) -> np.ndarray:
    return np.rint(lengths).astype(int)


def rectangle_masks(rng: np.random.Generator, grid: Grid, ratio: float, count: int) -> Masks:
    """Hides one rectangle of about round(ratio * L) patches, clipped to the sides of the grid."""
    area, aspects = hidden_count(grid, ratio), _draw_aspects(rng, count)
    heights = _rounded(np.sqrt(area / aspects))
    sides = np.minimum(heights, grid[0]), np.minimum(_rounded(aspects * heights), grid[1])

    def draw_span(length: int, sides: np.ndarray) -> np.ndarray:
        """Draws a position along one axis; returns bool (count, length), True inside the rectangle."""
        first = rng.integers(length - sides + 1)[:, None]
        return (np.arange(length) >= first) & (np.arange(length) < first + sides[:, None])

    rows, columns = map(draw_span, grid, sides)
    return rows[:, :, None] & columns[:, None, :]


def inside_ellipse(
    rows: np.ndarray, columns: np.ndarray, radii: tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """Returns whether offsets from the centre are inside an ellipse or on its boundary.

    Compares integers, since rounding would put boundary points such as (0.6, 0.8) outside. A radius of 0
    counts as half a patch, so that the centre's row or column is inside.
    """
    row_radius, column_radius = (np.maximum(2 * radius, 1) for radius in radii)
    distance = (2 * rows * column_radius) ** 2 + (2 * columns * row_radius) ** 2
    return distance <= (row_radius * column_radius) ** 2


def ellipse_masks(rng: np.random.Generator, grid: Grid, ratio: float, count: int) -> Masks:
    """Hides one ellipse with integer radii, including its boundary, entirely inside the grid."""
    area, aspects = hidden_count(grid, ratio), _draw_aspects(rng, count)
    radius = math.sqrt(area / math.pi)

    def draw_offsets(length: int, radii: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Draws a centre along one axis; returns offsets from it (count, length) and radii (count,)."""
        radii = np.minimum(_rounded(radii), length // 2)
        # A radius of half an even side fits around no patch. The maximum keeps the centre in the grid.
        centres = rng.integers(radii, np.maximum(radii, length - 1 - radii) + 1)
        return np.arange(length) - centres[:, None], radii

    rows, row_radii = draw_offsets(grid[0], radius / np.sqrt(aspects))
    columns, column_radii = draw_offsets(grid[1], radius * np.sqrt(aspects))
    radii = row_radii[:, None, None], column_radii[:, None, None]
    return inside_ellipse(rows[:, :, None], columns[:, None, :], radii)


def blob_masks(rng: np.random.Generator, grid: Grid, ratio: float, count: int) -> Masks:
    """Hides exactly round(ratio * L) patches: the largest values of box-blurred Gaussian noise.

    The noise is zero outside the grid.
    """
    blurred = rng.standard_normal((count, *grid))
    for axis, length in enumerate(grid, 1):
        # Row and column i of the banded matrix select the patches within the box around patch i.
        offsets = np.subtract.outer(np.arange(length), np.arange(length))
        box = (np.abs(offsets) <= BLOB_RADIUS).astype(float)
        blurred = np.moveaxis(np.moveaxis(blurred, axis, -1) @ box, -1, axis)
    return _hide_largest(blurred, ratio)


def random_walk_masks(rng: np.random.Generator, grid: Grid, ratio: float, count: int) -> Masks:
    """Hides a connected region of exactly round(ratio * L) patches, grown breadth-first from one patch.

    Hidden patches form a queue. The first in the queue adds its visible neighbours in random order, then
    the second, until the region is large enough. The queue thus contains all patches at city-block
    distance 1 from the first patch, then those at distance 2, and so on: ring after ring. A ring's patches
    are in the order of their earliest neighbour in the previous ring. So one ring of many masks is drawn
    at a time.
    """
    blocks = [min(WALKS_AT_ONCE, count - start) for start in range(0, count, WALKS_AT_ONCE)]
    size = hidden_count(grid, ratio)
    return np.concatenate([np.zeros((0, *grid), bool), *(_grow(rng, grid, size, n) for n in blocks)])


def _grow(rng: np.random.Generator, grid: Grid, size: int, count: int) -> Masks:
    """Draws `count` connected regions of `size` patches, see `random_walk_masks`."""
    masks = np.zeros((count, *grid), bool)
    if size == 0:
        return masks
    first = np.stack([rng.integers(side, size=count) for side in grid], axis=1)
    masks[np.arange(count), *first.T] = True
    missing = np.full(count, size - 1)
    ranks = np.zeros((count, 1), np.float32)  # position in the queue, from the start of the ring
    distance = 0
    while missing.any():
        distance += 1
        patches = first[:, None] + _ring(distance)
        inside = ((patches >= 0) & (patches < grid)).all(-1)
        drawn = _first_neighbour(ranks) + rng.random(inside.shape, np.float32)
        order = np.argsort(np.where(inside, drawn, np.inf), axis=1)
        ranks = np.empty_like(drawn)
        np.put_along_axis(ranks, order, np.arange(order.shape[1], dtype=np.float32)[None], axis=1)
        hidden = inside & (ranks < missing[:, None])
        masks[np.nonzero(hidden)[0], *patches[hidden].T] = True
        missing -= hidden.sum(1)
        ranks = np.where(inside, ranks, np.inf)
    return masks


@functools.cache
def _ring(distance: int) -> Int[np.ndarray, "patches 2"]:
    """Returns the (row, column) offsets at a city-block distance, ordered by angle: four quarters."""
    steps = np.arange(distance)
    quarter = np.stack([steps, distance - steps], axis=1)
    rotate = lambda offsets: offsets[:, ::-1] * (1, -1)
    quarters = [quarter]
    for _ in range(3):
        quarters.append(rotate(quarters[-1]))
    return np.concatenate(quarters)


def _first_neighbour(ranks: Float[np.ndarray, "count inner"]) -> Float[np.ndarray, "count outer"]:
    """Returns, for each patch of the next ring, the smallest rank of its neighbours in this ring.

    Both rings are in the order of `_ring`. Patch i of a quarter touches patches i and i - 1 of the same
    quarter of the inner ring; patch 0, on an axis, touches only patch 0.
    """
    count, inner = ranks.shape
    if inner == 1:
        return np.tile(ranks, 4)
    quarters = ranks.reshape(count, 4, inner // 4)
    before = np.pad(quarters, ((0, 0), (0, 0), (1, 0)), constant_values=np.inf)
    next_quarter = np.roll(quarters[:, :, :1], -1, axis=1)
    after = np.concatenate([quarters, next_quarter], axis=2)
    return np.minimum(before, after).reshape(count, -1)


MODES: dict[str, Callable[[np.random.Generator, Grid, float, int], Masks]] = {
    "random": random_masks,
    "rectangle": rectangle_masks,
    "ellipse": ellipse_masks,
    "blob": blob_masks,
    "random_walk": random_walk_masks,
}


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """Settings of the masks of a group: `config.mask`. Defaults are the published values.

    Attributes:
      modes: pairs (mode, ratio). One pair is drawn for each group; the ratio is the fraction of a view's
        patches that a mask hides.
      num_reference: number of reference views per group, which are not masked. None draws it uniformly
        from {V//4, ..., V//2} for each group.
    """

    modes: tuple[tuple[str, float], ...] = (("random", 0.9), ("rectangle", 0.75), ("ellipse", 0.75))
    num_reference: int | None = None

    @classmethod
    def of(cls, mask: ConfigDict) -> "MaskOptions":
        """Returns the options in `config.mask`, with its lists as tuples."""
        return cls(tuple((mode, ratio) for mode, ratio in mask.modes), mask.num_reference)


def check_masks(
    mask: ConfigDict, sizes: Collection[tuple[int, int]], patch: int, views: Collection[int]
) -> None:
    """Checks `config.mask`.

    Args:
      mask: `config.mask`.
      sizes: (height, width), in pixels, of all images that masks are drawn for.
      patch: side of a patch, in pixels.
      views: all view counts that a group may have.

    Raises:
      UserError: for an unknown mode, a ratio that masks no patch, or too many reference views.
    """
    require(len(mask.modes) > 0, "config.mask.modes is empty: add a pair such as ('random', 0.9)")
    for entry in mask.modes:
        if not (isinstance(entry, (tuple, list)) and len(entry) == 2):
            raise UserError(f"config.mask.modes has {entry!r}, but must have pairs such as ('random', 0.9)")
        mode, ratio = entry
        one_of(mode, MODES, "config.mask.modes")
        valid = isinstance(ratio, (int, float)) and 0 < ratio <= 1
        require(valid, f"config.mask.modes: ratio {ratio!r} of {mode} must be above 0, at most 1")
        for height, width in sizes:
            grid = (height // patch, width // patch)
            if hidden_count(grid, ratio) == 0:
                raise UserError(
                    f"config.mask.modes: ({mode!r}, {ratio}) masks no patch of a {height}x{width} view: "
                    f"use a ratio of at least {1 / (grid[0] * grid[1]):.3g}"
                )
    count, fewest = mask.num_reference, min(views)
    require(count is None or count >= 0, f"config.mask.num_reference={count} must be 0 or more, or None")
    if count is not None and count >= fewest:
        raise UserError(
            f"config.mask.num_reference={count} leaves no view to mask in groups of {fewest} views: "
            f"use less than {fewest}, or remove {fewest} from config.buckets.views"
        )


def reference_range(views: int, num_reference: int | None) -> tuple[int, int]:
    """Returns the minimum and maximum number of reference views; at least one view is masked."""
    if num_reference is None:
        return views // 4, views // 2
    fixed = min(num_reference, views - 1)
    return fixed, fixed


def group_masks(
    rng: np.random.Generator,
    groups: int,
    views: int,
    grid: Grid,
    options: MaskOptions,
) -> Bool[np.ndarray, "B V L"]:
    """Draws the masks of `groups` groups, True = hidden.

    The first views of a group are its reference views and are not masked. Each other view has its own mask;
    all views of a group share the mode.
    """
    low, high = reference_range(views, options.num_reference)
    references = rng.integers(low, high + 1, size=groups)
    drawn = rng.integers(len(options.modes), size=groups)
    masked = np.arange(views) >= references[:, None]
    masks = np.zeros((groups, views, *grid), bool)
    for number, (mode, ratio) in enumerate(options.modes):
        chosen = masked & (drawn == number)[:, None]
        if count := int(np.count_nonzero(chosen)):
            masks[chosen] = MODES[mode](rng, grid, ratio, count)
    return masks.reshape(groups, views, grid[0] * grid[1])
