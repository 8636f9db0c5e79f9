"""Synthetic scenes: a textured room with objects and a lamp, sampled from a key; and its cameras.

Every primitive is a unit shape under an affine map. The room and the boxes are the cube [-1, 1]³,
ellipsoids are the unit ball, and cylinders are the unit disc times [-1, 1]. Primitive 0 is the room; boxes,
ellipsoids and cylinders follow. Each primitive has the six faces of its unit cube: -x, +x, -y, +y, -z,
+z. Each face has a texture; surface 6 p + f is face f of primitive p.

World axes: z up, floor at z = 0, metres. Camera axes: OpenCV (x right, y down, z forward).
"""

import dataclasses

import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Float, Float32

from muskie_jax.data.synthetic.draws import Draws
from muskie_jax.data.synthetic.textures import Textures, sample_textures, vary_textures

MAX_ORBIT = 120.0  # degrees; beyond this, hardly any surface is seen from both ends
LIMITS = {  # highest values of settings that are 0 or more
    **dict.fromkeys(("thin_fraction", "plain_fraction", "repeat_fraction", "palette_fraction"), 1.0),
    **dict.fromkeys(("shadow", "gloss", "vignetting", "distance", "zoom", "contrast"), 1.0),
    **dict.fromkeys(("defocus", "motion_blur"), 0.1),
    "noise": 0.5,
    "jpeg": 10.0,
}
THIN = (0.01, 0.04)  # half the thickness of thin objects, metres


@dataclasses.dataclass(frozen=True)
class WorldConfig:
    """The distribution of scenes, cameras and lighting. Ranges are (low, high)."""

    # Geometry, metres.
    num_boxes: int = 10
    num_ellipsoids: int = 4
    num_cylinders: int = 2
    room_width: tuple[float, float] = (4.0, 8.0)  # lengths of both horizontal sides
    room_height: tuple[float, float] = (2.4, 3.6)
    object_size: tuple[float, float] = (0.3, 1.4)  # lengths of the sides of an object's box
    floating_fraction: float = 0.4  # fraction of the objects that float; the rest stand on the floor
    thin_fraction: float = 0.0  # fraction of the boxes and cylinders that are thin: poles, boards, legs

    # Textures.
    wall_cell: float = 0.45  # metres, typical size of coarse detail on the room's sides
    object_cell: float = 0.2  # metres, typical size of coarse detail on objects
    photo_texture_fraction: float = 0.5  # fraction of the surfaces with a photograph, if any are given
    plain_fraction: float = 0.0  # fraction of the surfaces that are almost free of texture, as walls are
    repeat_fraction: float = 0.0  # fraction of the procedural textures that repeat, as tiles do
    palette_fraction: float = (
        0.0  # fraction of the procedural textures in one of three palettes of the room
    )

    # Cameras. The views of a group surround a hub, a pose that looks at the group's focus.
    # Radius of the ball that contains a group's cameras, as a multiple of the distance between hub and
    # focus; drawn per group. Larger is harder: the median overlap of two views is 66% of their pixels at
    # (0.1, 0.3), 60% at (0.1, 0.8), 52% at (1.0, 1.2).
    baseline: tuple[float, float] = (0.1, 0.8)
    # Largest angle by which a view is moved around the focus, away from the hub, degrees; drawn per group.
    # Two views of a group are up to twice as far apart. (0, 0): the ball of `baseline` alone.
    orbit: tuple[float, float] = (0.0, 0.0)
    distance: float = 0.0  # distances from the focus vary by a factor of exp(-distance .. distance)
    zoom: float = 0.0  # focal lengths of a group's views vary by a factor of exp(-zoom .. zoom)
    min_shared: float = 0.35  # minimum fraction of the surface points probed from the hub that a view sees
    clearance: float = 0.35  # minimum distance of a camera from the nearest surface, metres
    field_of_view: tuple[float, float] = (45.0, 75.0)  # degrees, for a square of equal area
    # Largest relative change of each view's focal length. Unlike `zoom`, not considered by `min_shared`.
    zoom_jitter: float = 0.1
    aim_jitter: float = 0.35  # largest shift of each view's aim, relative to half the image's shorter side
    roll_jitter: float = 12.0  # largest roll of each view, degrees
    centre_jitter: float = 0.04  # largest shift of the principal point, relative to the image's sides

    # Appearance of each view.
    ambient: tuple[float, float] = (0.35, 0.65)  # fraction of ambient light
    light_jitter: float = 0.5  # largest shift of the lamp in each view, per axis, metres
    exposure: float = 0.25  # brightness varies by a factor of exp(-exposure .. exposure)
    colour_cast: float = 0.08  # each channel varies by exp(-colour_cast .. colour_cast)
    tone_jitter: float = 0.25  # largest curvature of the tone curve
    shadow: float = 0.0  # fraction of the lamp's light that objects block; 1: black but for ambient light
    gloss: float = 0.0  # largest brightness of the lamp's highlight on a surface

    # Faults of each view's camera, applied to the finished image (see `photometry`); 0 switches one off.
    defocus: float = 0.0  # largest standard deviation of blur, relative to the image's shorter side
    motion_blur: float = 0.0  # largest length of motion, relative to the image's shorter side
    vignetting: float = 0.0  # largest fraction of light lost in the corners
    contrast: float = 0.0  # contrast varies by a factor of exp(-contrast .. contrast)
    noise: float = 0.0  # largest standard deviation of a pixel's noise, relative to white
    # Largest coarseness of JPEG's quantisation, in multiples of its standard tables: 0.4 is quality 80, 1
    # quality 50, 2.5 quality 20.
    jpeg: float = 0.0

    samples_per_pixel: int = 2  # rays averaged per pixel: 1, 2 or 4

    def __post_init__(self):
        if self.samples_per_pixel not in (1, 2, 4):
            raise ValueError(f"samples_per_pixel={self.samples_per_pixel} must be 1, 2 or 4")
        if not 1 <= self.num_objects <= 63:
            raise ValueError(f"{self.num_objects} objects in a room: the number must be from 1 to 63")
        low, high = self.orbit
        if not 0 <= low <= high <= MAX_ORBIT:
            raise ValueError(f"orbit={self.orbit} must be (low, high) with 0 <= low <= high <= {MAX_ORBIT}")
        for name, maximum in LIMITS.items():
            value = getattr(self, name)
            if not 0 <= value <= maximum:
                raise ValueError(f"{name}={value} must be from 0 to {maximum:g}")

    @property
    def num_objects(self) -> int:
        return self.num_boxes + self.num_ellipsoids + self.num_cylinders


