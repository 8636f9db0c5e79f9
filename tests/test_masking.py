"""Masks have the published statistics, over 1000 draws of each mode."""

import collections

import numpy as np
import pytest
from ml_collections import ConfigDict

from muskie_jax.masking import (
    MODES,
    WALKS_AT_ONCE,
    MaskOptions,
    group_masks,
    hidden_count,
    inside_ellipse,
    reference_range,
)

GRID = (14, 18)
DRAWS = 1000


def draws(mode, ratio, grid=GRID):
    return MODES[mode](np.random.default_rng(0), grid, ratio, DRAWS)


def connected(mask):
    """Returns whether the hidden patches form one 4-connected region."""
    reached = np.zeros_like(mask)
    reached[tuple(np.argwhere(mask)[0])] = True
    for _ in range(mask.size):
        grown = reached.copy()
        grown[1:] |= reached[:-1]
        grown[:-1] |= reached[1:]
        grown[:, 1:] |= reached[:, :-1]
        grown[:, :-1] |= reached[:, 1:]
        grown &= mask
        if (grown == reached).all():
            break
        reached = grown
    return (reached == mask).all()


@pytest.mark.parametrize("mode", ["random", "blob", "random_walk"])
@pytest.mark.parametrize("ratio", [0.9, 0.35])
def test_exact_counts(mode, ratio):
    masks = draws(mode, ratio)
    assert (masks.sum((1, 2)) == round(ratio * 14 * 18)).all()
    fewest = 0.1 if mode == "random_walk" else 0.99  # large regions leave only corners
    assert len(np.unique(masks.reshape(DRAWS, -1), axis=0)) > fewest * DRAWS


def test_random_is_uniform():
    frequency = draws("random", 0.9).mean(0)
    # Each patch is hidden with probability 227/252, with a standard error of 0.0095 over 1000 draws.
    assert np.abs(frequency - hidden_count(GRID, 0.9) / 252).max() < 5 * 0.0095


@pytest.mark.parametrize("ratio", [0.75, 0.3])
def test_rectangles(ratio):
    masks = draws("rectangle", ratio)
    height, width = masks.any(2).sum(1), masks.any(1).sum(1)
    assert (masks.sum((1, 2)) == height * width).all(), "a rectangle is filled"
    for lines in (masks.any(2), masks.any(1)):  # and connected
        assert (np.abs(np.diff(np.pad(lines, ((0, 0), (1, 1))).astype(int))).sum(1) == 2).all()
    area = ratio * 14 * 18
    free = (height < 14) & (width < 18)  # where neither side was clipped
    assert free.sum() > 50
    # The height is rounded, and the width follows it before it is rounded too.
    assert (np.abs(height * width - area) <= width + 0.5 * height + 1)[free].all()
    assert (height * width)[free].mean() == pytest.approx(area, rel=0.03)
    logs = np.log(width / height)[free] if ratio == 0.3 else None
    if logs is not None:
        # Log-uniform in [0.3, 3]: the middle is at -0.053, the standard deviation 0.665 (clipping
        # cuts off the widest and highest, so the bounds are loose).
        assert -0.25 < logs.mean() < 0.15 and 0.5 < logs.std() < 0.75
        assert np.exp(logs).min() > 0.25 and np.exp(logs).max() < 3.6


def test_rectangle_positions_are_uniform():
    masks = draws("rectangle", 0.1, (12, 12))
    firsts = []
    for lines in (masks.any(2), masks.any(1)):
        first, length = lines.argmax(1), lines.sum(1)
        frequent = [size for size in np.unique(length) if (length == size).sum() > 200]
        assert frequent
        for size in frequent:
            counts = np.bincount(first[length == size], minlength=12 - size + 1)
            assert counts.min() > 0.5 * counts.mean() and counts.max() < 1.6 * counts.mean()
            assert len(counts) == 12 - size + 1
        firsts.append(first / (12 - length))
    assert abs(np.corrcoef(firsts)[0, 1]) < 0.1, "rows and columns are independent"


