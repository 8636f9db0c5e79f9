"""Geometry of the synthetic world: exact ray casting, and depth and cameras that agree with it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.data.synthetic import Cameras, cast_rays
from muskie_jax.data.synthetic.render import pixel_rays
from muskie_jax.data.synthetic.viewpoints import camera_centres
from muskie_tests.synthetic_rooms import (
    EVEN,
    HEIGHT,
    SEEDS,
    WIDTH,
    bilinear,
    cast,
    even_views,
    is_inside,
    pixel_centres,
    project,
    scenes,
    simple_scene,
    warp_first_to_second,
    wide_views,
)


@pytest.mark.parametrize(("views", "least"), [(even_views, 0.2), (wide_views, 0.1)])
def test_warped_points_are_visible_where_they_project(views, least):
    """Points of view 0 that view 1's rays reach have view 1's depth, and project back."""
    even = views()
    poses, intrinsics = even.cameras.world_to_camera, even.cameras.intrinsics
    warped = list(warp_first_to_second(even))
    points = np.stack([p for p, _, _ in warped]).reshape(len(SEEDS), -1, 3)
    centres = np.asarray(camera_centres(poses))[:, 1:2]
    # Directions are not normalised: distance 1 is the point itself.
    hits = cast(centres, (points - centres).astype(np.float32))
    pixels = np.stack([p for _, p, _ in warped]).reshape(len(SEEDS), -1, 2)
    depth = np.stack([d for _, _, d in warped]).reshape(len(SEEDS), -1)
    visible = is_inside(pixels, depth) & (np.asarray(hits.distance) > 0.995)
    assert least < visible.mean() < 0.95

    errors, depth_errors = [], []
    for group in range(len(SEEDS)):
        keep = visible[group]
        reached = centres[group] + hits.distance[group][:, None] * (points - centres)[group]
        back, _ = project(reached[keep], intrinsics[group, 0], poses[group, 0])
        errors.append(np.abs(back - pixel_centres().reshape(-1, 2)[keep]).max(-1))
        # Inverse depth is interpolated, since it is linear in the image on planes.
        inverse, smooth = bilinear(1 / even.depth[group, 1], pixels[group][keep])
        depth_errors.append(np.abs(1 / inverse - depth[group][keep])[smooth])
    errors, depth_errors = np.concatenate(errors), np.concatenate(depth_errors)
    assert np.quantile(errors, 0.98) < 0.05, "pixels"
    assert np.median(depth_errors) < 1e-4 and np.quantile(depth_errors, 0.9) < 5e-3, "metres"


@pytest.mark.parametrize("views", [even_views, wide_views])
def test_depth_is_measured_along_the_optical_axis(views):
    even, view = views(), 1
    all_rays = jax.vmap(lambda cameras: pixel_rays(cameras, HEIGHT, WIDTH))(even.cameras)
    origins, directions = (np.asarray(x)[:, view].reshape(len(SEEDS), -1, 3) for x in all_rays)
    unit = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    distance = np.asarray(cast(origins, unit).distance)
    forward = even.cameras.world_to_camera[:, view, None, 2, :3]
    z = distance * (unit * forward).sum(-1)
    np.testing.assert_allclose(z.reshape(-1, HEIGHT, WIDTH), even.depth[:, view], rtol=2e-4, atol=2e-4)


def test_pixel_convention_on_a_known_box():
    """The box's front is 2.5 m away and 1 m wide: at focal length 40, pixels 24 to 40."""
    # A camera in the middle that looks along +y: right is +x, down is -z.
    world_to_camera = np.array([[1, 0, 0, 0], [0, 0, -1, 1], [0, 1, 0, 0], [0, 0, 0, 1]], float)
    intrinsics = np.array([[40, 0, 32], [0, 40, 24], [0, 0, 1]], float)
    cameras = Cameras(jnp.array(intrinsics)[None], jnp.array(world_to_camera)[None])
    hits = jax.jit(lambda scene: cast_rays(scene, *pixel_rays(cameras, HEIGHT, WIDTH)))(simple_scene())
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[16:32, 24:40] = 1
    np.testing.assert_array_equal(hits.primitive[0], expected)
    np.testing.assert_allclose(hits.distance[0][expected == 1], 2.5, rtol=1e-5)
    # The wall behind is 4 m away, from 40 * 1 / 4 pixels (the floor) below the middle upwards.
    np.testing.assert_allclose(hits.distance[0][24:33, :10], 4.0, rtol=1e-5)
    np.testing.assert_allclose(hits.distance[0][47], 40 / 23.5, rtol=1e-5)  # the floor
    np.testing.assert_allclose(hits.normal[0][24, 32], [0, -1, 0], atol=1e-6)
    np.testing.assert_allclose(hits.normal[0][47, 32], [0, 0, 1], atol=1e-6)
    # Column u of the box's front is at x = 2.5 (u + 0.5 - 32) / 40.
    u, v = hits.surface_coordinates[0, 20, 30]
    np.testing.assert_allclose([u, v], [2.5 * (30.5 - 32) / 40, 2.5 * (24 - 20.5) / 40], atol=1e-5)