@struct.dataclass
class RoomScene:
    """A room and its objects: P = 1 + objects primitives, with 6 P surfaces."""

    centre: Float[Array, "P 3"]  # metres
    half_size: Float[Array, "P 3"]  # metres, along the primitive's own axes
    rotation: Float[Array, "P 3 3"]  # rotates world axes to the primitive's own axes
    textures: Textures  # one texture for each of the 6 P surfaces
    light: Float[Array, "3"]  # position of the lamp, metres
    ambient: Float[Array, ""]  # fraction of ambient light
    num_boxes: int = struct.field(pytree_node=False)
    num_ellipsoids: int = struct.field(pytree_node=False)
    num_cylinders: int = struct.field(pytree_node=False)

    @property
    def world_to_unit(self) -> Float[Array, "P 3 4"]:
        """Affine maps from the world to each primitive's unit space."""
        linear = self.rotation / self.half_size[..., None]
        return jnp.concatenate([linear, -transform(linear, self.centre)[..., None]], -1)


@struct.dataclass
class Cameras:
    """V pinhole cameras. The pixel in column u and row v has its centre at (u + 0.5, v + 0.5)."""

    intrinsics: Float32[Array, "V 3 3"]  # pixels
    world_to_camera: Float32[Array, "V 4 4"]  # metres


def sample_scene(key: Array, config: WorldConfig) -> RoomScene:
    """Draws a room with its objects, textures and lamp."""
    draws = Draws(key, "room", (), capacity=8)
    room_size = jnp.stack(
        [draws.uniform(*config.room_width) for _ in "xy"] + [draws.uniform(*config.room_height)]
    )
    room_half_size = room_size / 2
    room_centre = jnp.array([0.0, 0.0, 1.0]) * room_half_size
    lamp = jnp.append(draws.vectors(2, -0.7, 0.7), draws.uniform(0.4, 0.9))
    ambient = draws.uniform(*config.ambient)

    centre, half_size, rotation = _sample_objects(key, config, room_centre, room_half_size)
    centre = jnp.concatenate([room_centre[None], centre])
    half_size = jnp.concatenate([room_half_size[None], half_size])
    rotation = jnp.concatenate([jnp.eye(3)[None], rotation])

    # A face extends along the two axes that are not normal to it.
    extent = jnp.stack([half_size[:, list(axes)] for axes in ((1, 2), (0, 2), (0, 1))], 1)
    is_room = jnp.arange(len(centre)) == 0
    cell = jnp.where(is_room, config.wall_cell, config.object_cell)
    textures = sample_textures(
        key,
        extent=extent.repeat(2, axis=1).reshape(-1, 2),
        coarse_cell=cell.repeat(6),
        photo_fraction=config.photo_texture_fraction,
    )
    textures = vary_textures(
        key,
        textures,
        plain_fraction=config.plain_fraction,
        repeat_fraction=config.repeat_fraction,
        palette_fraction=config.palette_fraction,
        gloss=config.gloss,
    )
    return RoomScene(
        centre=centre,
        half_size=half_size,
        rotation=rotation,
        textures=textures,
        light=room_centre + room_half_size * lamp,
        ambient=ambient,
        num_boxes=config.num_boxes,
        num_ellipsoids=config.num_ellipsoids,
        num_cylinders=config.num_cylinders,
    )


