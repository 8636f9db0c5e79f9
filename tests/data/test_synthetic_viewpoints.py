"""Cameras of the synthetic world: proper poses in free space, whose views overlap as configured."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.data.synthetic.scenes import Cameras, clearance
from muskie_jax.data.synthetic.view_differences import compare_views
from muskie_jax.data.synthetic.viewpoints import camera_centres, look_at
from muskie_tests.synthetic_rooms import (
    EVEN,
    HEIGHT,
    SEEDS,
    VIEWS,
    WIDE,
    WIDTH,
    back_project,
    even_views,
    geometry,
    is_inside,
    nearby_views,
    project,
    scenes,
    wide_views,
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
    for views in (even_views(), nearby_views(), wide_views()):
        poses = views.cameras.world_to_camera
        rotation = poses[..., :3, :3]
        assert_rotations(rotation)
        assert (poses[..., 3, :] == [0, 0, 0, 1]).all()
        if views is not wide_views():
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


def median_angles(views):
    """Degrees between the lines of sight to a shared point from both cameras, for each pair of views."""
    pairs = []
    for group in range(len(SEEDS)):
        cameras = Cameras(views.cameras.intrinsics[group], views.cameras.world_to_camera[group])
        pairs += [compare_views(views.depth[group], cameras, a, b) for a, b in ((0, 1), (1, 2), (2, 0))]
    return np.array([pair[1] for pair in pairs])


def test_an_orbit_shows_the_same_surfaces_from_wide_angles():
    wide = median_angles(wide_views())
    assert np.nanmedian(wide) > 1.5 * np.nanmedian(median_angles(even_views()))
    assert ((wide > 30) & (wide < 120)).mean() > 0.3
    shared = overlaps(wide_views())
    assert shared.mean() > 0.3 and (shared > 0.1).mean() > 0.8


def test_cameras_of_a_group_differ_in_roll_focal_length_and_distance():
    roll_of = lambda views: np.degrees(
        np.arctan2(-views.cameras.world_to_camera[..., 0, 2], -views.cameras.world_to_camera[..., 1, 2])
    )
    assert np.abs(roll_of(even_views())).max() < EVEN.roll_jitter + 0.1
    rolls = np.abs(roll_of(wide_views()))
    assert 30 < rolls.max() < WIDE.roll_jitter + 0.1

    focal = lambda views: views.cameras.intrinsics[..., 0, 0]
    ratio = focal(wide_views()) / focal(even_views())  # the jitter of both is the same
    assert 1.2 < ratio.max() < np.exp(WIDE.zoom) + 0.01
    assert 1.2 < 1 / ratio.min() < np.exp(WIDE.zoom) + 0.01
    np.testing.assert_array_equal(focal(wide_views()), wide_views().cameras.intrinsics[..., 1, 1])

    still = dataclasses.replace(EVEN, baseline=(0.0, 0.0), aim_jitter=0.0)
    hub = geometry(still).cameras.world_to_camera[:, 0]
    moved = geometry(dataclasses.replace(still, distance=0.3)).cameras.world_to_camera
    # Views that only approach or recede stay on the hub's optical axis.
    offset = np.asarray(camera_centres(moved) - camera_centres(hub)[:, None])
    along = (offset * hub[:, None, 2, :3]).sum(-1)
    np.testing.assert_allclose(offset, along[..., None] * hub[:, None, 2, :3], atol=1e-4)
    assert along.max() > 0.2 and along.min() < -0.2


def test_an_orbit_keeps_the_distance_from_the_focus():
    still = dataclasses.replace(EVEN, baseline=(0.0, 0.0), aim_jitter=0.0, roll_jitter=0.0)
    hub, poses = (
        geometry(config).cameras.world_to_camera
        for config in (still, dataclasses.replace(still, orbit=(60.0, 60.0)))
    )
    # Half the angle at the focus is opposite to half the way between two cameras of equal distance.
    way = np.asarray(camera_centres(poses) - camera_centres(hub))
    turn = hub[..., 2, :3] - poses[..., 2, :3]
    angle = 2 * np.degrees(np.arcsin(np.linalg.norm(turn, axis=-1) / 2))
    assert 40 < angle.max() < 75
    distance = np.linalg.norm(way, axis=-1) / np.maximum(np.linalg.norm(turn, axis=-1), 1e-3)
    np.testing.assert_allclose(way, distance[..., None] * turn, atol=1e-3)
    moved = angle.min(-1) > 5
    assert moved.sum() > 2
    np.testing.assert_allclose(distance[moved], distance[moved][:, :1].repeat(VIEWS, 1), rtol=1e-3)
