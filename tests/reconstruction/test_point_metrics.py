"""Errors of points: similarities are undone, and distances and normals of planes are known."""

import numpy as np
import pytest

from muskie_jax.reconstruction.even_choice import choose_evenly
from muskie_jax.reconstruction.point_metrics import align, icp, normals, point_metrics, umeyama


def rotation(seed=0):
    matrix = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return matrix * np.linalg.det(matrix)


@pytest.fixture
def cloud():
    return np.random.default_rng(1).normal(size=(500, 3))


def plane(side=40, z=0.0, slope=0.0):
    """A square grid of points with a spacing of 0.05."""
    x, y = (axis.ravel() * 0.05 for axis in np.mgrid[:side, :side])
    return np.stack([x, y, z + slope * x], -1)


def test_a_similarity_is_found_and_undone(cloud):
    moved = 3 * cloud @ rotation().T + (1, -2, 5)
    found = umeyama(moved, cloud)
    assert found.scale == pytest.approx(1 / 3)
    np.testing.assert_allclose(found.rotation, rotation().T, atol=1e-9)
    np.testing.assert_allclose(found.apply(moved), cloud, atol=1e-9)
    rigid = umeyama(moved, cloud, with_scale=False)
    assert rigid.scale == 1
    np.testing.assert_allclose(rigid.rotation, rotation().T, atol=1e-9)


def test_the_best_similarity_never_reflects(cloud):
    mirrored = cloud * (1, 1, -1)
    found = umeyama(mirrored, cloud)
    assert np.linalg.det(found.rotation) == pytest.approx(1)
    flat = cloud * (1, 1, 0)
    assert np.linalg.det(umeyama(flat, flat).rotation) == pytest.approx(1)


def test_equal_points_have_a_similarity():
    found = umeyama(np.ones((4, 3)), np.full((4, 3), 3.0))
    np.testing.assert_allclose(found.apply(np.ones((4, 3))), 3)


def test_perfect_points_have_no_error(cloud):
    aligned = align(0.2 * cloud @ rotation().T - 4, cloud)
    metrics = point_metrics(aligned, cloud)
    for name in ("accuracy", "completeness", "l1"):
        assert metrics[f"{name}_mean"] == pytest.approx(0, abs=1e-9)
    assert metrics["normals_mean"] == metrics["normals_median"] == pytest.approx(1)


def test_parallel_planes_are_their_distance_apart():
    metrics = point_metrics(plane(z=0.02), plane())
    for name in ("accuracy", "completeness"):
        assert metrics[f"{name}_mean"] == pytest.approx(0.02)
        assert metrics[f"{name}_median"] == pytest.approx(0.02)
    assert metrics["l1_mean"] == pytest.approx(0.02 / 3)
    assert metrics["l1_median"] == pytest.approx(0.02 / 3)
    assert metrics["normals_mean"] == pytest.approx(1)


def test_accuracy_and_completeness_differ():
    """Half a plane is accurate, but not complete. It repeats, since points correspond."""
    true = plane()
    half = true.copy()
    low = true[:, 0] < 0.99
    half[~low, 0] = 0.95
    metrics = point_metrics(half, true)
    assert metrics["accuracy_mean"] == pytest.approx(0, abs=1e-9)
    missing = np.where(low, 0, true[:, 0] - 0.95)
    assert metrics["completeness_mean"] == pytest.approx(missing.mean())
    assert metrics["completeness_median"] == pytest.approx(np.median(missing), abs=1e-9)
    assert metrics["l1_mean"] == pytest.approx(missing.mean() / 3)


def test_normals_of_planes():
    slope = 0.5
    expected = np.array([-slope, 0, 1]) / np.hypot(slope, 1)
    np.testing.assert_allclose(np.abs(normals(plane(slope=slope)) @ expected), 1, atol=1e-9)
    metrics = point_metrics(plane(slope=slope), plane())
    assert metrics["normals_median"] == pytest.approx(1 / np.hypot(slope, 1), abs=1e-6)


def test_icp_undoes_a_small_motion(cloud):
    turn = umeyama(cloud, cloud)._replace(
        rotation=np.array([[np.cos(0.01), -np.sin(0.01), 0], [np.sin(0.01), np.cos(0.01), 0], [0, 0, 1]]),
        translation=np.array([0.01, 0.0, -0.01]),
    )
    moved = turn.apply(cloud)
    np.testing.assert_allclose(icp(moved, cloud).apply(moved), cloud, atol=1e-3)
    shuffled = cloud[np.random.default_rng(0).permutation(len(cloud))]
    np.testing.assert_allclose(icp(moved, shuffled).apply(moved), cloud, atol=1e-3)


def test_icp_leaves_distant_points_where_they_are(cloud):
    found = icp(cloud + 100, cloud)
    np.testing.assert_array_equal(found.apply(cloud), cloud)


def test_icp_improves_on_corresponding_points_with_outliers():
    """A tenth of the corresponding points is far off, which tilts the similarity; ICP ignores them."""
    rng = np.random.default_rng(2)
    true = np.concatenate([plane(), plane()[:, [0, 2, 1]], plane()[:, [2, 0, 1]]])
    predicted = true.copy()
    predicted[rng.permutation(len(true))[: len(true) // 10]] += (0.0, 0.0, 0.15)
    plain = point_metrics(align(predicted, true), true)
    refined = point_metrics(align(predicted, true, refine=True), true)
    assert refined["accuracy_median"] < plain["accuracy_median"] / 3


def test_pixels_are_chosen_at_equal_steps():
    valid = np.ones((2, 3, 5), bool)
    valid[0, 0] = False
    np.testing.assert_array_equal(choose_evenly(valid, 0), valid)
    np.testing.assert_array_equal(choose_evenly(valid, 25), valid)
    chosen = choose_evenly(valid, 5)
    np.testing.assert_array_equal(np.flatnonzero(chosen), [5, 10, 15, 20, 25])
    assert not choose_evenly(~valid & valid, 4).any()
