"""Finding a point of one view in the others."""

import numpy as np
import pytest

from muskie_jax.photographs.point_search import MIN_CONFIDENCE, find_point

SIZE, GRID = (96, 128), (6, 8)  # patches of 16 pixels


def shifted_features(shifts, seed=0):
    """Features of views of one flat scene; view v shows it moved by `shifts[v]` = (columns, rows)."""
    rng = np.random.default_rng(seed)
    scene = rng.standard_normal((30, 30, 64)).astype(np.float32)
    rows, columns = GRID
    views = [scene[10 - y : 10 - y + rows, 10 - x : 10 - x + columns] for x, y in shifts]
    return np.stack(views)


@pytest.mark.parametrize("view", [0, 1, 2])
def test_a_point_moves_as_its_view_does(view):
    shifts = np.array([(0, 0), (1, 0), (-2, 1)])
    features = shifted_features(shifts)
    point = np.array([3.5 * 16 + 3, 2.5 * 16 - 2])
    found = find_point(features, view, point, SIZE)
    expected = point + 16 * (shifts - shifts[view])
    np.testing.assert_allclose(found.positions, expected, atol=2)
    np.testing.assert_array_equal(found.positions[view], point)
    assert found.visible.all() and (found.confidence > 0.5).all()


def test_a_point_that_is_elsewhere_is_not_visible():
    features = shifted_features([(0, 0), (1, 0)])
    other = shifted_features([(0, 0)], seed=1)
    found = find_point(np.concatenate([features, other]), 0, np.array([60.0, 40.0]), SIZE)
    assert found.visible.tolist() == [True, True, False]
    assert found.confidence[1] > MIN_CONFIDENCE


def test_confidence_is_that_of_the_3x3_patches_around_the_position():
    features = np.zeros((2, *GRID, 64), np.float32)  # all patches are alike
    found = find_point(features, 0, np.array([72.0, 40.0]), SIZE)
    fraction = found.confidence[1] * GRID[0] * GRID[1]
    assert round(float(fraction), 3) in (4, 6, 9), "patches inside the view"
    assert found.visible[0], "in its own view"


def test_a_match_that_does_not_lead_back_is_not_visible():
    rows, columns = GRID
    rng = np.random.default_rng(0)
    surface, other = rng.standard_normal((2, rows, columns // 2, 64)).astype(np.float32)
    copy = surface + 0.5 * rng.standard_normal(surface.shape).astype(np.float32)
    features = np.stack([np.concatenate([surface, copy], 1), np.concatenate([surface, other], 1)])
    original, imitation = (find_point(features, 0, np.array([x, 56.0]), SIZE) for x in (24.0, 88.0))
    assert original.visible[1] and imitation.confidence[1] > MIN_CONFIDENCE
    np.testing.assert_allclose(imitation.positions[1], original.positions[1], atol=4)
    assert not imitation.visible[1], "the first view has a better match for it"
