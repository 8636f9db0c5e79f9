"""Renders groups of views of synthetic scenes: pure functions of seeds, on the device.

A pixel is the mean of a few rays. A ray is cast (`rays`), the surface that it meets is textured
(`textures`) and lit by a lamp, and the camera's exposure and tone make a display colour of it.
"""

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from muskie_jax.data.synthetic.draws import Draws
from muskie_jax.data.synthetic.rays import cast_rays, nearest_primitive
from muskie_jax.data.synthetic.scenes import Cameras, RoomScene, WorldConfig, sample_scene
from muskie_jax.data.synthetic.textures import (
    PhotoPyramid,
    photo_colour,
    procedural_colour,
)
from muskie_jax.data.synthetic.viewpoints import camera_centres, sample_cameras

# Where a pixel's rays go, from its upper left corner: rotated grids.
SAMPLE_OFFSETS = {
    1: ((0.5, 0.5),),
    2: ((0.25, 0.25), (0.75, 0.75)),
    4: ((0.375, 0.125), (0.875, 0.375), (0.125, 0.625), (0.625, 0.875)),
}


@flax.struct.dataclass
class RenderedViews:
    """V views of one scene; depth and cameras are None unless they were asked for."""

    images: Array  # (V, H, W, 3) uint8
    depth: Array | None  # (V, H, W) float32, z-depth at the pixels' centres, metres
    cameras: Cameras | None


@flax.struct.dataclass
class Appearance:
    """What differs between the images of V views beside their cameras."""

    light: Array  # (V, 3), position of the lamp, metres
    gain: Array  # (V, 3), factor on red, green and blue
    tone: Array  # (V,), curvature of the response


def render_group(
    seed: Array,
    *,
    num_views: int,
    height: int,
    width: int,
    config: WorldConfig,
    photos: PhotoPyramid | None = None,
    with_geometry: bool = False,
) -> RenderedViews:
    """Renders a group of views of the scene that a seed stands for.

    Args:
      seed: (2,) uint32, data of a threefry key.
      num_views: views of the group.
      height, width: of the images, pixels. Every resolution of the same shape shows the same.
      config: the distribution of scenes.
      photos: made by `photo_pyramid`; textures for some of the surfaces.
      with_geometry: also return depth and cameras.
    """
    key = jax.random.wrap_key_data(seed, impl="threefry2x32")  # each draws its own streams from it
    scene = sample_scene(key, config)
    cameras = sample_cameras(key, scene, config, num_views, height, width)
    appearance = sample_appearance(key, scene, config, num_views)
    images = _render_images(scene, cameras, appearance, config, height, width, photos)
    if not with_geometry:
        return RenderedViews(images=images, depth=None, cameras=None)
    origins, directions = pixel_rays(cameras, height, width)
    depth, _ = nearest_primitive(scene, origins, directions)
    return RenderedViews(images=images, depth=depth, cameras=cameras)


def render_groups(
    seeds: Array,
    *,
    num_views: int,
    height: int,
    width: int,
    config: WorldConfig,
    photos: PhotoPyramid | None = None,
    with_geometry: bool = False,
) -> RenderedViews:
    """`render_group` for seeds (B, 2): images (B, V, H, W, 3), and so on."""

    def render(seed):
        return render_group(
            seed,
            num_views=num_views,
            height=height,
            width=width,
            config=config,
            photos=photos,
            with_geometry=with_geometry,
        )

    return jax.vmap(render)(seeds)


def pixel_rays(
    cameras: Cameras, height: int, width: int, offset: tuple[float, float] | Array = (0.5, 0.5)
) -> tuple[Array, Array]:
    """Origins (V, 1, 1, 3) and directions (V, H, W, 3), of depth 1, of all pixels' rays.

    Args:
      cameras: V cameras.
      height, width: of the images.
      offset: where in a pixel its ray goes, (right, down) from its upper left corner.
    """
    intrinsics = cameras.intrinsics[:, None, None]
    columns = jnp.arange(width) + offset[0]
    rows = jnp.arange(height)[:, None] + offset[1]
    x = (columns - intrinsics[..., 0, 2]) / intrinsics[..., 0, 0]
    y = (rows - intrinsics[..., 1, 2]) / intrinsics[..., 1, 1]
    axes = cameras.world_to_camera[:, None, None, :3, :3]
    # Written out: a matrix product would be rounded, and a kernel of its own.
    directions = [x * axes[..., 0, i] + y * axes[..., 1, i] + axes[..., 2, i] for i in range(3)]
    return camera_centres(cameras.world_to_camera)[:, None, None], jnp.stack(directions, -1)


