"""Which patches are hidden (paper section 3.2).

Every sampler is a pure function of a numpy Generator, the patch grid, a ratio and the number of masks, and
returns a bool array (count, hp, wp), True = hidden. Masks are drawn many at a time, since a step on small
images is over sooner than Python has gone through its views one by one.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Collection, Iterator

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.checks import one_of, require
from muskie_jax.errors import UserError

Grid = tuple[int, int]

ASPECT_RANGE = (0.3, 3.0)  # width / height of rectangles and ellipses, drawn log-uniformly
BLOB_RADIUS = 1  # of the box that blurs a blob's noise, in patches


def hidden_count(grid: Grid, ratio: float) -> int:
    """The patches that a ratio of a grid means, rounded half to even."""
    return round(ratio * grid[0] * grid[1])


def _hide_largest(scores: np.ndarray, ratio: float) -> np.ndarray:
    """Exactly round(ratio * L) patches of each mask, those with the largest scores (count, hp, wp)."""
    count, *grid = scores.shape
    size = grid[0] * grid[1]
    kept = size - hidden_count(grid, ratio)
    smallest_first = np.argpartition(scores.reshape(count, size), min(kept, size - 1), axis=1)
    mask = np.ones((count, size), bool)
    np.put_along_axis(mask, smallest_first[:, :kept], False, axis=1)
    return mask.reshape(scores.shape)


def random_masks(rng: np.random.Generator, grid: Grid, ratio: float, count: int) -> np.ndarray:
    """Exactly round(ratio * L) patches, uniformly."""
    return _hide_largest(rng.random((count, *grid)), ratio)


def _draw_aspects(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.exp(rng.uniform(*np.log(ASPECT_RANGE), size=count))


def _rounded(lengths: np.ndarray) -> np.ndarray:
    return np.rint(lengths).astype(int)


def rectangle_masks(rng: np.random.Generator, grid: Grid, ratio: float, count: int) -> np.ndarray:
    """One rectangle of area about round(ratio * L), smaller where its sides would leave the grid."""
    area, aspects = hidden_count(grid, ratio), _draw_aspects(rng, count)
    heights = _rounded(np.sqrt(area / aspects))
    sides = np.minimum(heights, grid[0]), np.minimum(_rounded(aspects * heights), grid[1])

    def inside(length: int, sides: np.ndarray) -> np.ndarray:
        """The rows, or the columns, of each rectangle: (count, length)."""
        first = rng.integers(length - sides + 1)[:, None]
        return (np.arange(length) >= first) & (np.arange(length) < first + sides[:, None])

    rows, columns = map(inside, grid, sides)
    return rows[:, :, None] & columns[:, None, :]


def ellipse_masks(rng: np.random.Generator, grid: Grid, ratio: float, count: int) -> np.ndarray:
    """One ellipse with radii in whole patches, its boundary included, wholly inside the grid."""
    area, aspects = hidden_count(grid, ratio), _draw_aspects(rng, count)
    radius = math.sqrt(area / math.pi)
    radii = radius / np.sqrt(aspects), radius * np.sqrt(aspects)

    def squared_distance(length: int, radii: np.ndarray) -> np.ndarray:
        """Of each row, or column, from each centre, in radii: (count, length)."""
        radii = np.minimum(_rounded(radii), length // 2)
        # Half an even side would not fit around any whole patch: the centre is kept inside.
        centres = rng.integers(radii, np.maximum(radii, length - 1 - radii) + 1)
        return np.square((np.arange(length) - centres[:, None]) / np.maximum(radii, 0.5)[:, None])

    rows, columns = map(squared_distance, grid, radii)
    return columns[:, None, :] + rows[:, :, None] <= 1.0


def blob_masks(rng: np.random.Generator, grid: Grid, ratio: float, count: int) -> np.ndarray:
    """Exactly round(ratio * L) patches, the largest values of box-blurred Gaussian noise."""
    around = (BLOB_RADIUS, BLOB_RADIUS)
    noise = np.pad(rng.standard_normal((count, *grid)), ((0, 0), around, around), mode="edge")
    side = 2 * BLOB_RADIUS + 1
    blurred = sum(noise[:, y : y + grid[0], x : x + grid[1]] for y, x in np.ndindex(side, side))
    return _hide_largest(blurred, ratio)


def random_walk_masks(rng: np.random.Generator, grid: Grid, ratio: float, count: int) -> np.ndarray:
    """A connected region of exactly round(ratio * L) patches, grown from a random patch.

    A walk goes on from the patch it hid last, trying the four directions in random order; where all
    neighbours are hidden or outside, it goes back to the latest patch that still has a free one.
    """
    masks = np.zeros((count, *grid), bool)
    for mask in masks:
        mask[:] = _random_walk(rng, grid, hidden_count(grid, ratio))
    return masks


def _random_walk(rng: np.random.Generator, grid: Grid, count: int) -> np.ndarray:
    """One walk over `count` patches, bool (hp, wp)."""
    mask = np.zeros(grid, bool)
    if count == 0:
        return mask
    # Plain Python on a frame of hidden patches around the grid: numpy is slow one patch at a time.
    stride = grid[1] + 2
    hidden = np.pad(mask, 1, constant_values=True).ravel().tolist()
    orders = list(itertools.permutations((-stride, stride, -1, 1)))
    draws = iter(rng.integers(len(orders), size=2 * count).tolist())  # each patch is met twice at most
    patch = (int(rng.integers(grid[0])) + 1) * stride + int(rng.integers(grid[1])) + 1
    hidden[patch] = True
    path = [patch]
    for _ in range(count - 1):
        free = None
        while free is None:  # the hidden region is connected, so some patch of the path has a way on
            around = (path[-1] + step for step in orders[next(draws)])
            free = next((patch for patch in around if not hidden[patch]), None)
            if free is None:
                path.pop()
        hidden[free] = True
        path.append(free)
    return np.array(hidden).reshape(grid[0] + 2, stride)[1:-1, 1:-1]


def _rounded_heights(side: float) -> Iterator[tuple[int, float]]:
    """The values that round(side / sqrt(a)) takes over all aspects a, and the largest a of each."""
    lowest, highest = ASPECT_RANGE
    for height in range(round(side / math.sqrt(highest)), round(side / math.sqrt(lowest)) + 1):
        yield height, min(highest, (side / (height - 0.5)) ** 2) if height else highest


def largest_rectangle(grid: Grid, ratio: float) -> int:
    """Patches of the largest mask that `rectangle_masks` can draw: rounding may exceed the ratio."""
    sides = _rounded_heights(math.sqrt(hidden_count(grid, ratio)))
    return max(min(height, grid[0]) * min(round(aspect * height), grid[1]) for height, aspect in sides)


def largest_ellipse(grid: Grid, ratio: float) -> int:
    """Patches of the largest mask that `ellipse_masks` can draw, if it were in the middle of a grid."""
    radius = math.sqrt(hidden_count(grid, ratio) / math.pi)

    def area(rows: int, columns: int) -> int:
        squares = [np.square(np.arange(-r, r + 1) / max(r, 0.5)) for r in (rows, columns)]
        return np.count_nonzero(squares[1] + squares[0][:, None] <= 1.0)

    return max(
        area(min(rows, grid[0] // 2), min(round(radius * math.sqrt(aspect)), grid[1] // 2))
        for rows, aspect in _rounded_heights(radius)
    )


MODES = {
    "random": random_masks,
    "rectangle": rectangle_masks,
    "ellipse": ellipse_masks,
    "blob": blob_masks,
    "random_walk": random_walk_masks,
}
# Patches of the largest mask of a mode, by grid and ratio.
LARGEST = {
    "random": hidden_count,
    "rectangle": largest_rectangle,
    "ellipse": largest_ellipse,
    "blob": hidden_count,
    "random_walk": hidden_count,
}


@dataclasses.dataclass(frozen=True)
class MaskOptions:
    """Settings of the masks of a group: `config.mask`. The defaults are the published ones.

    Attributes:
      modes: pairs (mode, ratio), one of which is drawn for each group; the ratio is the fraction of a
        view's patches that a mask hides.
      num_reference: reference views of a group, which stay unmasked; None draws their number uniformly
        from {V//4, ..., V//2} for each group.
    """

    modes: tuple[tuple[str, float], ...] = (("random", 0.9), ("rectangle", 0.75), ("ellipse", 0.75))
    num_reference: int | None = None

    @classmethod
    def of(cls, mask: ConfigDict) -> "MaskOptions":
        """Returns the options of `config.mask`, which may hold lists, as a hashable object."""
        return cls(tuple((mode, ratio) for mode, ratio in mask.modes), mask.num_reference)


def check_masks(
    mask: ConfigDict, sizes: Collection[tuple[int, int]], patch: int, views: Collection[int]
) -> None:
    """Checks `config.mask`.

    Args:
      mask: `config.mask`.
      sizes: (height, width) of all images that masks are drawn for, pixels.
      patch: side of a patch, pixels.
      views: all numbers of views that a group may have.

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
    """Smallest and largest number of reference views of a group; at least one view stays masked."""
    if num_reference is None:
        return views // 4, views // 2
    fixed = min(num_reference, views - 1)
    return fixed, fixed


@functools.cache
def most_hidden(views: int, grid: Grid, options: MaskOptions) -> int:
    """The most patches of a group that `group_masks`, with the same arguments, can hide."""
    largest = max(LARGEST[mode](grid, ratio) for mode, ratio in options.modes)
    masked = views - reference_range(views, options.num_reference)[0]
    return masked * min(largest, grid[0] * grid[1])


def group_masks(
    rng: np.random.Generator,
    groups: int,
    views: int,
    grid: Grid,
    options: MaskOptions,
) -> np.ndarray:
    """Masks of groups, whose first views are reference views and stay whole.

    Args:
      groups, views, grid: B, V and (hp, wp).
      options: which masks.

    Returns:
      bool (B, V, hp*wp), True = hidden.
    """
    low, high = reference_range(views, options.num_reference)
    references = rng.integers(low, high + 1, size=groups)
    drawn = rng.integers(len(options.modes), size=groups)
    masked = np.arange(views) >= references[:, None]
    masks = np.zeros((groups, views, *grid), bool)
    for number, (mode, ratio) in enumerate(options.modes):
        chosen = masked & (drawn == number)[:, None]
        if count := np.count_nonzero(chosen):
            masks[chosen] = MODES[mode](rng, grid, ratio, count)
    return masks.reshape(groups, views, grid[0] * grid[1])
