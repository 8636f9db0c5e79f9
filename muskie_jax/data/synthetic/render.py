"""Renders groups of views of synthetic scenes on the device, as a pure function of seeds.

A pixel is the mean of a few rays. Each ray is cast (`rays`); its surface is textured (`textures`) and lit
by a lamp. The camera's exposure and tone curve map the result to a display colour; its faults are added to
the finished image (`photometry`).
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Float, Float32, UInt8, UInt32

from muskie_jax.data.synthetic.draws import Draws
from muskie_jax.data.synthetic.photometry import add_camera_faults
from muskie_jax.data.synthetic.rays import cast_rays, nearest_primitive
from muskie_jax.data.synthetic.scenes import Cameras, RoomScene, WorldConfig, sample_scene
from muskie_jax.data.synthetic.textures import (
    PhotoPyramid,
    photo_colour,
    procedural_colour,
)
from muskie_jax.data.synthetic.viewpoints import camera_centres, sample_cameras

# Positions of a pixel's rays, from its upper left corner: rotated grids.
SAMPLE_OFFSETS = {
    1: ((0.5, 0.5),),
    2: ((0.25, 0.25), (0.75, 0.75)),
    4: ((0.375, 0.125), (0.875, 0.375), (0.125, 0.625), (0.625, 0.875)),
}


@struct.dataclass
class RenderedViews:
    """V views of one scene; depth and cameras are None unless requested."""

    images: UInt8[Array, "V H W 3"]
    depth: Float32[Array, "V H W"] | None  # z-depth at pixel centres, metres
    cameras: Cameras | None


@struct.dataclass
class Appearance:
    """Lighting and exposure of V views."""

    light: Float[Array, "V 3"]  # position of the lamp, metres
    gain: Float[Array, "V 3"]  # factor on red, green and blue
    tone: Float[Array, " V"]  # curvature of the tone curve


def render_group(
    seed: UInt32[Array, "2"],
    *,
    num_views: int,
    height: int,
    width: int,
    config: WorldConfig,
    photos: PhotoPyramid | None = None,
    with_geometry: bool = False,
) -> RenderedViews:
    """Renders the group of views that a seed determines.

    Args:
      seed: the data of a threefry key.
      num_views: number of views, V.
      height, width: size of the images, pixels. All resolutions of one aspect ratio show the same view.
      config: the distribution of scenes.
      photos: textures for some of the surfaces, from `photo_pyramid`.
      with_geometry: whether to return depth and cameras too.
    """
    key = jax.random.wrap_key_data(seed, impl="threefry2x32")  # each function draws named streams from it
    scene = sample_scene(key, config)
    cameras = sample_cameras(key, scene, config, num_views, height, width)
    appearance = sample_appearance(key, scene, config, num_views)
    images = _render_images(scene, cameras, appearance, config, height, width, photos)
    images = add_camera_faults(key, images, config)
    if not with_geometry:
        return RenderedViews(images=images, depth=None, cameras=None)
    origins, directions = pixel_rays(cameras, height, width)
    depth, _ = nearest_primitive(scene, origins, directions)
    return RenderedViews(images=images, depth=depth, cameras=cameras)


def render_groups(
    seeds: UInt32[Array, "B 2"],
    *,
    num_views: int,
    height: int,
    width: int,
    config: WorldConfig,
    photos: PhotoPyramid | None = None,
    with_geometry: bool = False,
) -> RenderedViews:
    """Renders B groups: `render_group`, with a leading axis of groups on all results."""

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
    """Returns origins (V, 1, 1, 3) and directions (V, H, W, 3) of all pixels' rays.

    Directions have depth 1 in the camera's frame.

    Args:
      cameras: the V views' cameras.
      height, width: size of the images, pixels.
      offset: (right, down) position of the ray from its pixel's upper left corner.
    """
    intrinsics = cameras.intrinsics[:, None, None]
    columns = jnp.arange(width) + offset[0]
    rows = jnp.arange(height)[:, None] + offset[1]
    x = (columns - intrinsics[..., 0, 2]) / intrinsics[..., 0, 0]
    y = (rows - intrinsics[..., 1, 2]) / intrinsics[..., 1, 1]
    axes = cameras.world_to_camera[:, None, None, :3, :3]
    # Not a matrix product, because accelerators would round its operands and run it as a separate kernel.
    directions = [x * axes[..., 0, i] + y * axes[..., 1, i] + axes[..., 2, i] for i in range(3)]
    return camera_centres(cameras.world_to_camera)[:, None, None], jnp.stack(directions, -1)


def sample_appearance(key: Array, scene: RoomScene, config: WorldConfig, num_views: int) -> Appearance:
    """Draws the lamp, exposure and colour of V views."""
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
    """Returns the images, uint8 (V, H, W, 3)."""
    offsets = SAMPLE_OFFSETS[config.samples_per_pixel]

    def add_sample(total, offset):
        origins, directions = pixel_rays(cameras, height, width, offset)
        colours = _ray_colours(scene, cameras, appearance, origins, directions, config, pyramid)
        return total + _pack(colours), None

    # One sample at a time, to save memory.
    zeros = jnp.zeros((len(cameras.intrinsics), height, width), jnp.uint32)
    total, _ = jax.lax.scan(add_sample, zeros, jnp.array(offsets))
    return _unpack_mean(total, len(offsets))


def _ray_colours(
    scene: RoomScene,
    cameras: Cameras,
    appearance: Appearance,
    origins: Array,
    directions: Array,
    config: WorldConfig,
    pyramid: PhotoPyramid | None,
) -> tuple[Array, Array, Array]:
    """Returns the display colours of rays (V, H, W) in [0, 1], as (red, green, blue)."""
    hits = cast_rays(scene, origins, directions)
    u, v = hits.surface_coordinates[..., 0], hits.surface_coordinates[..., 1]

    def dot(a, b):
        return sum(a[..., i] * b[..., i] for i in range(3))

    # A pixel covers a width of distance / focal length, and more on slanted surfaces.
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
    lit = 1.0
    if config.shadow:
        # The lamp is at distance 1 along the ray. No surface that faces the lamp hits itself, since its
        # convex object lies behind the start of the ray.
        between, _ = nearest_primitive(scene, points, to_light)
        lit = jnp.where(between < 1, 1 - config.shadow, 1.0)
    shade = scene.ambient + (1 - scene.ambient) * diffuse * lit
    colours = tuple(c * shade for c in colours)
    gloss, shininess = scene.textures.gloss, scene.textures.shininess
    if gloss is not None and shininess is not None:
        # The highlight of Blinn and Phong: brightest where the normal halves the angle of lamp and camera.
        halfway = to_light * jax.lax.rsqrt(squared)[..., None]
        halfway -= directions * jax.lax.rsqrt(dot(directions, directions))[..., None]
        cosine = jnp.maximum(dot(hits.normal, halfway), 0.0) * jax.lax.rsqrt(dot(halfway, halfway))
        highlight = gloss[hits.surface] * cosine ** shininess[hits.surface] * lit
        colours = tuple(c + highlight for c in colours)

    tone = appearance.tone[:, None, None]
    gain = appearance.gain[:, None, None]
    exposed = (jnp.clip(c * gain[..., i], 0, 1) for i, c in enumerate(colours))
    red, green, blue = (c + tone * c * (1 - c) for c in exposed)
    return red, green, blue


def _pack(colours: tuple[Array, Array, Array]) -> Array:
    """Packs colours in [0, 1] into uint32, ten bits each, so that up to four can be summed.

    With one output instead of three, XLA fuses the whole computation into a single loop over the rays.
    """
    red, green, blue = (jnp.round(255 * c).astype(jnp.uint32) for c in colours)
    return red | green << 10 | blue << 20


def _unpack_mean(total: Array, count: int) -> Array:
    """Returns the mean of `count` packed colours, given their sum: uint8 (..., 3)."""
    channels = jnp.stack([(total >> shift) & 0x3FF for shift in (0, 10, 20)], -1)
    return ((channels + count // 2) // count).astype(jnp.uint8)