def sample_appearance(key: Array, scene: RoomScene, config: WorldConfig, num_views: int) -> Appearance:
    """Draws lamp, exposure and colour of V views."""
    draws = Draws(key, "appearance", (num_views,), capacity=8)
    exposure = config.exposure * draws.vectors(1, -1.0, 1.0)
    cast = config.colour_cast * draws.vectors(3, -1.0, 1.0)
    return Appearance(
        light=scene.light + config.light_jitter * draws.vectors(3, -1.0, 1.0),
        gain=jnp.exp(exposure + cast),
        tone=config.tone_jitter * draws.uniform(-1.0, 1.0),
    )


def _render_images(
    scene: RoomScene,
    cameras: Cameras,
    appearance: Appearance,
    config: WorldConfig,
    height: int,
    width: int,
    pyramid: PhotoPyramid | None,
) -> Array:
    """(V, H, W, 3) uint8."""
    offsets = SAMPLE_OFFSETS[config.samples_per_pixel]

    def add_sample(total, offset):
        origins, directions = pixel_rays(cameras, height, width, offset)
        colours = _ray_colours(scene, cameras, appearance, origins, directions, pyramid)
        return total + _pack(colours), None

    # One sample after the other: all at once would need that many times the memory.
    zeros = jnp.zeros((len(cameras.intrinsics), height, width), jnp.uint32)
    total, _ = jax.lax.scan(add_sample, zeros, jnp.array(offsets))
    return _unpack_mean(total, len(offsets))


def _ray_colours(
    scene: RoomScene,
    cameras: Cameras,
    appearance: Appearance,
    origins: Array,
    directions: Array,
    pyramid: PhotoPyramid | None,
) -> tuple[Array, Array, Array]:
    """Display colours in [0, 1] of what rays (V, H, W) see, as (red, green, blue)."""
    hits = cast_rays(scene, origins, directions)
    u, v = hits.surface_coordinates[..., 0], hits.surface_coordinates[..., 1]

    def dot(a, b):
        return sum(a[..., i] * b[..., i] for i in range(3))

    # A pixel covers distance / focal length, stretched where the surface is seen at an angle.
    facing = -dot(hits.normal, directions) * jax.lax.rsqrt(dot(directions, directions))
    focal = cameras.intrinsics[:, None, None, 0, 0]
    footprint = hits.distance / focal * jax.lax.rsqrt(jnp.maximum(facing, 0.05))

    colours = procedural_colour(scene.textures, hits.surface, u, v, footprint)
    if pyramid is not None:
        photo = photo_colour(pyramid, scene.textures, hits.surface, u, v, footprint)
        use_photo = scene.textures.use_photo[hits.surface]
        colours = tuple(jnp.where(use_photo, a, b) for a, b in zip(photo, colours))

    points = origins + hits.distance[..., None] * directions
    to_light = appearance.light[:, None, None] - points
    squared = dot(to_light, to_light)
    lambert = jnp.maximum(dot(hits.normal, to_light), 0.0) * jax.lax.rsqrt(squared)
    diffuse = 2 * lambert / (1 + squared / 8.0)  # falls to half at 2.8 m
    shade = scene.ambient + (1 - scene.ambient) * diffuse

    tone = appearance.tone[:, None, None]
    gain = appearance.gain[:, None, None]
    exposed = (jnp.clip(c * shade * gain[..., i], 0, 1) for i, c in enumerate(colours))
    return tuple(c + tone * c * (1 - c) for c in exposed)


def _pack(colours: tuple[Array, Array, Array]) -> Array:
    """Colours in [0, 1] as one uint32, ten bits each: up to four of them may be added.

    One output instead of three keeps all that leads to it in a single loop over the rays.
    """
    red, green, blue = (jnp.round(255 * c).astype(jnp.uint32) for c in colours)
    return red | green << 10 | blue << 20


def _unpack_mean(total: Array, count: int) -> Array:
    """(..., 3) uint8 from the sum of `count` packed colours."""
    channels = jnp.stack([(total >> shift) & 0x3FF for shift in (0, 10, 20)], -1)
    return ((channels + count // 2) // count).astype(jnp.uint8)
