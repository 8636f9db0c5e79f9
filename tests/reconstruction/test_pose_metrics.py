"""Errors of relative poses: closed forms, and invariance to the common frame and to scale."""

import numpy as np
import pytest

from muskie_jax.reconstruction.pose_metrics import (
    PoseErrors,
    pose_auc,
    pose_metrics,
    pose_metrics_by_group,
    relative_pose_errors,
)


def about(axis, degrees):
    """Rotation about an axis, by Rodrigues' formula."""
    x, y, z = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def pose(rotation, centre):
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = rotation, centre
    return result


@pytest.fixture
def cameras():
    rng = np.random.default_rng(0)
    return np.stack(
        [pose(about(rng.normal(size=3), rng.uniform(0, 170)), rng.normal(size=3)) for _ in range(5)]
    )


def test_common_frame_and_scale_do_not_count(cameras):
    moved = cameras.copy()
    moved[:, :3, 3] *= 7
    moved = pose(about((1, 2, 3), 77), (4, -5, 6)) @ moved
    errors = relative_pose_errors(moved, cameras)
    assert errors.rotation.shape == errors.translation.shape == (10,)
    np.testing.assert_allclose(errors.worse, 0, atol=1e-5)


def test_a_turned_camera_is_off_by_its_angle_in_all_of_its_pairs(cameras):
    turned = cameras.copy()
    turned[1, :3, :3] = turned[1, :3, :3] @ about((3, -1, 2), 12)
    errors = relative_pose_errors(turned, cameras)
    first, second = np.triu_indices(5, 1)
    np.testing.assert_allclose(errors.rotation, np.where((first == 1) | (second == 1), 12, 0), atol=1e-5)
    # Directions are seen from the first camera of a pair, so only pairs that start at it change.
    assert (errors.translation[first == 1] > 0.1).all()
    np.testing.assert_allclose(errors.translation[first != 1], 0, atol=1e-5)


def test_small_and_large_angles_are_exact():
    true = np.stack([np.eye(4)] * 2)
    for angle in (1e-4, 90, 179.9999):
        turned = np.stack([np.eye(4), pose(about((0, 1, 1), angle), (0, 0, 0))])
        np.testing.assert_allclose(relative_pose_errors(turned, true).rotation, angle, rtol=1e-6)


@pytest.mark.parametrize("angle, error", [(0, 0), (20, 20), (90, 90), (135, 45), (180, 0)])
def test_the_sign_of_a_translation_does_not_count(angle, error):
    true = np.stack([np.eye(4), pose(np.eye(3), (0, 0, 2))])
    predicted = np.stack([np.eye(4), pose(np.eye(3), about((1, 0, 0), angle) @ (0, 0, 5))])
    np.testing.assert_allclose(relative_pose_errors(predicted, true).translation, error, atol=1e-5)


def test_a_direction_that_does_not_exist_is_wrong():
    true = np.stack([np.eye(4), pose(np.eye(3), (0, 0, 2))])
    still = np.stack([np.eye(4)] * 2)
    assert relative_pose_errors(still, true).translation == 90
    assert relative_pose_errors(true, still).translation == 90


def test_auc_is_the_mean_accuracy_over_whole_degrees():
    # One pair of four is below every threshold; one from 3 degrees; one at the limit itself; one never.
    worse = np.array([0.0, 2.5, 5.0, 90.0])
    assert pose_auc(worse, 5) == pytest.approx(100 * np.mean([1, 1, 2, 2, 3]) / 4)
    assert pose_auc(np.array([29.5]), 30) == pytest.approx(100 / 30)
    assert pose_auc(np.array([0.5]), 30) == 100


def test_auc_of_a_uniform_error_is_a_triangle():
    """Errors uniform in 0 to 30 degrees: accuracy at t is t / 30, whose mean over 1 to 30 is 31 / 60."""
    assert pose_auc(np.linspace(0, 30, 30_001), 30) == pytest.approx(100 * 31 / 60, abs=0.01)


def test_metrics_of_pairs():
    errors = PoseErrors(np.array([1.0, 40.0, 10.0]), np.array([35.0, 2.0, 12.0]))
    metrics = pose_metrics(errors)
    np.testing.assert_array_equal(errors.worse, [35, 40, 12])
    assert metrics["auc_30"] == pytest.approx(100 * 18 / 30 / 3)  # one pair, from 13 degrees on
    assert metrics["auc_5"] == 0
    assert metrics["rotation_30"] == metrics["translation_30"] == pytest.approx(200 / 3)
    assert metrics["rotation_mean"] == 17 and metrics["translation_median"] == 12


def test_metrics_of_groups_average_to_those_of_all_pairs():
    rng = np.random.default_rng(0)
    groups = [PoseErrors(rng.uniform(0, 40, n), rng.uniform(0, 40, n)) for n in (3, 10, 6)]
    together = pose_metrics(PoseErrors(*map(np.concatenate, zip(*groups))))
    by_group = pose_metrics_by_group(groups)
    assert by_group["pairs"] == [3, 10, 6]
    for name, values in by_group.items():
        if name != "pairs":
            assert np.average(values, weights=by_group["pairs"]) == pytest.approx(together[name])
