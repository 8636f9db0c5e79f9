"""Samples cameras that see a common part of a synthetic scene, with a configurable baseline.

The views of a group surround a *hub*: a pose in free space that looks at some object. A few rays from the
hub probe the surfaces that it sees. A view is drawn from a ball around the hub and aims at the hub's focus.
For wide groups, the ball's centre first moves around the focus, and towards it or away from it. The view
is accepted if it is clear of all surfaces and sees enough of the probed points. As shapes are static, a
fixed number of candidates is drawn at once. The first acceptable one is taken, or the best one if
none is acceptable.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from muskie_jax.data.synthetic.draws import Draws
from muskie_jax.data.synthetic.rays import nearest_primitive
from muskie_jax.data.synthetic.scenes import Cameras, RoomScene, WorldConfig, clearance, transform

HUB_CANDIDATES = 32
VIEW_CANDIDATES = 16
ORBIT_CANDIDATES = 32  # candidates of views that move around the focus, which more often hit an obstacle
ORBIT_RISE = 0.4  # movement up or down around the focus, relative to movement sideways: rooms are low
MAX_ELEVATION = 1.2  # radians above or below the focus
PROBES = 4  # rays along each side of the hub's image
HUB_OBJECT_FRACTION = 0.4  # fraction of the hub's rays that should hit objects rather than the room
HUB_DISTANCE = 1.2  # minimum distance between hub and focus, metres
HUB_RISE = (-1.2, 0.8)  # height of the hub's target above the hub, metres


def look_at(
    position: Float[Array, "*batch 3"], target: Float[Array, "*batch 3"], roll: Float[Array, "*batch"]
) -> Float[Array, "*batch 4 4"]:
    """Returns world-to-camera matrices of upright cameras, rotated by `roll` radians about their axis."""
    forward = _unit(target - position)
    level = _unit(jnp.cross(forward, jnp.array([0.0, 0.0, 1.0])))
    down = jnp.cross(forward, level)
    cos, sin = jnp.cos(roll)[..., None], jnp.sin(roll)[..., None]
    rotation = jnp.stack([cos * level + sin * down, cos * down - sin * level, forward], -2)
    translation = -transform(rotation, position)[..., None]
    last_row = jnp.broadcast_to(jnp.array([0.0, 0, 0, 1]), (*position.shape[:-1], 1, 4))
    return jnp.concatenate([jnp.concatenate([rotation, translation], -1), last_row], -2)


def camera_centres(world_to_camera: Float[Array, "*batch 4 4"]) -> Float[Array, "*batch 3"]:
    """Returns the cameras' positions in the world."""
    rotation, translation = world_to_camera[..., :3, :3], world_to_camera[..., :3, 3]
    return -transform(jnp.swapaxes(rotation, -1, -2), translation)


def sample_cameras(
    key: Array, scene: RoomScene, config: WorldConfig, num_views: int, height: int, width: int
) -> Cameras:
    """Draws the cameras of one group of views. Only the intrinsics depend on the resolution."""
    group_draws = Draws(key, "group", (), capacity=2)
    angle = jnp.deg2rad(group_draws.uniform(*config.field_of_view))
    # Half of the image's (width, height) at depth 1.
    aspect = jnp.array([width / height, height / width]) ** 0.5
    half_image = jnp.tan(angle / 2) * aspect

    hub = _sample_hub(key, scene, config, half_image)
    radius = hub.focus_distance * group_draws.uniform(*config.baseline)
    if config.zoom:
        zoom = jnp.exp(config.zoom * Draws(key, "zoom", (num_views,), capacity=1).uniform(-1.0, 1.0))
    else:
        zoom = jnp.ones(num_views)
    world_to_camera = _sample_views(
        key, scene, config, half_image=half_image, zoom=zoom, hub=hub, radius=radius
    )

    draws = Draws(key, "lens", (num_views,), capacity=4)
    focal = zoom * width / (2 * half_image[0]) * (1 + config.zoom_jitter * draws.uniform(-1.0, 1.0))
    principal = jnp.array([width, height]) * (0.5 + config.centre_jitter * draws.vectors(2, -1, 1))
    intrinsics = jnp.zeros((num_views, 3, 3)).at[:, 2, 2].set(1.0)
    intrinsics = intrinsics.at[:, 0, 0].set(focal).at[:, 1, 1].set(focal)
    intrinsics = intrinsics.at[:, :2, 2].set(principal)
    return Cameras(intrinsics=intrinsics, world_to_camera=world_to_camera)


class _Hub(NamedTuple):
    world_to_camera: Array  # (4, 4)
    probes: Array  # (PROBES², 3), surface points that the hub sees
    focus_distance: Array  # (), metres along the hub's optical axis


