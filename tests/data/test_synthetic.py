"""The synthetic world: exact geometry, sharable views, textures worth matching."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.data.synthetic import (
    Cameras,
    RenderedViews,
    WorldConfig,
    render_group,
    render_groups,
)
from muskie_jax.data.synthetic.draws import Draws
from muskie_jax.data.synthetic.rays import cast_rays, nearest_primitive
from muskie_jax.data.synthetic.render import pixel_rays, sample_appearance
from muskie_jax.data.synthetic.scenes import clearance, sample_scene
from muskie_jax.data.synthetic.textures import lattice, photo_colour, photo_pyramid
from muskie_jax.data.synthetic.viewpoints import camera_centres, look_at, sample_cameras

SEEDS = np.array([[7, 1], [7, 2], [8, 1], [9, 5], [0, 0], [0, 1], [3, 9], [2**32 - 1, 4]], "u4")
VIEWS, HEIGHT, WIDTH = 3, 48, 64
# Every view lit and exposed alike.
EVEN = dataclasses.replace(WorldConfig(), light_jitter=0, exposure=0, colour_cast=0, tone_jitter=0)


@pytest.fixture(scope="module")
def render():
    """Renders groups for seeds."""
    options = {"num_views": VIEWS, "height": HEIGHT, "width": WIDTH, "config": EVEN}
    function = jax.jit(functools.partial(render_groups, with_geometry=True, **options))
    return lambda seeds: jax.tree.map(np.asarray, function(seeds))


@pytest.fixture(scope="module")
def even(render):
    return render(SEEDS)


def keys():
    return jax.vmap(lambda seed: jax.random.wrap_key_data(seed, impl="threefry2x32"))(SEEDS)


@pytest.fixture(scope="module")
def scenes():
    return jax.jit(jax.vmap(lambda key: sample_scene(key, EVEN)))(keys())


@pytest.fixture(scope="module")
def close(scenes):
    """Cameras and depth, no images, of views near to each other."""
    config = dataclasses.replace(EVEN, baseline=(0.02, 0.1))

    def sample(key, scene):
        cameras = sample_cameras(key, scene, config, VIEWS, HEIGHT, WIDTH)
        depth, _ = nearest_primitive(scene, *pixel_rays(cameras, HEIGHT, WIDTH))
        return RenderedViews(images=None, depth=depth, cameras=cameras)

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(sample))(keys(), scenes))


@pytest.fixture(scope="module")
def cast():
    """Casts rays (groups, N, 3) into all scenes."""
    return jax.jit(jax.vmap(cast_rays))


def pixel_centres():
    """(H, W, 2): columns and rows, plus a half."""
    return np.stack(np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5), -1)


def back_project(depth, intrinsics, world_to_camera):
    """World points (H, W, 3) of a depth map."""
    homogeneous = np.concatenate([pixel_centres(), np.ones((HEIGHT, WIDTH, 1))], -1)
    local = homogeneous @ np.linalg.inv(intrinsics).T * depth[..., None]
    rotation, translation = world_to_camera[:3, :3], world_to_camera[:3, 3]
    return (local - translation) @ rotation  # the inverse of a rotation is its transpose


def project(points, intrinsics, world_to_camera):
    """Pixel coordinates (..., 2) and depth (...) of world points (..., 3)."""
    local = points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    image = local @ intrinsics.T
    return image[..., :2] / image[..., 2:], local[..., 2]


def inside(pixels, depth):
    return (depth > 0) & (pixels >= 0).all(-1) & (pixels < [WIDTH, HEIGHT]).all(-1)


def warp_first_to_second(views):
    """For each group: world points of view 0, and their pixels and depth in view 1."""
    intrinsics, poses = views.cameras.intrinsics, views.cameras.world_to_camera
    for group in range(len(SEEDS)):
        points = back_project(views.depth[group, 0], intrinsics[group, 0], poses[group, 0])
        yield points, *project(points, intrinsics[group, 1], poses[group, 1])


def overlaps(views):
    """Share of the pixels of each view that each other view of the group sees too."""
    shares = []
    intrinsics, poses = views.cameras.intrinsics, views.cameras.world_to_camera
    for group in range(len(SEEDS)):
        for a, b in np.argwhere(~np.eye(VIEWS, dtype=bool)):
            points = back_project(views.depth[group, a], intrinsics[group, a], poses[group, a])
            pixels, depth = project(points, intrinsics[group, b], poses[group, b])
            column, row = np.clip(pixels, 0, [WIDTH - 1, HEIGHT - 1]).astype(int).T
            seen = views.depth[group, b][row, column].T
            shares.append((inside(pixels, depth) & (depth < 1.03 * seen + 0.03)).mean())
    return np.array(shares)


def test_images_are_a_function_of_the_seed(render, even):
    again = render(SEEDS[::-1]).images[::-1]
    np.testing.assert_array_equal(even.images, again)
    assert again.shape == (len(SEEDS), VIEWS, HEIGHT, WIDTH, 3) and again.dtype == np.uint8
    for a, b in ((0, 1), (0, 2), (1, 3), (4, 5)):
        assert np.abs(even.images[a].astype(float) - even.images[b]).mean() > 15


def test_single_group_with_photographs(even):
    """A group alone is what it is among others, save that photographs cover some surfaces."""
    photos = np.random.default_rng(0).integers(60, 200, (3, 32, 32, 3), np.uint8)
    photos[..., 2] = 0
    photos = photo_pyramid(photos)
    options = {"num_views": VIEWS, "height": HEIGHT, "width": WIDTH, "config": EVEN}
    group = jax.jit(functools.partial(render_group, with_geometry=True, **options))
    single = jax.tree.map(np.asarray, group(SEEDS[1], photos=photos))
    assert single.images.shape == (VIEWS, HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(single.depth, even.depth[1], rtol=1e-4)

    same = (np.abs(single.images.astype(int) - even.images[1]) <= 2).all(-1)
    from_bank = (single.images[..., 2] == 0) & (single.images[..., 0] > 0)
    assert 0.15 < same.mean() < 0.85 and 0.15 < from_bank.mean() < 0.85
    assert (same | from_bank).mean() > 0.9  # the rest lies on the edges between the two
    # A photograph is not one colour.
    assert single.images[from_bank].astype(float).std(0)[:2].min() > 8


def test_resolutions_show_the_same(even):
    options = {"num_views": VIEWS, "height": 4 * HEIGHT, "width": 4 * WIDTH, "config": EVEN}
    large = jax.jit(functools.partial(render_groups, **options))(SEEDS[:2]).images
    large = np.asarray(large, float)
    small = large.reshape(2, VIEWS, HEIGHT, 4, WIDTH, 4, 3).mean((3, 5))
    difference = small - even.images[:2]
    assert np.corrcoef(small.ravel(), even.images[:2].ravel())[0, 1] > 0.9
    # And not shifted: no slope of the difference along the image's own gradients.
    for axis in (2, 3):
        slope = np.gradient(small, axis=axis)
        shift = (difference * slope).sum() / (slope**2).sum()
        assert abs(shift) < 0.03, f"shifted by {shift:.3f} pixels along axis {axis}"


def test_images_have_contrast(even):
    images = even.images.astype(float)
    assert 60 < images.mean() < 150
    assert (images.std((2, 3)) > 12).mean() > 0.9
    assert (images == 0).mean() < 0.01 and (images >= 254).mean() < 0.02
    # Detail within patches of 16 pixels: few are flat.
    patches = images.reshape(-1, HEIGHT // 16, 16, WIDTH // 16, 16, 3)
    assert (patches.std((2, 4)).max(-1) > 6).mean() > 0.95


def test_views_differ_in_appearance_as_configured(simple_scene):
    def sample(config):
        return jax.jit(lambda key: sample_appearance(key, simple_scene, config, 500))(keys()[0])

    even, default = sample(EVEN), sample(WorldConfig())
    assert (even.gain == 1).all() and (even.tone == 0).all()
    assert (even.light == simple_scene.light).all()
    brightness = jnp.log(default.gain).mean(-1)
    assert 0.2 < jnp.abs(brightness).max() < 0.33 and jnp.abs(brightness.mean()) < 0.03
    assert 0.05 < jnp.abs(jnp.log(default.gain) - brightness[:, None]).max() < 0.16
    assert 0.3 < jnp.abs(default.light - simple_scene.light).max() <= 0.5
    assert 0.1 < jnp.abs(default.tone).max() <= 0.25


def test_warped_points_are_seen_where_they_project(even, scenes, cast):
    """Points of view 0 that view 1's rays reach lie at view 1's depth, and project back."""
    poses, intrinsics = even.cameras.world_to_camera, even.cameras.intrinsics
    warped = list(warp_first_to_second(even))
    points = np.stack([p for p, _, _ in warped]).reshape(len(SEEDS), -1, 3)
    centres = np.asarray(camera_centres(poses))[:, 1:2]
    # Unnormalised rays: parameter 1 is the point itself.
    hits = cast(scenes, centres, points - centres)
    pixels = np.stack([p for _, p, _ in warped]).reshape(len(SEEDS), -1, 2)
    depth = np.stack([d for _, _, d in warped]).reshape(len(SEEDS), -1)
    visible = inside(pixels, depth) & (np.asarray(hits.distance) > 0.995)
    assert 0.2 < visible.mean() < 0.95

    errors, depth_errors = [], []
    for group in range(len(SEEDS)):
        keep = visible[group]
        reached = centres[group] + hits.distance[group][:, None] * (points - centres)[group]
        back, _ = project(reached[keep], intrinsics[group, 0], poses[group, 0])
        errors.append(np.abs(back - pixels_of_first(keep)).max(-1))
        # On planes the inverse depth is linear in the image, so interpolate that.
        inverse, smooth = bilinear(1 / even.depth[group, 1], pixels[group][keep])
        depth_errors.append(np.abs(1 / inverse - depth[group][keep])[smooth])
    errors, depth_errors = np.concatenate(errors), np.concatenate(depth_errors)
    assert np.quantile(errors, 0.98) < 0.05, "pixels"
    assert np.median(depth_errors) < 1e-4 and np.quantile(depth_errors, 0.9) < 5e-3, "metres"


def pixels_of_first(keep):
    return pixel_centres().reshape(-1, 2)[keep]


def bilinear(image, pixels):
    """Values between the centres of the pixels, and where the four neighbours are alike."""
    column, row = np.clip(pixels - 0.5, 0, [WIDTH - 1.001, HEIGHT - 1.001]).T
    c, r = column.astype(int), row.astype(int)
    wx, wy = column - c, row - r
    corners = np.stack([image[r, c], image[r, c + 1], image[r + 1, c], image[r + 1, c + 1]])
    weights = np.stack([(1 - wx) * (1 - wy), wx * (1 - wy), (1 - wx) * wy, wx * wy])
    within = ((pixels > 0.5) & (pixels < [WIDTH - 0.5, HEIGHT - 0.5])).all(-1)
    alike = np.ptp(corners, 0) < 0.1 * corners.mean(0)
    return (weights.reshape(4, *wx.shape) * corners).sum(0), within & alike


def test_warped_colours_agree(even):
    correlations = []
    for group, (_, pixels, depth) in enumerate(warp_first_to_second(even)):
        pixels, depth = pixels.reshape(-1, 2), depth.ravel()
        inverse, smooth = bilinear(1 / even.depth[group, 1], pixels)
        same = inside(pixels, depth) & smooth & (np.abs(1 / inverse - depth) < 0.01)
        first = even.images[group, 0].reshape(-1, 3)[same].astype(float)
        second = np.stack(
            [bilinear(even.images[group, 1, ..., c].astype(float), pixels)[0] for c in range(3)], -1
        )[same]
        correlations.append(np.corrcoef(first.ravel(), second.ravel())[0, 1])
        shuffled = np.random.default_rng(0).permutation(second)
        assert np.corrcoef(first.ravel(), shuffled.ravel())[0, 1] < 0.7
    assert min(correlations) > 0.85 and np.mean(correlations) > 0.92, correlations


def test_depth_is_measured_along_the_optical_axis(even, scenes, cast):
    rays = jax.vmap(lambda cameras: pixel_rays(cameras, HEIGHT, WIDTH))(even.cameras)
    origins, directions = rays
    lengths = jnp.linalg.norm(directions, axis=-1, keepdims=True)
    flat = directions / lengths
    shape = (len(SEEDS), VIEWS * HEIGHT * WIDTH, 3)
    hits = cast(scenes, jnp.broadcast_to(origins, flat.shape).reshape(shape), flat.reshape(shape))
    forward = even.cameras.world_to_camera[:, :, None, None, 2, :3]
    z = np.asarray(hits.distance).reshape(even.depth.shape) * (flat * forward).sum(-1)
    np.testing.assert_allclose(z, even.depth, rtol=2e-4, atol=2e-4)


@pytest.fixture(scope="module")
def simple_scene(scenes):
    """A room 8 m wide and 4 m high with a box, a sphere and a cylinder, 3 m from its middle."""
    scene = jax.tree.map(lambda leaf: leaf[0], scenes)
    return scene.replace(
        centre=jnp.array([[0.0, 0, 2], [0, 3, 1], [3, 0, 1], [0, -3, 1]]),
        half_size=jnp.array([[4.0, 4, 2], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0.25, 0.25, 0.75]]),
        rotation=jnp.broadcast_to(jnp.eye(3), (4, 3, 3)),
        num_boxes=1,
        num_ellipsoids=1,
        num_cylinders=1,
    )


def test_pixel_convention_on_a_known_box(simple_scene):
    """The box's front is 2.5 m off and 1 m wide: at focal length 40, pixels 24 to 40."""
    # A camera in the middle that looks along +y: right is +x, down is -z.
    world_to_camera = np.array([[1, 0, 0, 0], [0, 0, -1, 1], [0, 1, 0, 0], [0, 0, 0, 1]], float)
    intrinsics = np.array([[40, 0, 32], [0, 40, 24], [0, 0, 1]], float)
    cameras = Cameras(jnp.array(intrinsics)[None], jnp.array(world_to_camera)[None])
    hits = jax.jit(lambda scene: cast_rays(scene, *pixel_rays(cameras, HEIGHT, WIDTH)))(simple_scene)
    expected = np.zeros((HEIGHT, WIDTH), int)
    expected[16:32, 24:40] = 1
    np.testing.assert_array_equal(hits.primitive[0], expected)
    np.testing.assert_allclose(hits.distance[0][expected == 1], 2.5, rtol=1e-5)
    # The wall behind: 4 m, from 40 * 1 / 4 pixels (the floor) below the middle upwards.
    np.testing.assert_allclose(hits.distance[0][24:33, :10], 4.0, rtol=1e-5)
    np.testing.assert_allclose(hits.distance[0][47], 40 / 23.5, rtol=1e-5)  # the floor
    np.testing.assert_allclose(hits.normal[0][24, 32], [0, -1, 0], atol=1e-6)
    np.testing.assert_allclose(hits.normal[0][47, 32], [0, 0, 1], atol=1e-6)
    # Pixel (u, v) of the box's front lies at x = 2.5 (u + 0.5 - 32) / 40.
    u, v = hits.surface_coordinates[0, 20, 30]
    np.testing.assert_allclose([u, v], [2.5 * (30.5 - 32) / 40, 2.5 * (24 - 20.5) / 40], atol=1e-5)


