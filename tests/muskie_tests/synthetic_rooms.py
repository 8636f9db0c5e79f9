"""Synthetic rooms that several tests share, rendered once, and pinhole geometry to check them with."""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from muskie_jax.data.synthetic import (
    Hits,
    RenderedViews,
    RoomScene,
    WorldConfig,
    cast_rays,
    render_groups,
    sample_cameras,
    sample_scene,
)
from muskie_jax.data.synthetic.rays import nearest_primitive
from muskie_jax.data.synthetic.render import pixel_rays

SEEDS = np.array([[7, 1], [7, 2], [8, 1], [9, 5], [0, 0], [0, 1], [3, 9], [2**32 - 1, 4]], "u4")
VIEWS, HEIGHT, WIDTH = 3, 48, 64
# All views have the same light and exposure.
EVEN = dataclasses.replace(WorldConfig(), light_jitter=0, exposure=0, colour_cast=0, tone_jitter=0)
# The same rooms, but cameras that differ as much as two photographers' do.
WIDE = dataclasses.replace(EVEN, orbit=(40.0, 90.0), distance=0.3, zoom=0.4, roll_jitter=60.0)


@functools.cache
def _renderer(config: WorldConfig):
    options = {"num_views": VIEWS, "height": HEIGHT, "width": WIDTH, "config": config}
    return jax.jit(functools.partial(render_groups, with_geometry=True, **options))


def render(config: WorldConfig, seeds: np.ndarray) -> RenderedViews:
    """Renders groups of views, with depth and cameras, as numpy arrays."""
    return jax.tree.map(np.asarray, _renderer(config)(seeds))


def render_even(seeds: np.ndarray) -> RenderedViews:
    """Renders groups of evenly lit views, with depth and cameras, as numpy arrays."""
    return render(EVEN, seeds)


@functools.cache
def even_views() -> RenderedViews:
    """One group for each of SEEDS."""
    return render_even(SEEDS)


def keys() -> jax.Array:
    return jax.vmap(lambda seed: jax.random.wrap_key_data(seed, impl="threefry2x32"))(SEEDS)


@functools.cache
def scenes() -> RoomScene:
    """The scenes of `even_views`."""
    return jax.jit(jax.vmap(lambda key: sample_scene(key, EVEN)))(keys())


@functools.cache
def geometry(config: WorldConfig) -> RenderedViews:
    """Cameras and depth, without images, of views in the scenes of `even_views`."""

    def sample(key, scene):
        cameras = sample_cameras(key, scene, config, VIEWS, HEIGHT, WIDTH)
        depth, _ = nearest_primitive(scene, *pixel_rays(cameras, HEIGHT, WIDTH))
        return RenderedViews(images=None, depth=depth, cameras=cameras)

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(sample))(keys(), scenes()))


def nearby_views() -> RenderedViews:
    """Views with a short baseline; see `geometry`."""
    return geometry(dataclasses.replace(EVEN, baseline=(0.02, 0.1)))


def wide_views() -> RenderedViews:
    """Views that differ in angle, distance, focal length and roll; see `geometry`."""
    return geometry(WIDE)


@functools.cache
def simple_scene() -> RoomScene:
    """A room 8 m wide and 4 m high with a box, a sphere and a cylinder, 3 m from its middle."""
    scene = jax.tree.map(lambda leaf: leaf[0], scenes())
    return scene.replace(
        centre=jnp.array([[0.0, 0, 2], [0, 3, 1], [3, 0, 1], [0, -3, 1]]),
        half_size=jnp.array([[4.0, 4, 2], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5], [0.25, 0.25, 0.75]]),
        rotation=jnp.broadcast_to(jnp.eye(3), (4, 3, 3)),
        num_boxes=1,
        num_ellipsoids=1,
        num_cylinders=1,
    )


_cast = jax.jit(jax.vmap(cast_rays))


def cast(origins, directions) -> Hits:
    """Casts H*W rays per group into its scene: one shape, hence one program."""
    assert directions.shape == (len(SEEDS), HEIGHT * WIDTH, 3)
    return _cast(scenes(), np.broadcast_to(origins, directions.shape), directions)


def pixel_centres() -> np.ndarray:
    """(x, y) of every pixel's centre: (H, W, 2)."""
    return np.stack(np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5), -1)


def back_project(depth, intrinsics, world_to_camera) -> np.ndarray:
    """World points (H, W, 3) of a depth map."""
    homogeneous = np.concatenate([pixel_centres(), np.ones((HEIGHT, WIDTH, 1))], -1)
    local = homogeneous @ np.linalg.inv(intrinsics).T * depth[..., None]
    rotation, translation = world_to_camera[:3, :3], world_to_camera[:3, 3]
    return (local - translation) @ rotation  # the inverse of a rotation is its transpose


def project(points, intrinsics, world_to_camera) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates (..., 2) and depth (...) of world points (..., 3)."""
    local = points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    image = local @ intrinsics.T
    return image[..., :2] / image[..., 2:], local[..., 2]


def is_inside(pixels, depth) -> np.ndarray:
    """Whether points are in front of the camera and inside the image."""
    return (depth > 0) & (pixels >= 0).all(-1) & (pixels < [WIDTH, HEIGHT]).all(-1)


def warp_first_to_second(views: RenderedViews) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each group: world points of view 0, and their pixels and depth in view 1."""
    intrinsics, poses = views.cameras.intrinsics, views.cameras.world_to_camera
    for group in range(len(SEEDS)):
        points = back_project(views.depth[group, 0], intrinsics[group, 0], poses[group, 0])
        yield points, *project(points, intrinsics[group, 1], poses[group, 1])


def bilinear(image, pixels) -> tuple[np.ndarray, np.ndarray]:
    """Interpolated values, and whether the four neighbours are similar."""
    column, row = np.clip(pixels - 0.5, 0, [WIDTH - 1.001, HEIGHT - 1.001]).T
    c, r = column.astype(int), row.astype(int)
    wx, wy = column - c, row - r
    corners = np.stack([image[r, c], image[r, c + 1], image[r + 1, c], image[r + 1, c + 1]])
    weights = np.stack([(1 - wx) * (1 - wy), wx * (1 - wy), (1 - wx) * wy, wx * wy])
    within = ((pixels > 0.5) & (pixels < [WIDTH - 0.5, HEIGHT - 0.5])).all(-1)
    similar = np.ptp(corners, 0) < 0.1 * corners.mean(0)
    return (weights.reshape(4, *wx.shape) * corners).sum(0), within & similar
