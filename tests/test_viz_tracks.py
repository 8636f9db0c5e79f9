"""Pictures of tracks: rings at true positions, dots at predicted ones, nothing where occluded."""

import numpy as np
import pytest

from muskie_jax.viz.tracks import COLUMNS, GAP, MAX_POINTS, TILE_WIDTH, spread_points, track_picture

GREY = 60


def drawn(points, truth, predicted, visible, size=(96, 128)):
    """Returns which pixels of each tile were drawn on: bool (views, height, width)."""
    views = truth.shape[1]
    sheet = track_picture(np.full((views, *size, 3), GREY, np.uint8), points, truth, predicted, visible)
    height = round(TILE_WIDTH * size[0] / size[1])
    assert sheet.dtype == np.uint8
    tiles = []
    for view in range(views):
        row, column = divmod(view, COLUMNS)
        top, left = row * (height + GAP), column * (TILE_WIDTH + GAP)
        tiles.append((sheet[top : top + height, left : left + TILE_WIDTH] != GREY).any(-1))
    return np.stack(tiles)


def one_point(at=(40.0, 30.0), true=(80.0, 60.0), predicted=(100.0, 20.0)):
    truth = np.array([[at, true]])
    return drawn(np.array([at]), truth, np.array([[at, predicted]]), np.array([[True, True]]))


def centre(tile):
    """Returns the centre of the drawn pixels, in pixels of the view."""
    y, x = np.nonzero(tile)
    return np.array([(x.min() + x.max() + 1) / 2, (y.min() + y.max() + 1) / 2]) * 128 / TILE_WIDTH - 0.5


def test_points_are_drawn_at_their_positions():
    first, second = one_point(true=(80.0, 60.0), predicted=(80.0, 60.0))
    np.testing.assert_allclose(centre(first), (40, 30), atol=0.3)
    np.testing.assert_allclose(centre(second), (80, 60), atol=0.3)


def test_a_line_joins_truth_and_prediction():
    _, apart = one_point()
    _, together = one_point(predicted=(80.0, 60.0))
    scale = TILE_WIDTH / 128
    for fraction in (0.0, 0.3, 0.5, 0.8, 1.0):
        x, y = scale * (np.array((80, 60)) + fraction * np.array((20, -40)) + 0.5)
        assert apart[round(y), round(x)]
    assert apart.sum() > together.sum() + 100


def test_occluded_or_unknown_points_are_not_drawn():
    points = np.array([[40.0, 30.0]])
    truth = np.broadcast_to(points[:, None], (1, 4, 2))
    predicted = truth.copy()
    predicted[0, 3, 0] = np.nan
    tiles = drawn(points, truth, predicted, np.array([[False, True, False, True]]))
    assert tiles.any((1, 2)).tolist() == [True, True, False, False]


def test_prediction_outside_the_view_is_drawn_up_to_its_edge():
    _, second = one_point(predicted=(-4000.0, 300.0))
    assert second[:, 0].any()


@pytest.mark.parametrize("size", [(480, 640), (128, 128)])
def test_many_points_are_thinned_to_some_far_apart(size):
    rng = np.random.default_rng(0)
    points = rng.uniform(0, 1, (100, 2)) * (size[1] - 1, size[0] - 1)
    visible = rng.uniform(size=(100, 5)) < 0.7
    visible[:20, 1:] = False
    chosen = spread_points(points, visible[:, 1:].sum(1), MAX_POINTS)
    assert len(set(chosen)) == MAX_POINTS and chosen.min() >= 20
    distances = np.linalg.norm(points[chosen, None] - points[chosen], axis=-1)
    distances[np.diag_indices(MAX_POINTS)] = np.inf
    assert distances.min() > 0.08 * max(size)
    truth = np.broadcast_to(points[:, None], (100, 5, 2))
    tiles = drawn(points, truth, truth, visible, size)
    assert tiles.shape == (5, round(TILE_WIDTH * size[0] / size[1]), TILE_WIDTH)
    assert tiles.mean((1, 2)).max() < 0.2 and tiles.any((1, 2)).all()


def test_no_points():
    none = np.zeros((0, 2, 2))
    assert not drawn(np.zeros((0, 2)), none, none, np.zeros((0, 2), bool)).any()