def test_round_primitives(simple_scene):
    origin = jnp.array([0.0, 0, 1])
    directions = jnp.array(
        [[1.0, 0, 0], [3, 0.3, 0.4], [0, -1, 0], [0.1, -2.9, 0], [0, -1, 0.3], [1, 0.2, 0]]
    )
    hits = jax.jit(cast_rays)(simple_scene, origin, directions)
    np.testing.assert_array_equal(hits.primitive, [2, 2, 3, 3, 0, 0])
    # The ray to (3, 0.3, 0.4) grazes: it passes the sphere's centre at almost its radius.
    assert hits.distance[0] == pytest.approx(2.5, abs=1e-4)
    touched = directions[1] * hits.distance[1] + origin - jnp.array([3.0, 0, 1])
    assert jnp.linalg.norm(touched) == pytest.approx(0.5, abs=1e-4)
    np.testing.assert_allclose(hits.normal[1], touched / 0.5, atol=1e-3)
    assert hits.distance[2] == pytest.approx(2.75, abs=1e-4)
    np.testing.assert_allclose(hits.normal[2], [0, 1, 0], atol=1e-6)
    x, y = 0.1 * hits.distance[3], 3 - 2.9 * hits.distance[3]
    assert x**2 + y**2 == pytest.approx(0.25**2, abs=1e-4)
    # The cylinder's cap, from above.
    cap = jax.jit(cast_rays)(simple_scene, jnp.array([[0.1, -3, 3.5]]), jnp.array([[0.0, 0, -1]]))
    assert cap.surface[0] == 6 * 3 + 5 and cap.distance[0] == pytest.approx(1.75, abs=1e-4)
    np.testing.assert_allclose(cap.normal[0], [0, 0, 1], atol=1e-6)


