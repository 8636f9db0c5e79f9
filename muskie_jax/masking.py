"""Draws masks, which select the hidden patches of each view (paper section 3.2).

Each sampler takes a numpy Generator, the patch grid (hp, wp), the masking ratio and the number of masks. It
returns masks (count, hp, wp), True = hidden. Samplers are vectorised over masks, since on small images a
Python loop over views would take longer than a training step.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Collection, Iterator

import numpy as np
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from muskie_jax.checks import one_of, require
from muskie_jax.errors import UserError

Grid = tuple[int, int]
Masks = Bool[np.ndarray, "count hp wp"]

ASPECT_RANGE = (0.3, 3.0)  # width / height of rectangles and ellipses, drawn log-uniformly
BLOB_RADIUS = 1  # radius, in patches, of the box filter that blurs a blob's noise


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


def ellipse_masks(rng: np.random.Generator, grid: Grid, ratio: float, count: int) -> Masks:
    """Hides one ellipse with integer radii, including its boundary, entirely inside the grid."""
    area, aspects = hidden_count(grid, ratio), _draw_aspects(rng, count)
    radius = math.sqrt(area / math.pi)
    radii = radius / np.sqrt(aspects), radius * np.sqrt(aspects)

    def draw_squared_distances(length: int, radii: np.ndarray) -> np.ndarray:
        """Draws a centre along one axis; returns squared distances from it in radii, (count, length)."""
        radii = np.minimum(_rounded(radii), length // 2)
        # A radius of half an even side fits around no patch. The maximum keeps the centre in the grid.
        centres = rng.integers(radii, np.maximum(radii, length - 1 - radii) + 1)
        return np.square((np.arange(length) - centres[:, None]) / np.maximum(radii, 0.5)[:, None])

    rows, columns = map(draw_squared_distances, grid, radii)
    return columns[:, None, :] + rows[:, :, None] <= 1.0


def blob_masks(rng: np.random.Generator, grid: Grid, ratio: float, count: int) -> Masks:
    """Hides exactly round(ratio * L) patches: the largest values of box-blurred Gaussian noise."""
    padding = (BLOB_RADIUS, BLOB_RADIUS)
    noise = np.pad(rng.standard_normal((count, *grid)), ((0, 0), padding, padding), mode="edge")
    side = 2 * BLOB_RADIUS + 1
    blurred = np.zeros((count, *grid))
    for y, x in np.ndindex(side, side):
        blurred += noise[:, y : y + grid[0], x : x + grid[1]]
    return _hide_largest(blurred, ratio)


def random_walk_masks(rng: np.random.Generator, grid: Grid, ratio: float, count: int) -> Masks:
    """Hides a connected region of exactly round(ratio * L) patches, grown from a random patch.

    The walk moves from the last hidden patch to a visible neighbour, tried in random order. If there is
    none, it backtracks to the latest hidden patch that has a visible neighbour.
    """
    masks = np.zeros((count, *grid), bool)
    for mask in masks:
        mask[:] = _random_walk(rng, grid, hidden_count(grid, ratio))
    return masks


def _random_walk(rng: np.random.Generator, grid: Grid, count: int) -> np.ndarray:
    """Returns the mask of one walk over `count` patches, bool (hp, wp)."""
    mask = np.zeros(grid, bool)
    if count == 0:
        return mask
    # Python lists, since numpy is slow for single elements. A border of hidden patches bounds the walk.
    stride = grid[1] + 2
    hidden = np.pad(mask, 1, constant_values=True).ravel().tolist()
    orders = list(itertools.permutations((-stride, stride, -1, 1)))
    draws = iter(rng.integers(len(orders), size=2 * count).tolist())  # a patch is visited at most twice
    patch = (int(rng.integers(grid[0])) + 1) * stride + int(rng.integers(grid[1])) + 1
    hidden[patch] = True
    path = [patch]
    for _ in range(count - 1):
        free = None
        while free is None:  # terminates: some patch of the path has a free neighbour
            neighbours = (path[-1] + step for step in orders[next(draws)])
            free = next((patch for patch in neighbours if not hidden[patch]), None)
            if free is None:
                path.pop()
        hidden[free] = True
        path.append(free)
    return np.array(hidden).reshape(grid[0] + 2, stride)[1:-1, 1:-1]


def _rounded_heights(side: float) -> Iterator[tuple[int, float]]:
    """Yields each value of round(side / sqrt(a)) over all aspects a, and the largest such a."""
    lowest, highest = ASPECT_RANGE
    for height in range(round(side / math.sqrt(highest)), round(side / math.sqrt(lowest)) + 1):
        yield height, min(highest, (side / (height - 0.5)) ** 2) if height else highest


def largest_rectangle(grid: Grid, ratio: float) -> int:
    """Returns the largest number of patches that `rectangle_masks` hides; rounding may exceed the ratio."""
    sides = _rounded_heights(math.sqrt(hidden_count(grid, ratio)))
    return max(min(height, grid[0]) * min(round(aspect * height), grid[1]) for height, aspect in sides)


def largest_ellipse(grid: Grid, ratio: float) -> int:
    """Returns an upper bound on the patches that `ellipse_masks` hides: an unclipped ellipse's area."""
    radius = math.sqrt(hidden_count(grid, ratio) / math.pi)

    def area(rows: int, columns: int) -> int:
        squares = [np.square(np.arange(-r, r + 1) / max(r, 0.5)) for r in (rows, columns)]
        return int(np.count_nonzero(squares[1] + squares[0][:, None] <= 1.0))

    return max(
        area(min(rows, grid[0] // 2), min(round(radius * math.sqrt(aspect)), grid[1] // 2))
        for rows, aspect in _rounded_heights(radius)
    )


MODES: dict[str, Callable[[np.random.Generator, Grid, float, int], Masks]] = {
    "random": random_masks,
    "rectangle": rectangle_masks,
    "ellipse": ellipse_masks,
    "blob": blob_masks,
    "random_walk": random_walk_masks,
}
# Mode -> upper bound on the hidden patches of a mask, given the grid and the ratio.
MAX_HIDDEN: dict[str, Callable[[Grid, float], int]] = {
    "random": hidden_count,
    "rectangle": largest_rectangle,
    "ellipse": largest_ellipse,
    "blob": hidden_count,
    "random_walk": hidden_count,
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
        """Returns `config.mask`, which may contain lists, as a hashable object."""
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
      UserError: for an unknown mode, a ratio that hides no patch, or too many reference views.
    """
    require(len(mask.modes) > 0, "config.mask.modes is empty: add a pair such as ('random', 0.9)")
    for entry in mask.modes:
        if not (isinstance(entry, (tuple, list)) and len(entry) == 2):
            raise UserError(f"config.mask.modes has {entry!r}: write a pair such as ('random', 0.9)")
        mode, ratio = entry
        one_of(mode, MODES, "config.mask.modes")
        valid = isinstance(ratio, (int, float)) and 0 < ratio <= 1
        require(valid, f"config.mask.modes: {mode} has ratio {ratio!r}: write one above 0, at most 1")
        for height, width in sizes:
            grid = (height // patch, width // patch)
            if hidden_count(grid, ratio) == 0:
                raise UserError(
                    f"config.mask.modes: {mode} with ratio {ratio} hides no patch of {height}x{width}: "
                    f"write at least {1 / (grid[0] * grid[1]):.3g}"
                )
    count, fewest = mask.num_reference, min(views)
    require(count is None or count >= 0, f"config.mask.num_reference={count}: write 0 or more, or None")
    if count is not None and count >= fewest:
        raise UserError(
            f"config.mask.num_reference={count} leaves no view to mask in groups of {fewest} views: "
            f"write less than {fewest}, or remove {fewest} from config.buckets.views"
        )


def reference_range(views: int, num_reference: int | None) -> tuple[int, int]:
    """Returns the minimum and maximum number of reference views; at least one view is masked."""
    if num_reference is None:
        return views // 4, views // 2
    fixed = min(num_reference, views - 1)
    return fixed, fixed


@functools.cache
def max_hidden(views: int, grid: Grid, options: MaskOptions) -> int:
    """Returns an upper bound on the number of patches that `group_masks` hides in a group."""
    largest = max(MAX_HIDDEN[mode](grid, ratio) for mode, ratio in options.modes)
    masked = views - reference_range(views, options.num_reference)[0]
    return masked * min(largest, grid[0] * grid[1])


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
