"""Which patches are hidden (paper section 3.2).

Every sampler is a pure function of a numpy Generator, the patch grid and a ratio, and returns a bool
array (hp, wp), True = hidden.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np

Grid = tuple[int, int]

ASPECT_RANGE = (0.3, 3.0)  # width / height of rectangles and ellipses, drawn log-uniformly
BLOB_RADIUS = 1  # of the box that blurs a blob's noise, in patches


def _exactly(count: int, scores: np.ndarray, grid: Grid) -> np.ndarray:
    """Hides the `count` patches with the largest scores (hp*wp,)."""
    mask = np.zeros(grid[0] * grid[1], bool)
    mask[np.argsort(-scores, kind="stable")[:count]] = True
    return mask.reshape(grid)


def hidden_count(grid: Grid, ratio: float) -> int:
    """The patches that a ratio of a grid means, rounded half to even."""
    return round(ratio * grid[0] * grid[1])


def random_mask(rng: np.random.Generator, grid: Grid, ratio: float) -> np.ndarray:
    """Exactly round(ratio * L) patches, uniformly."""
    return _exactly(hidden_count(grid, ratio), rng.random(grid[0] * grid[1]), grid)


def _draw_aspect(rng: np.random.Generator) -> float:
    return math.exp(rng.uniform(*np.log(ASPECT_RANGE)))


def rectangle_mask(rng: np.random.Generator, grid: Grid, ratio: float) -> np.ndarray:
    """One rectangle of area about round(ratio * L), smaller where its sides would leave the grid."""
    area, aspect = hidden_count(grid, ratio), _draw_aspect(rng)
    height = round(math.sqrt(area / aspect))
    width = min(round(aspect * height), grid[1])
    height = min(height, grid[0])
    top = rng.integers(grid[0] - height + 1)
    left = rng.integers(grid[1] - width + 1)
    mask = np.zeros(grid, bool)
    mask[top : top + height, left : left + width] = True
    return mask


def ellipse_mask(rng: np.random.Generator, grid: Grid, ratio: float) -> np.ndarray:
    """One ellipse with radii in whole patches, its boundary included, wholly inside the grid."""
    area, aspect = hidden_count(grid, ratio), _draw_aspect(rng)
    radius = math.sqrt(area / math.pi)
    radii = (
        min(round(radius / math.sqrt(aspect)), grid[0] // 2),
        min(round(radius * math.sqrt(aspect)), grid[1] // 2),
    )
    # A radius of half an even side would not fit around any whole patch: the centre is kept inside.
    centre = [rng.integers(r, max(r, side - 1 - r) + 1) for r, side in zip(radii, grid)]
    rows, columns = np.indices(grid)
    y = (rows - centre[0]) / max(radii[0], 0.5)
    x = (columns - centre[1]) / max(radii[1], 0.5)
    return x**2 + y**2 <= 1.0


def blob_mask(rng: np.random.Generator, grid: Grid, ratio: float) -> np.ndarray:
    """Exactly round(ratio * L) patches, the largest values of box-blurred Gaussian noise."""
    noise = np.pad(rng.standard_normal(grid), BLOB_RADIUS, mode="edge")
    side = 2 * BLOB_RADIUS + 1
    blurred = np.lib.stride_tricks.sliding_window_view(noise, (side, side)).mean(axis=(-1, -2))
    return _exactly(hidden_count(grid, ratio), blurred.ravel(), grid)


def random_walk_mask(rng: np.random.Generator, grid: Grid, ratio: float) -> np.ndarray:
    """A connected region of exactly round(ratio * L) patches, grown from a random patch.

    A walk goes on from the patch it hid last, trying the four directions in random order; where all
    neighbours are hidden or outside, it goes back to the latest patch that still has a free one.
    """
    count = hidden_count(grid, ratio)
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


MODES = {
    "random": random_mask,
    "rectangle": rectangle_mask,
    "ellipse": ellipse_mask,
    "blob": blob_mask,
    "random_walk": random_walk_mask,
}


def reference_range(views: int, num_reference: int | None) -> tuple[int, int]:
    """Smallest and largest number of reference views of a group; at least one view stays masked."""
    if num_reference is None:
        return views // 4, views // 2
    fixed = min(num_reference, views - 1)
    return fixed, fixed


def group_mask(
    rng: np.random.Generator,
    views: int,
    grid: Grid,
    modes: Sequence[tuple[str, float]],
    num_reference: int | None = None,
) -> np.ndarray:
    """Masks of one group, whose first views are reference views and stay whole.

    Args:
      views, grid: V and (hp, wp).
      modes: pairs (mode, ratio), one of which is drawn for the group.
      num_reference: reference views; None draws uniformly from {V//4, ..., V//2}.

    Returns:
      bool (V, hp*wp), True = hidden.
    """
    low, high = reference_range(views, num_reference)
    first_masked = int(rng.integers(low, high + 1))
    mode, ratio = modes[int(rng.integers(len(modes)))]
    mask = np.zeros((views, grid[0] * grid[1]), bool)
    for view in range(first_masked, views):
        mask[view] = MODES[mode](rng, grid, ratio).ravel()
    return mask