def test_nothing_lies_before_a_hit(scenes, cast, even):
    """Brute force: no point before a ray's hit is inside an object, the one behind it is."""
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(len(SEEDS), HEIGHT * WIDTH * VIEWS, 3)).astype(np.float32)
    origins = np.asarray(camera_centres(even.cameras.world_to_camera))[:, :1]
    hits = cast(scenes, np.broadcast_to(origins, directions.shape), directions)
    for group in range(len(SEEDS)):
        scene = jax.tree.map(lambda leaf, g=group: np.asarray(leaf)[g], scenes)
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
        within[..., 0] = ~within[..., 0]  # of the room, the outside is solid
        assert not within[:, :-1].any()
        hit = within[np.arange(200), -1, np.asarray(hits.primitive[group])[:200]]
        assert hit.mean() > 0.98  # at an edge, just behind the surface may be outside again


def test_normals_face_the_viewer(scenes, cast, even):
    rng = np.random.default_rng(1)
    directions = rng.normal(size=(len(SEEDS), HEIGHT * WIDTH * VIEWS, 3)).astype(np.float32)
    origins = np.asarray(camera_centres(even.cameras.world_to_camera))[:, :1]
    hits = cast(scenes, np.broadcast_to(origins, directions.shape), directions)
    np.testing.assert_allclose(np.linalg.norm(hits.normal, axis=-1), 1, atol=1e-4)
    assert ((np.asarray(hits.normal) * directions).sum(-1) < 1e-3).mean() > 0.999