def _sample_objects(
    key: Array, config: WorldConfig, room_centre: Array, room_half_size: Array
) -> tuple[Array, Array, Array]:
    """Draws centres, half sizes and rotations of the objects, which may overlap."""
    count = config.num_objects
    draws = Draws(key, "objects", (count,), capacity=10)
    low, high = config.object_size
    half_size = low * (high / low) ** draws.vectors(3, 0.0, 1.0) / 2
    # Cylinders are round, and every second ellipsoid is a sphere.
    kind = jnp.arange(count) - config.num_boxes
    is_cylinder = kind >= config.num_ellipsoids
    is_sphere = (kind >= 0) & ~is_cylinder & (kind % 2 == 0)
    x, y, z = jnp.moveaxis(half_size, -1, 0)
    y = jnp.where(is_cylinder | is_sphere, x, y)
    if config.thin_fraction:
        x, y = _make_thin(key, config, x, y, is_cylinder)
    half_size = jnp.stack([x, y, jnp.where(is_sphere, x, z)], -1)

    floating = draws.chance(config.floating_fraction)
    tilt = jnp.where(floating, draws.uniform(-1.0, 1.0), 0.0)
    rotation = _rotations(tilt, yaw=draws.uniform(-jnp.pi, jnp.pi))
    offset = draws.vectors(3, -0.85, 0.85)
    height = jnp.where(floating, (room_centre + offset * room_half_size)[:, 2], half_size[:, 2])
    centre = (room_centre + offset * room_half_size).at[:, 2].set(height)
    return centre, half_size, rotation


def _make_thin(
    key: Array, config: WorldConfig, x: Array, y: Array, is_cylinder: Array
) -> tuple[Array, Array]:
    """Returns half sizes of objects, some of which become boards (x is small) or poles (x and y are)."""
    draws = Draws(key, "thin", x.shape, capacity=4)
    is_box = jnp.arange(len(x)) < config.num_boxes
    thin = draws.chance(config.thin_fraction) & (is_box | is_cylinder)
    half = draws.uniform(*THIN)
    pole = draws.chance(0.5) | is_cylinder
    return jnp.where(thin, half, x), jnp.where(thin & pole, half, y)


def _rotations(tilt: Array, yaw: Array) -> Array:
    """Returns rotations (..., 3, 3) by `yaw` about z, then by `tilt` about x, radians."""
    sin_yaw, cos_yaw, sin, cos = jnp.sin(yaw), jnp.cos(yaw), jnp.sin(tilt), jnp.cos(tilt)
    rows = (
        (cos_yaw, -sin_yaw, jnp.zeros_like(yaw)),
        (cos * sin_yaw, cos * cos_yaw, -sin),
        (sin * sin_yaw, sin * cos_yaw, cos),
    )
    return jnp.stack([jnp.stack(row, -1) for row in rows], -2)


def transform(
    matrices: Float[Array, "*#batch 3 3"], vectors: Float[Array, "*#batch 3"]
) -> Float[Array, "*batch 3"]:
    """Multiplies matrices by vectors in full precision.

    Accelerators round the operands of a matrix product to 10 or even 7 bits. Here that would be an error of
    centimetres.
    """
    return (matrices * vectors[..., None, :]).sum(-1)


def clearance(scene: RoomScene, points: Float[Array, "*points 3"]) -> Float[Array, "*points"]:
    """Returns a lower bound on the distance to the nearest surface, metres; negative inside objects.

    Curved objects are replaced by their bounding boxes.
    """
    local = transform(scene.rotation, points[..., None, :] - scene.centre)
    outside = jnp.abs(local) - scene.half_size
    to_box = jnp.linalg.norm(jnp.maximum(outside, 0), axis=-1) + jnp.minimum(outside.max(-1), 0)
    to_room = -outside[..., 0, :].max(-1)
    return jnp.minimum(to_room, to_box[..., 1:].min(-1))
