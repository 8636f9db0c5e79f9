"""Cameras of the synthetic world: proper poses in free space, whose views overlap as configured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.data.synthetic.scenes import clearance
from muskie_jax.data.synthetic.viewpoints import camera_centres, look_at
from muskie_tests.synthetic_rooms import (
    EVEN,
    HEIGHT,
    SEEDS,
    VIEWS,
    WIDTH,
    back_project,
    even_views,
    is_inside,
    nearby_views,
    project,
    scenes,
)


def overlaps(views):
    """The fraction of each view's pixels that each other view of the group sees."""
    fractions = []
    intrinsics, poses = views.cameras.intrinsics, views.cameras.world_to_camera
    for group in range(len(SEEDS)):
        for a, b in np.argwhere(~np.eye(VIEWS, dtype=bool)):
            points = back_project(views.depth[group, a], intrinsics[group, a], poses[group, a])
            pixels, depth = project(points, intrinsics[group, b], poses[group, b])
            column, row = np.clip(pixels, 0, [WIDTH - 1, HEIGHT - 1]).astype(int).T
            surface = views.depth[group, b][row, column].T
            fractions.append((is_inside(pixels, depth) & (depth < 1.03 * surface + 0.03)).mean())
    return np.array(fractions)


def assert_rotations(matrices):
    identity = np.broadcast_to(np.eye(3), matrices.shape)
    np.testing.assert_allclose(matrices @ matrices.swapaxes(-1, -2), identity, atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-5)


def test_look_at():
    position, target = jnp.array([1.0, 2, 1]), jnp.array([-2.0, 3, 0.5])
    matrix = np.asarray(look_at(position, target, jnp.array(0.0)))
    rotation, translation = matrix[:3, :3], matrix[:3, 3]
    distance = np.linalg.norm(target - position)
    np.testing.assert_allclose(rotation @ position + translation, [0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(rotation @ target + translation, [0, 0, distance], atol=1e-5)
    # A point above the target appears straight above it: at the same x, at a smaller y.
    x, y, _ = rotation @ (target + jnp.array([0, 0, 1.0])) + translation
    assert x == pytest.approx(0, abs=1e-5) and y < -0.9
    np.testing.assert_allclose(camera_centres(matrix), position, atol=1e-5)
    rolled = np.asarray(look_at(position, target, jnp.array(0.1)))
    np.testing.assert_allclose(rolled[2], matrix[2], atol=1e-6)
    assert rolled[0, :3] @ matrix[0, :3] == pytest.approx(np.cos(0.1), abs=1e-5)


def test_objects_are_rotated_without_shear():
    assert_rotations(np.asarray(scenes().rotation))


def test_cameras_are_proper_and_in_free_space():
    for views in (even_views(), nearby_views()):
        poses = views.cameras.world_to_camera
        rotation = poses[..., :3, :3]
        assert_rotations(rotation)
        assert (poses[..., 3, :] == [0, 0, 0, 1]).all()
        assert (rotation[..., 1, 2] < -0.3).all(), "down in the image is down in the world"
        clear = jax.vmap(clearance)(scenes(), camera_centres(poses))
        assert (np.asarray(clear) > 0.95 * EVEN.clearance).all()
        assert views.depth.min() > 0.5 * EVEN.clearance


def test_baseline_controls_overlap():
    typical, easy = overlaps(even_views()), overlaps(nearby_views())
    assert 0.4 < typical.mean() < 0.8 and (typical > 0.05).all()
    assert ((typical > 0.25) & (typical < 0.92)).mean() > 0.8
    assert easy.mean() > typical.mean() + 0.05

    def spread(views):
        centres = np.asarray(camera_centres(views.cameras.world_to_camera))
        return np.linalg.norm(centres[:, 0] - centres[:, 1], axis=-1).mean()

    assert spread(even_views()) > 3 * spread(nearby_views())