def test_look_at():
    position, target = jnp.array([1.0, 2, 1]), jnp.array([-2.0, 3, 0.5])
    matrix = np.asarray(look_at(position, target, jnp.array(0.0)))
    rotation, translation = matrix[:3, :3], matrix[:3, 3]
    distance = np.linalg.norm(target - position)
    np.testing.assert_allclose(rotation @ position + translation, [0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(rotation @ target + translation, [0, 0, distance], atol=1e-5)
    # What is above the target appears straight above it: at the same x, at a smaller y.
    x, y, _ = rotation @ (target + jnp.array([0, 0, 1.0])) + translation
    assert x == pytest.approx(0, abs=1e-5) and y < -0.9
    np.testing.assert_allclose(camera_centres(matrix), position, atol=1e-5)
    rolled = np.asarray(look_at(position, target, jnp.array(0.1)))
    np.testing.assert_allclose(rolled[2], matrix[2], atol=1e-6)
    assert rolled[0, :3] @ matrix[0, :3] == pytest.approx(np.cos(0.1), abs=1e-5)


def assert_rotations(matrices):
    identity = np.broadcast_to(np.eye(3), matrices.shape)
    np.testing.assert_allclose(matrices @ matrices.swapaxes(-1, -2), identity, atol=1e-5)
    np.testing.assert_allclose(np.linalg.det(matrices), 1, atol=1e-5)


def test_objects_are_turned_not_sheared(scenes):
    assert_rotations(np.asarray(scenes.rotation))


def test_cameras_are_proper_and_in_free_space(even, close, scenes):
    for views in (even, close):
        poses = views.cameras.world_to_camera
        rotation = poses[..., :3, :3]
        assert_rotations(rotation)
        assert (poses[..., 3, :] == [0, 0, 0, 1]).all()
        assert (rotation[..., 1, 2] < -0.3).all(), "down in the image is down in the world"
        clear = jax.vmap(clearance)(scenes, camera_centres(poses))
        assert (np.asarray(clear) > 0.95 * EVEN.clearance).all()
        assert views.depth.min() > 0.5 * EVEN.clearance


def test_views_overlap_and_the_baseline_controls_how_much(even, close):
    typical, easy = overlaps(even), overlaps(close)
    assert 0.4 < typical.mean() < 0.8 and (typical > 0.05).all()
    assert ((typical > 0.25) & (typical < 0.92)).mean() > 0.8
    assert easy.mean() > typical.mean() + 0.05

    def spread(views):
        centres = np.asarray(camera_centres(views.cameras.world_to_camera))
        return np.linalg.norm(centres[:, 0] - centres[:, 1], axis=-1).mean()

    assert spread(even) > 3 * spread(close)


def test_photograph_is_sampled_at_its_texels(scenes):
    photos = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), np.uint8)
    pyramid = photo_pyramid(photos)
    textures = scenes.textures.replace(
        photo=jnp.array([0, 1, 2, 5], jnp.uint32),
        photo_span=jnp.full(4, 0.8),
        offset=jnp.tile(jnp.array([0.0, 0.25]), (4, 1)),
    )

    @jax.jit
    def sample(surface, u, v, footprint):
        surface = jnp.full(u.shape, surface)
        return 255 * jnp.stack(photo_colour(pyramid, textures, surface, u, v, footprint), -1)

    def centres(count):
        """Of the texels; rows run downwards from v = 0.2, a quarter of the photograph's side."""
        steps = (jnp.arange(count) + 0.5) * 0.8 / count
        return jnp.meshgrid(steps, 0.2 - steps)

    u, v = centres(8)
    for surface, photo in ((0, 0), (2, 2), (3, 2)):
        np.testing.assert_allclose(sample(surface, u, v, 0.01), photos[photo], atol=0.01)
    np.testing.assert_allclose(sample(1, u + 0.8, v, 0.01), photos[1][:, ::-1], atol=0.1)
    # A footprint of four texels reads means of four by four of them.
    means = photos[1].reshape(2, 4, 2, 4, 3).mean((1, 3))
    np.testing.assert_allclose(sample(1, *centres(2), 0.4), means, atol=1.01)
    with pytest.raises(ValueError, match="power of two"):
        photo_pyramid(photos[:, :6, :6])


