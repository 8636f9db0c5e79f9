"""Targets: published numbers, and geometry against plain numpy."""

import jax
import numpy as np
import pytest

from muskie_jax.reconstruction.targets import reconstruction_targets
from muskie_tests import golden_reconstruction as golden

TOLERANCE = 1e-4  # of the largest entry of an array


def test_published_targets():
    ours, n, stride = golden.targets(), golden.numbers(), golden.STRIDE
    valid = n["point_masks"]
    np.testing.assert_array_equal(ours.valid, valid)
    for points, name in ((ours.local_points, "local"), (ours.points, "world")):
        seen = np.where(valid[..., None], points, 0)[:, :, ::stride, ::stride]
        theirs = n[f"target_{name}_points"] * valid[:, :, ::stride, ::stride, None]
        assert golden.worst(seen, theirs) < TOLERANCE
    world_to_camera = np.linalg.inv(np.asarray(ours.camera_to_world, np.float64))
    assert golden.worst(world_to_camera[..., :3, :], n["target_extrinsics"]) < TOLERANCE


@pytest.fixture
def scene():
    """Depth, intrinsics and poses of 2 groups of 3 views of 6x8 pixels; each group has its own unit."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(1, 3, (2, 3, 6, 8)).astype(np.float32) * np.array([1, 100])[:, None, None, None]
    intrinsics = np.array([[9.0, 0, 4], [0, 8.0, 3], [0, 0, 1]]) + rng.uniform(
        0, 0.1, (2, 3, 1, 1)
    ) * np.eye(3)
    intrinsics[..., 2, 2] = 1
    rotation = np.linalg.qr(rng.standard_normal((2, 3, 3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))[..., None, None]
    pose = np.concatenate([rotation, rng.standard_normal((2, 3, 3, 1))], -1).astype(np.float32)
    return depth.astype(np.float32), intrinsics.astype(np.float32), pose


def test_against_plain_numpy(scene):
    depth, intrinsics, pose = scene
    ours = jax.jit(reconstruction_targets)(*scene)
    full = np.concatenate([pose, np.broadcast_to([0, 0, 0, 1], (2, 3, 1, 4))], -2).astype(np.float64)
    for group in range(2):
        units = []
        for view in range(3):
            to_first = full[group, 0] @ np.linalg.inv(full[group, view])
            rows, columns = np.mgrid[:6, :8] + 0.5
            rays = np.linalg.inv(intrinsics[group, view]) @ np.stack(
                [columns, rows, 1 + 0 * rows], 0
            ).reshape(3, -1)
            local = rays * depth[group, view].ravel()
            points = (to_first[:3, :3] @ local + to_first[:3, 3:]).T.reshape(6, 8, 3)
            units.append(np.linalg.norm(points, axis=-1))
            for theirs, arrays in ((local.T.reshape(6, 8, 3), ours.local_points), (points, ours.points)):
                ratio = np.asarray(arrays[group, view]) / theirs
                np.testing.assert_allclose(ratio, ratio[0, 0, 0], rtol=1e-3)
                unit = 1 / ratio[0, 0, 0]
            np.testing.assert_allclose(
                ours.camera_to_world[group, view, :3, 3], to_first[:3, 3] / unit, rtol=1e-3, atol=1e-5
            )
        assert unit == pytest.approx(np.mean(units), rel=1e-3)


def test_depth_that_is_not_known_is_not_valid(scene):
    depth, intrinsics, pose = scene
    for value in (np.nan, np.inf, 0.0, -1.0):
        depth[0, 1, 2, 3] = value
        ours = reconstruction_targets(depth, intrinsics, pose)
        assert not ours.valid[0, 1, 2, 3] and ours.valid.sum() == depth.size - 1
        assert (ours.local_points[0, 1, 2, 3] == 0).all() and (ours.points[0, 1, 2, 3] == 0).all()
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(ours))


def test_a_mask_and_a_group_without_points(scene):
    depth, intrinsics, pose = scene
    mask = np.ones(depth.shape, bool)
    mask[0] = False
    ours = reconstruction_targets(depth, intrinsics, pose, mask)
    assert not ours.valid[0].any() and ours.valid[1].all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(ours))


def test_a_view_without_depth_may_lack_intrinsics(scene):
    depth, intrinsics, pose = scene
    depth, intrinsics = depth.copy(), intrinsics.copy()
    depth[0, 1], intrinsics[0, 1] = 0, 0
    targets = reconstruction_targets(depth, intrinsics, pose)
    assert not np.any(targets.local_points[0, 1]) and not np.any(targets.points[0, 1])
    assert np.isfinite(targets.points).all()