@pytest.mark.parametrize("grid", [(14, 18), (15, 15)])
def test_ellipses(grid):
    ratio = 0.3
    masks = draws("ellipse", ratio, grid)
    height, width = masks.any(2).sum(1), masks.any(1).sum(1)
    free = (height < grid[0] - 1) & (width < grid[1] - 1)
    assert free.sum() > 300
    # Boundary included: radius r covers 2 r + 1 patches, the area of a grid of points in the ellipse.
    assert (height[free] % 2 == 1).all() and (width[free] % 2 == 1).all()
    area = masks.sum((1, 2))[free]
    expected = np.pi * (height[free] // 2) * (width[free] // 2)
    assert np.abs(area - expected).max() < 0.4 * expected.max()
    assert area.mean() == pytest.approx(ratio * grid[0] * grid[1], rel=0.15)
    flipped = masks[:, ::-1, ::-1]
    mirrored = [(m & f).sum() / m.sum() for m, f in zip(masks, flipped)]
    assert np.mean(mirrored) < 0.98, "centres vary"
    inside = masks[free]
    rows = np.arange(grid[0])[None, :, None]
    centre = (inside * rows).sum((1, 2)) / inside.sum((1, 2))
    assert np.allclose(centre, np.round(centre)), "symmetric about a patch"


def test_the_boundary_of_an_ellipse_is_hidden_despite_rounding():
    offsets = np.arange(-5, 6)
    circle = inside_ellipse(offsets[:, None], offsets, (np.array(5), np.array(5)))
    assert circle.sum() == 81, "all lattice points with x² + y² <= 25, such as (3, 4)"
    assert circle[5 + 3, 5 + 4]


def edges_and_depths(masks):
    """Returns the means of hidden/visible edges and of the distance from hidden to visible patches."""
    edges = (masks[:, 1:] != masks[:, :-1]).sum((1, 2)) + (masks[:, :, 1:] != masks[:, :, :-1]).sum((1, 2))
    depths = []
    for mask in masks[:200]:
        hidden, visible = np.argwhere(mask), np.argwhere(~mask)
        depths.append(np.abs(hidden[:, None] - visible).sum(-1).min(1).mean())
    return edges.mean(), np.mean(depths)


@pytest.mark.parametrize(
    "mode, grid, edges, depth",
    [
        ("blob", (14, 14), 51, 3.5),
        ("blob", (24, 24), 128, 4.2),
        ("blob", (32, 18), 127, 4.3),
        ("random_walk", (14, 14), 25, 5.8),
        ("random_walk", (24, 24), 44, 9.6),
        ("random_walk", (32, 18), 39, 10.9),
    ],
)
def test_statistics_of_the_published_code(mode, grid, edges, depth):
    masks = MODES[mode](np.random.default_rng(0), grid, 0.75, DRAWS)
    found_edges, found_depth = edges_and_depths(masks)
    assert found_edges == pytest.approx(edges, rel=0.04)
    assert found_depth == pytest.approx(depth, rel=0.06)


def test_random_walks_are_connected_and_start_anywhere():
    masks = draws("random_walk", 0.3)
    assert all(connected(mask) for mask in masks[:100])
    assert masks.mean(0).min() > 0.05
    assert not all(connected(mask) for mask in draws("random", 0.3)[:100])


def breadth_first_region(rng, grid, size):
    """Grows one region patch by patch, from the definition."""
    region = {(int(rng.integers(grid[0])), int(rng.integers(grid[1]))): None}  # a dict keeps the order
    queue = list(region)
    while len(region) < size:
        row, column = queue.pop(0)
        for step in rng.permutation([(1, 0), (-1, 0), (0, 1), (0, -1)]):
            patch = (row + int(step[0]), column + int(step[1]))
            inside = 0 <= patch[0] < grid[0] and 0 <= patch[1] < grid[1]
            if inside and patch not in region and len(region) < size:
                region[patch] = None
                queue.append(patch)
    return frozenset(region)


def test_random_walks_have_the_distribution_of_a_breadth_first_search():
    grid, count = (3, 4), 4 * DRAWS
    rng = np.random.default_rng(0)
    masks = MODES["random_walk"](rng, grid, 0.5, count)
    drawn = collections.Counter(frozenset(map(tuple, np.argwhere(mask).tolist())) for mask in masks)
    expected = collections.Counter(breadth_first_region(rng, grid, 6) for _ in range(count))
    assert drawn.keys() == expected.keys()
    chi_squared = sum((drawn[k] - expected[k]) ** 2 / (drawn[k] + expected[k]) for k in expected)
    degrees = len(expected) - 1
    assert chi_squared < degrees + 4 * np.sqrt(2 * degrees)


def test_one_large_draw_of_random_walks_equals_its_blocks():
    masks = MODES["random_walk"](np.random.default_rng(0), (6, 7), 0.4, WALKS_AT_ONCE + 5)
    rng = np.random.default_rng(0)
    blocks = [MODES["random_walk"](rng, (6, 7), 0.4, n) for n in (WALKS_AT_ONCE, 5)]
    assert (masks == np.concatenate(blocks)).all()


@pytest.mark.parametrize("mode", MODES)
def test_masks_drawn_together_have_the_statistics_of_single_draws(mode):
    together = draws(mode, 0.35)
    rng = np.random.default_rng(1)
    alone = np.concatenate([MODES[mode](rng, GRID, 0.35, 1) for _ in range(DRAWS // 4)])
    error = np.sqrt(together.mean(0) * (1 - together.mean(0)) * 5 / DRAWS)
    assert (np.abs(together.mean(0) - alone.mean(0)) <= 5 * error + 0.005).all()
    sizes = [np.sort(masks.sum((1, 2))) for masks in (together[::4], alone)]
    assert np.abs(sizes[0] - sizes[1]).mean() < 2.5, "areas have the same distribution"
    # Masks are independent: consecutive ones overlap as much as distant ones.
    overlap = lambda distance: (together & np.roll(together, distance, 0)).sum((1, 2)).mean()
    assert overlap(1) == pytest.approx(overlap(DRAWS // 2), rel=0.1)


def test_full_and_tiny_grids():
    rng = np.random.default_rng(0)
    for mode in MODES:
        for grid in [(1, 1), (1, 5), (2, 2), (4, 3)]:
            for ratio in (0.1, 0.75, 1.0):
                for count in (0, 1, 3):
                    assert MODES[mode](rng, grid, ratio, count).shape == (count, *grid)
    assert MODES["random_walk"](rng, (4, 3), 1.0, 2).all()
    assert (MODES["ellipse"](rng, (4, 3), 0.01, 9).sum((1, 2)) == 1).all(), "a radius of 0 is one patch"


@pytest.mark.parametrize("views", [1, 2, 4, 8])
def test_reference_views_are_not_masked(views):
    rng = np.random.default_rng(0)
    modes = (("random", 0.9), ("rectangle", 0.75))
    masks = group_masks(rng, DRAWS, views, (4, 6), MaskOptions(modes))
    masked = masks.any(2)
    references = views - masked.sum(1)
    low, high = views // 4, views // 2
    counts = np.bincount(references, minlength=high + 1)[low:]
    assert counts.sum() == DRAWS and (counts > 0.7 * DRAWS / (high - low + 1)).all()
    assert (masked[:, :-1] <= masked[:, 1:]).all(), "reference views come first"
    if views > 1:
        different = (masks[:, -1] != masks[:, -2]).any(1)[masked[:, -2]]
        assert different.mean() > 0.8, "each masked view has its own mask"
    is_random = masks.sum(2) == round(0.9 * 24)  # more than any rectangle hides
    assert is_random[:, -1].mean() == pytest.approx(0.5, abs=0.06), "modes are equally frequent"
    assert (is_random[:, -1:] == is_random)[masked].all(), "all views of a group share a mode"
    if low < high:
        assert abs(np.corrcoef(references, is_random[:, -1])[0, 1]) < 0.1


def test_a_fixed_number_of_references_leaves_a_masked_view():
    rng = np.random.default_rng(0)
    options = MaskOptions((("random", 1.0),), 3)
    assert group_masks(rng, 2, 4, (3, 3), options).sum(2).tolist() == [[0, 0, 0, 9]] * 2
    assert group_masks(rng, 1, 2, (3, 3), options).sum(2).tolist() == [[0, 9]]
    assert reference_range(1, 2) == (0, 0)


def test_lists_of_a_config_file_become_tuples():
    config = ConfigDict({"modes": [["random", 0.6], ["blob", 0.75]], "num_reference": 1})
    assert MaskOptions.of(config) == MaskOptions((("random", 0.6), ("blob", 0.75)), 1)