def test_lattice_is_continuous_noise_or_constant_tiles():
    x = jnp.linspace(-3, 3, 601)
    y = jnp.full_like(x, 0.4)
    seed = jnp.uint32(5)
    smooth = np.asarray(lattice(x, y, seed, 0.0)[0])
    tiles = np.asarray(lattice(x, y, seed, 1.0)[0])
    assert np.abs(np.diff(smooth)).max() < 0.05 < 0.3 < smooth.std() * 2
    assert len(np.unique(tiles)) in (6, 7)
    np.testing.assert_allclose(smooth[[0, 100]], tiles[[0, 100]], atol=0.7)


def test_draws_are_uniform_and_streams_independent():
    key = jax.random.key(3)
    first = Draws(key, "one", (20000,), capacity=2)
    other = Draws(key, "two", (20000,), capacity=2)
    a, b, c = first.uniform(0, 1), first.uniform(0, 1), other.uniform(0, 1)
    for draw in (a, b, c):
        assert draw.mean() == pytest.approx(0.5, abs=0.01)
        assert draw.var() == pytest.approx(1 / 12, abs=0.003)
    assert abs(np.corrcoef(np.stack([a, b, c]))[np.triu_indices(3, 1)]).max() < 0.03
    with pytest.raises(ValueError, match="capacity"):
        first.uniform(0, 1)


def test_geometry_has_no_matrix_products():
    """Accelerators would round them."""
    program = jax.make_jaxpr(
        functools.partial(render_groups, num_views=1, height=8, width=8, config=EVEN, with_geometry=True)
    )(SEEDS)
    assert "dot_general" not in str(program)


def test_config_is_checked():
    with pytest.raises(ValueError, match="1, 2 or 4"):
        WorldConfig(samples_per_pixel=3)
    with pytest.raises(ValueError, match="objects"):
        WorldConfig(num_boxes=0, num_ellipsoids=0, num_cylinders=0)
    assert hash(WorldConfig()) == hash(WorldConfig())
