"""Matches of grid points against plain numpy, and their errors in closed form."""

import numpy as np
import pytest

from muskie_jax.correspondence import RECALL_PROTOCOLS, recall
from muskie_jax.correspondence.recall import (
    grid_points,
    known_points,
    linear_weights,
    match_errors,
    match_grids,
    recall_metrics,
)
from muskie_jax.data.posed import PosedViews

SIZE, FOCAL, DEPTH = (24, 40), 50.0, 2.0


def wall(shift=8, views=2):
    """Views of a wall; the image moves by `shift` pixels from view to view."""
    depth = np.full((views, *SIZE), DEPTH, np.float32)
    depth[:, :4, :4] = 0
    poses = np.repeat(np.eye(4)[None], views, 0)
    poses[:, 0, 3] = -shift * np.arange(views) * DEPTH / FOCAL
    intrinsics = np.array([[FOCAL, 0, SIZE[1] / 2], [0, FOCAL, SIZE[0] / 2], [0, 0, 1]])
    images = np.zeros((views, *SIZE, 3), np.uint8)
    return PosedViews(images, depth, depth > 0, np.repeat(intrinsics[None], views, 0), poses)


def test_settings_name_the_protocols():
    assert tuple(recall.PROTOCOLS) == RECALL_PROTOCOLS


@pytest.mark.parametrize("protocol, position", [("navi", (4.5, 0.5)), ("scannet", (6, 2))])
def test_the_grid_has_every_fourth_pixel(protocol, position):
    views = wall()
    views.depth[:, 1:4, 4:8] = 9  # not read: depth is that of the first of 4 x 4 pixels
    points, known = grid_points(views, protocol), known_points(views)
    assert recall.grid_size(SIZE) == (6, 10)
    assert points.shape == (2, 60, 3) and known.shape == (2, 60)
    assert not known[0, 0] and known[0, 1:].all()
    expected = np.array([(position[0] - 20) / FOCAL, (position[1] - 12) / FOCAL, 1]) * DEPTH
    np.testing.assert_allclose(points[0, 1], expected)


def test_a_view_whose_sides_are_no_multiples_of_four():
    views = PosedViews(
        *(x[:, :23, :39] for x in wall()[:3]), intrinsics=wall().intrinsics, world_to_camera=wall()[4]
    )
    assert known_points(views).shape == (2, 5 * 9) == grid_points(views, "navi").shape[:2]


def test_linear_weights_are_those_of_linear_interpolation():
    line = np.array([1.0, 3, 2])
    np.testing.assert_allclose(linear_weights(3, 6) @ line, [1, 1.5, 2.5, 2.75, 2.25, 2])
    np.testing.assert_allclose(linear_weights(3, 3), np.eye(3))


def test_protocols_interpolate_differently():
    features = np.random.default_rng(0).normal(size=(2, 3, 4, 8)).astype(np.float32)
    known = np.ones((2, 12 * 16), bool)
    clear = {name: match_grids(features, known, (12, 16), name)[1] for name in RECALL_PROTOCOLS}
    assert np.abs(clear["navi"] - clear["scannet"]).max() > 1e-3


@pytest.mark.parametrize("protocol", RECALL_PROTOCOLS)
def test_matches_equal_those_of_plain_numpy(protocol):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(3, 4, 5, 7)).astype(np.float32)
    known = rng.random((3, 20)) < 0.8
    index, clear = match_grids(features, known, (4, 5), protocol)
    flat = features.reshape(3, 20, 7).astype(np.float64)
    flat /= np.linalg.norm(flat, axis=-1, keepdims=True)
    for other in (1, 2):
        for point in range(20):
            distance = np.where(known[other], 1 - flat[other] @ flat[0, point], np.inf)
            first, second = np.argsort(distance)[:2]
            if not known[0, point]:
                assert clear[other - 1, point] == -1
                continue
            assert index[other - 1, point] == first
            expected = 1 - distance[first] / distance[second]
            assert clear[other - 1, point] == pytest.approx(expected, abs=1e-4)


def test_a_view_without_known_points_has_no_matches():
    known = np.ones((2, 4), bool)
    known[1] = False
    _, clear = match_grids(np.ones((2, 2, 2, 3), np.float32), known, (2, 2), "navi")
    assert (np.asarray(clear) == -1).all()
    known[1, 0] = True
    index, clear = match_grids(np.eye(4).reshape(1, 2, 2, 4).repeat(2, 0), known, (2, 2), "navi")
    assert (np.asarray(index) == 0).all() and (np.asarray(clear) >= 0).all()


def test_errors_are_distances_of_surface_points():
    views = wall()
    points, known = grid_points(views, "navi"), known_points(views)
    index = np.arange(60)  # matched to the same pixel, which shows a point 8 pixels away
    clear = np.where(known[0], 0.5, -1)
    errors = match_errors(index, clear, points, views, 1)
    assert len(errors.metres) == 59
    np.testing.assert_allclose(errors.pixels, 8)
    np.testing.assert_allclose(errors.metres, 8 * DEPTH / FOCAL)
    right = match_errors(np.maximum(index - 2, 0), clear, points, views, 1)  # two grid points to the left
    seen = index[clear >= 0] % 10 >= 2
    seen[1] = False  # its match has no depth
    assert seen.sum() == 47
    np.testing.assert_allclose(right.metres[seen], 0, atol=1e-6)
    metrics = recall_metrics(errors)
    assert (metrics["px_5"], metrics["px_10"], metrics["cm_5"]) == (0, 100, 0)


def test_the_clearest_matches_count(monkeypatch):
    monkeypatch.setattr(recall, "MATCHES", 2)
    views = wall()
    points = grid_points(views, "navi")
    index, clear = np.arange(60), np.zeros(60)
    for point, how_clear in ((33, 0.9), (35, 0.8)):
        index[point], clear[point] = point - 2, how_clear
    np.testing.assert_allclose(match_errors(index, clear, points, views, 1).metres, 0, atol=1e-6)


def test_a_point_behind_the_other_camera_is_wrong_in_the_image():
    views = wall()
    views.world_to_camera[1, 2, 3] = -5
    errors = match_errors(np.arange(60), np.ones(60), grid_points(views, "navi"), views, 1)
    assert np.isinf(errors.pixels).all() and np.isfinite(errors.metres).all()
