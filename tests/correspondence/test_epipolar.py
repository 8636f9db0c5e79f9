"""Epipolar distances of points whose positions are known exactly."""

import numpy as np
import pytest

from muskie_jax.correspondence.epipolar import (
    draw_pixels,
    epipolar_distances,
    fundamental_matrices,
    has_baseline,
)
from muskie_jax.data.posed import PosedViews
from muskie_jax.viz.epipolar import clip_line
from muskie_tests.posed_trees import CENTRED, INTRINSICS, rotation

VIEWS = 4


@pytest.fixture(scope="module")
def scene():
    """Views without depth, points of the first view, and their exact positions (N, V, 2)."""
    rng = np.random.default_rng(0)
    poses = np.repeat(np.eye(4)[None], VIEWS, 0)
    for number in range(VIEWS):
        poses[number, :3, :3] = rotation(*rng.normal(0, 0.2, 3))
        poses[number, :3, 3] = rng.normal(0, 0.5, 3)
    intrinsics = np.stack([INTRINSICS, CENTRED] * (VIEWS // 2))
    points = draw_pixels(rng, (60, 80), 50)
    pixels = np.concatenate([points + 0.5, np.ones((50, 1))], 1)
    local = pixels @ np.linalg.inv(intrinsics[0]).T * rng.uniform(2, 6, (50, 1))
    homogeneous = np.concatenate([local, np.ones((50, 1))], 1) @ np.linalg.inv(poses[0]).T
    in_view = np.einsum("vij,nj->nvi", poses[:, :3], homogeneous)
    projected = np.einsum("vij,nvj->nvi", intrinsics, in_view)
    tracks = projected[..., :2] / projected[..., 2:] - 0.5
    blank = np.zeros((VIEWS, 60, 80), np.float32)
    images = np.zeros((VIEWS, 60, 80, 3), np.uint8)
    return PosedViews(images, blank, blank > 0, intrinsics, poses), points, tracks


def test_true_positions_lie_on_their_lines(scene):
    views, points, tracks = scene
    fundamental = fundamental_matrices(views)
    distances = epipolar_distances(points, tracks, fundamental)
    assert distances.shape == (50, VIEWS) and distances[:, 1:].max() < 1e-9
    # Positions at the pixels' corners rather than centres are off the lines.
    assert epipolar_distances(points - 0.5, tracks, fundamental)[:, 1:].mean() > 0.05


def test_the_distance_of_a_shifted_position(scene):
    views, points, tracks = scene
    fundamental = fundamental_matrices(views)
    homogeneous = np.concatenate([points + 0.5, np.ones((50, 1))], 1)
    for view in range(1, VIEWS):
        normal = (homogeneous @ fundamental[view].T)[:, :2]
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        along = np.stack([-normal[:, 1], normal[:, 0]], 1)
        moved = np.array(tracks)
        moved[:, view] += 7 * along
        assert epipolar_distances(points, moved, fundamental)[:, view].max() < 1e-9
        moved[:, view] += 3 * normal
        line = np.concatenate([moved[:, view] + 0.5, np.ones((50, 1))], 1) @ fundamental[view]
        in_first = np.abs((line * homogeneous).sum(1)) / np.linalg.norm(line[:, :2], axis=1)
        expected = (3 + in_first) / 2
        np.testing.assert_allclose(
            epipolar_distances(points, moved, fundamental)[:, view], expected, atol=1e-9
        )


def test_a_batch_of_predictions(scene):
    views, points, tracks = scene
    fundamental = fundamental_matrices(views)
    batch = np.stack([tracks, tracks + 5])
    distances = epipolar_distances(points, batch, fundamental)
    np.testing.assert_array_equal(distances[1], epipolar_distances(points, tracks + 5, fundamental))


def test_the_distance_does_not_depend_on_the_unit_of_the_poses(scene):
    views, points, tracks = scene
    poses = views.world_to_camera.copy()
    poses[:, :3, 3] *= 100
    scaled = fundamental_matrices(views._replace(world_to_camera=poses))
    distances = epipolar_distances(points, tracks + 2, fundamental_matrices(views))
    np.testing.assert_allclose(epipolar_distances(points, tracks + 2, scaled)[:, 1:], distances[:, 1:])


def test_views_from_one_position_have_no_lines(scene):
    views, points, tracks = scene
    poses = views.world_to_camera.copy()
    centre = -poses[0, :3, :3].T @ poses[0, :3, 3]
    poses[2, :3, 3] = -poses[2, :3, :3] @ (centre + 1e-4)
    assert has_baseline(poses).tolist() == [False, True, False, True]
    for scale in (1e-3, 1e3):
        scaled = poses.copy()
        scaled[:, :3, 3] *= scale
        assert has_baseline(scaled).tolist() == [False, True, False, True]
    poses[:, :3, 3] = -np.einsum("vij,j->vi", poses[:, :3, :3], centre)  # a camera that only turns
    assert not has_baseline(poses).any()
    turned = fundamental_matrices(views._replace(world_to_camera=np.repeat(poses[:1], VIEWS, 0)))
    assert np.isfinite(epipolar_distances(points, tracks, turned)).all()


def test_pixels_are_drawn_uniformly_and_once():
    points = draw_pixels(np.random.default_rng(0), (6, 8), 100)
    assert sorted(map(tuple, points.tolist())) == [(x, y) for x in range(8) for y in range(6)]
    few = draw_pixels(np.random.default_rng(0), (600, 800), 1000)
    assert len(np.unique(few, axis=0)) == 1000
    np.testing.assert_allclose(few.mean(0), [400, 300], atol=20)
    np.testing.assert_allclose(few.std(0), np.array([800, 600]) / 12**0.5, rtol=0.05)


@pytest.mark.parametrize(
    "line, ends",
    [
        ((0, 1, -3), ((0, 3), (8, 3))),
        ((1, 0, -2), ((2, 0), (2, 6))),
        ((1, -1, 0), ((0, 0), (6, 6))),
        ((1, 1, -12), ((6, 6), (8, 4))),
        ((1, 0, 2), None),
        ((1, 1, 0), None),  # only the corner
        ((0, 0, 1), None),
    ],
)
def test_lines_are_clipped_to_the_image(line, ends):
    found = clip_line(np.array(line, float), (6, 8))
    assert (found is None) == (ends is None)
    if found and ends:
        np.testing.assert_allclose(found, ends)