def test_round_primitives():
    origin = jnp.array([0.0, 0, 1])
    directions = jnp.array(
        [[1.0, 0, 0], [3, 0.3, 0.4], [0, -1, 0], [0.1, -2.9, 0], [0, -1, 0.3], [1, 0.2, 0], [0, 0, -1]]
    )
    above_cylinder = jnp.array([[0.1, -3, 3.5]])
    origins = jnp.concatenate([jnp.tile(origin, (6, 1)), above_cylinder])
    hits = jax.jit(cast_rays)(simple_scene(), origins, directions)
    np.testing.assert_array_equal(hits.primitive, [2, 2, 3, 3, 0, 0, 3])
    # The ray to (3, 0.3, 0.4) grazes the sphere: it passes the centre at almost its radius.
    assert hits.distance[0] == pytest.approx(2.5, abs=1e-4)
    touched = directions[1] * hits.distance[1] + origin - jnp.array([3.0, 0, 1])
    assert jnp.linalg.norm(touched) == pytest.approx(0.5, abs=1e-4)
    np.testing.assert_allclose(hits.normal[1], touched / 0.5, atol=1e-3)
    assert hits.distance[2] == pytest.approx(2.75, abs=1e-4)
    np.testing.assert_allclose(hits.normal[2], [0, 1, 0], atol=1e-6)
    x, y = 0.1 * hits.distance[3], 3 - 2.9 * hits.distance[3]
    assert x**2 + y**2 == pytest.approx(0.25**2, abs=1e-4)
    # The last ray hits the cylinder's cap.
    assert hits.surface[6] == 6 * 3 + 5 and hits.distance[6] == pytest.approx(1.75, abs=1e-4)
    np.testing.assert_allclose(hits.normal[6], [0, 0, 1], atol=1e-6)


def random_rays(seed):
    """Origins and directions of rays from the first camera of every group, and their hits."""
    directions = np.random.default_rng(seed).normal(size=(len(SEEDS), HEIGHT * WIDTH, 3))
    directions = directions.astype(np.float32)
    origins = np.asarray(camera_centres(even_views().cameras.world_to_camera))[:, :1]
    return origins, directions, cast(origins, directions)


def test_hits_are_the_first_intersections():
    """Brute force: points before a hit are outside all objects, the point just behind is inside one."""
    origins, directions, hits = random_rays(0)
    for group in range(len(SEEDS)):
        scene = jax.tree.map(lambda leaf, g=group: np.asarray(leaf)[g], scenes())
        distance = np.asarray(hits.distance[group])[:200]
        step = np.concatenate([np.linspace(0, 0.999, 60), [1.001]])
        along = (distance[:, None] * step)[..., None]
        points = origins[group] + along * directions[group][:200, None]
        local = np.einsum("pij,rspj->rspi", scene.rotation, points[..., None, :] - scene.centre)
        unit = local / scene.half_size
        radius = np.linalg.norm(unit[..., :2], axis=-1)
        within = np.abs(unit).max(-1) < 1
        ball = slice(1 + EVEN.num_boxes, 1 + EVEN.num_boxes + EVEN.num_ellipsoids)
        within[..., ball] = np.linalg.norm(unit[..., ball, :], axis=-1) < 1
        within[..., ball.stop :] &= radius[..., ball.stop :] < 1
        within[..., 0] = ~within[..., 0]  # the room is solid outside
        assert not within[:, :-1].any()
        hit = within[np.arange(200), -1, np.asarray(hits.primitive[group])[:200]]
        assert hit.mean() > 0.98  # at an edge, the point just behind may be outside again


def test_normals_face_the_viewer():
    _, directions, hits = random_rays(1)
    np.testing.assert_allclose(np.linalg.norm(hits.normal, axis=-1), 1, atol=1e-4)
    assert ((np.asarray(hits.normal) * directions).sum(-1) < 1e-3).mean() > 0.999