def _sample_hub(key: Array, scene: RoomScene, config: WorldConfig, half_image: Array) -> _Hub:
    """Returns the first pose in free space that sees enough of some object from far enough away."""
    draws = Draws(key, "hub", (HUB_CANDIDATES,), capacity=8)
    reach = scene.half_size[0] - config.clearance
    position = scene.centre[0] + reach * draws.vectors(3, -1.0, 1.0)
    objects = scene.centre[1:]
    target = objects[(draws.uniform(0.0, 1.0) * len(objects)).astype(jnp.int32)]
    target += draws.vectors(3, -0.5, 0.5)
    # Neither straight up nor down, where "upright" is undefined.
    rise = jnp.clip(target[:, 2] - position[:, 2], *HUB_RISE)
    target = target.at[:, 2].set(position[:, 2] + rise)
    world_to_camera = look_at(position, target, jnp.zeros(HUB_CANDIDATES))

    grid = (jnp.arange(PROBES) + 0.5) / PROBES * 2 - 1
    x, y = (a.ravel() for a in jnp.meshgrid(grid * half_image[0], grid * half_image[1]))
    camera_to_world = jnp.swapaxes(world_to_camera[:, :3, :3], -1, -2)
    directions = transform(camera_to_world[:, None], jnp.stack([x, y, jnp.ones_like(x)], -1))
    depth, primitive = nearest_primitive(scene, position[:, None], directions)
    # The mean of inverse depths gives most weight to the points that move most between views.
    distance = 1 / (1 / depth).mean(-1)

    clear = clearance(scene, position)
    object_score = (primitive > 0).mean(-1) / HUB_OBJECT_FRACTION
    score = jnp.minimum(object_score, 1.0) + jnp.minimum(distance / HUB_DISTANCE, 1.0)
    best = jnp.argmax(jnp.where(clear > config.clearance, score, clear - 100.0))
    points = position[best] + depth[best][:, None] * directions[best]
    return _Hub(world_to_camera[best], points, distance[best])


def _sample_views(
    key: Array,
    scene: RoomScene,
    config: WorldConfig,
    *,
    half_image: Array,
    zoom: Array,
    hub: _Hub,
    radius: Array,
) -> Array:
    """Returns world-to-camera matrices (V, 4, 4) of views.

    Args:
      key, scene, config: see `sample_cameras`.
      half_image: half of the unzoomed image's (width, height) at depth 1.
      zoom: factor on the focal length of each view, (V,).
      hub: the pose that the views surround.
      radius: views are within so many metres of the hub, once it has moved around the focus.
    """
    moves = config.orbit[1] > 0 or config.distance > 0
    shape = len(zoom), ORBIT_CANDIDATES if moves else VIEW_CANDIDATES
    draws = Draws(key, "views", shape, capacity=8)
    # Candidates approach the hub. The last candidate coincides with the hub, so it is as clear of surfaces
    # as the hub.
    approach = jnp.linspace(1.0, 0.0, shape[1])
    reach = radius * approach * draws.uniform(0.0, 1.0) ** (1 / 3)
    offset = reach[..., None] * _unit(draws.vectors(3, -1.0, 1.0))
    centre = (
        _moved_hubs(key, config, hub, approach, shape) if moves else camera_centres(hub.world_to_camera)
    )
    position = centre + offset
    # At the focus, half of the image spans half_image * focus_distance metres.
    aim = config.aim_jitter * half_image.min() * draws.vectors(3, -1.0, 1.0)
    forward = hub.world_to_camera[2, :3]
    target = camera_centres(hub.world_to_camera) + hub.focus_distance * (forward + aim)
    roll = jnp.deg2rad(config.roll_jitter) * draws.uniform(-1.0, 1.0)
    world_to_camera = look_at(position, target, roll)

    pose = world_to_camera[..., None, :, :]
    probes = transform(pose[..., :3, :3], hub.probes) + pose[..., :3, 3]
    bounds = (half_image / zoom[:, None])[:, None, None] * probes[..., 2:]
    inside = (probes[..., 2] > 0) & (jnp.abs(probes[..., :2]) < bounds).all(-1)
    # The probe is at distance 1 along its ray. A hit before that occludes it.
    origin = position[..., None, :]
    distance, _ = nearest_primitive(scene, origin, hub.probes - origin)
    shared = (inside & (distance > 0.99)).mean(-1)

    clear = clearance(scene, position)
    score = jnp.where(clear > config.clearance, jnp.minimum(shared, config.min_shared), clear - 100.0)
    best = jnp.argmax(score, -1)
    return jnp.take_along_axis(world_to_camera, best[:, None, None, None], 1)[:, 0]


def _moved_hubs(
    key: Array, config: WorldConfig, hub: _Hub, approach: Array, shape: tuple[int, int]
) -> Array:
    """Returns positions (V, candidates, 3): the hub's, moved around its focus, towards it or away from it.

    Args:
      key, config: see `sample_cameras`.
      hub: the hub.
      approach: factor on the movement of each candidate, (candidates,).
      shape: (V, candidates).
    """
    # One largest angle per group, so that some groups are narrow and some are wide. Candidates of a view
    # have the same angle before they approach the hub: otherwise small angles would be accepted first.
    angle = jnp.deg2rad(Draws(key, "orbit", (), capacity=1).uniform(*config.orbit))
    angle *= Draws(key, "angle", shape[:1], capacity=1).uniform(0.0, 1.0)[:, None] * approach
    draws = Draws(key, "movement", shape, capacity=3)
    sideways = jnp.where(draws.chance(0.5), angle, -angle)
    upwards = ORBIT_RISE * angle * draws.uniform(-1.0, 1.0)
    factor = jnp.exp(config.distance * approach * draws.uniform(-1.0, 1.0))

    arm = -hub.focus_distance * hub.world_to_camera[2, :3]  # from the focus to the hub
    elevation = jnp.clip(jnp.arcsin(arm[2] / hub.focus_distance) + upwards, -MAX_ELEVATION, MAX_ELEVATION)
    azimuth = jnp.arctan2(arm[1], arm[0]) + sideways
    level = jnp.cos(elevation)
    direction = jnp.stack([level * jnp.cos(azimuth), level * jnp.sin(azimuth), jnp.sin(elevation)], -1)
    focus = camera_centres(hub.world_to_camera) - arm
    return focus + hub.focus_distance * factor[..., None] * direction


def _unit(vector: Array) -> Array:
    return vector / jnp.linalg.norm(vector, axis=-1, keepdims=True)
