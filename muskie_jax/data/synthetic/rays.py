"""Exact intersections of rays with a scene's primitives.

In a primitive's own unit space (see `scenes`) each shape is the common part of slabs and balls, and
a ray meets each of those in an interval of its parameter: the shape is entered at the last of the
starts if that comes before the first of the ends. An affine map keeps the parameter.

Vectors are tuples (x, y, z) of arrays and the primitives an unrolled loop with a running minimum,
so that the search compiles to one loop over rays that writes one number for each.
"""

import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from muskie_jax.data.synthetic.compilation import materialise
from muskie_jax.data.synthetic.scenes import Scene

Vector = tuple[Array, Array, Array]
Interval = tuple[Array, Array]  # where a ray enters and leaves; empty if the first is larger


@flax.struct.dataclass
class Hits:
    """Where rays meet the scene; every array leads with the rays' shape."""

    distance: Array  # in lengths of the ray's direction
    primitive: Array  # int32, 0 is the room
    surface: Array  # int32, 6 * primitive + face
    surface_coordinates: Array  # (..., 2), metres
    normal: Array  # (..., 3), unit vector towards the ray's side


def cast_rays(scene: Scene, origins: Array, directions: Array) -> Hits:
    """The first surface that each ray meets; there is one, since the room encloses everything.

    Args:
      scene: what to meet.
      origins: (..., 3) metres, inside the room and outside the objects.
      directions: (..., 3) of any length, broadcast against origins. Distances are in lengths of the
        direction, so along directions with depth 1 in a camera's axes they are z-depths.
    """
    origin, direction = _components(origins), _components(directions)
    maps = scene.world_to_unit
    primitive = _nearest_primitive(scene, maps, origin, direction)
    # Each of these feeds dozens of gathers, which would compute it anew.
    (primitive,) = materialise(primitive)
    distance, surface, u, v, *normal = materialise(
        *_surface_hit(scene, maps, primitive, origin, direction)
    )
    return Hits(distance, primitive, surface, jnp.stack([u, v], -1), jnp.stack(normal, -1))


def _nearest_primitive(scene: Scene, maps: Array, origin: Vector, direction: Vector) -> Array:
    """The first object that each ray enters, or 0, the room, if there is none."""
    nearest, primitive = jnp.inf, 0
    first_ellipsoid = 1 + scene.num_boxes
    first_cylinder = first_ellipsoid + scene.num_ellipsoids
    for p in range(1, first_cylinder + scene.num_cylinders):
        shape = _cube if p < first_ellipsoid else _ball if p < first_cylinder else _cylinder
        start, end = _shape_interval(shape, maps[p], origin, direction)
        hit = (start < end) & (start > 0) & (start < nearest)
        nearest = jnp.where(hit, start, nearest)
        primitive = jnp.where(hit, p, primitive)
    return jnp.broadcast_to(primitive, jnp.broadcast_shapes(origin[0].shape, direction[0].shape))


def _surface_hit(
    scene: Scene, maps: Array, primitive: Array, origin: Vector, direction: Vector
) -> tuple[Array, ...]:
    """Distance, surface, its coordinates u and v, and the normal x, y, z, given the primitive."""
    unit_map = jnp.moveaxis(maps, 0, -1)
    unit_map = [[unit_map[i, j][primitive] for j in range(4)] for i in range(3)]
    o, d = _to_unit_space(unit_map, origin, direction)

    is_room = primitive == 0
    is_ball = (primitive > scene.num_boxes) & (
        primitive <= scene.num_boxes + scene.num_ellipsoids
    )
    is_cylinder = primitive > scene.num_boxes + scene.num_ellipsoids
    enter_cube, leave_cube = _cube(o, d)
    distance = jnp.where(is_cylinder, _cylinder(o, d)[0], enter_cube)
    distance = jnp.where(is_ball, _ball(o, d)[0], distance)
    distance = jnp.where(is_room, leave_cube, distance)
    x, y, z = (a + distance * b for a, b in zip(o, d))

    # The normal in unit space. A cube's points along its larger coordinate; so does a cylinder's
    # at the caps; elsewhere round shapes point where the point itself lies.
    ax, ay, az = jnp.abs(x), jnp.abs(y), jnp.abs(z)
    along_x = (ax >= ay) & (ax >= az)
    along_y = ~along_x & (ay >= az)
    along_z = ~along_x & ~along_y
    on_cap = is_cylinder & (z * z > x * x + y * y)
    on_side = is_cylinder & ~on_cap
    keep_x = is_ball | on_side | (along_x & ~on_cap)
    keep_y = is_ball | on_side | (along_y & ~on_cap)
    keep_z = is_ball | on_cap | (along_z & ~on_side)
    normal = jnp.where(keep_x, x, 0.0), jnp.where(keep_y, y, 0.0), jnp.where(keep_z, z, 0.0)

    # Faces are those of the unit cube, by the normal's largest component.
    nx, ny, nz = normal
    face_x = (jnp.abs(nx) >= jnp.abs(ny)) & (jnp.abs(nx) >= jnp.abs(nz))
    face_y = ~face_x & (jnp.abs(ny) >= jnp.abs(nz))
    face = jnp.where(
        face_x,
        jnp.where(nx > 0, 1, 0),
        jnp.where(face_y, jnp.where(ny > 0, 3, 2), jnp.where(nz > 0, 5, 4)),
    )
    surface = 6 * primitive + face
    extent = scene.textures.extent
    u = jnp.where(face_x, y, x) * extent[:, 0][surface]
    v = jnp.where(face_x | face_y, z, y) * extent[:, 1][surface]

    # Normals transform with the transpose of the map to unit space; the room's point inwards.
    world = [
        nx * unit_map[0][i] + ny * unit_map[1][i] + nz * unit_map[2][i] for i in range(3)
    ]
    length = jnp.sqrt(sum(a * a for a in world))
    towards = jnp.where(is_room, -1.0, 1.0) / length
    return distance, surface, u, v, *(a * towards for a in world)


def _components(vectors: Array) -> Vector:
    return vectors[..., 0], vectors[..., 1], vectors[..., 2]


def _to_unit_space(unit_map, origin: Vector, direction: Vector) -> tuple[Vector, Vector]:
    """Applies 3 x 4 affine maps (rows of scalars or arrays) to rays."""
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    o = tuple(m[0] * ox + m[1] * oy + m[2] * oz + m[3] for m in unit_map)
    d = tuple(m[0] * dx + m[1] * dy + m[2] * dz for m in unit_map)
    return o, d


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _shape_interval(
    shape: Callable[[Vector, Vector], Interval], unit_map: Array, origin: Vector, direction: Vector
) -> Interval:
    """Where rays are inside of a primitive; jitted to be traced once for all of them."""
    return shape(*_to_unit_space(unit_map, origin, direction))


def _slab(o: Array, d: Array) -> Interval:
    """Where -1 <= o + t d <= 1."""
    d = jnp.where(jnp.abs(d) < 1e-9, 1e-9, d)
    middle, half = -o / d, 1 / jnp.abs(d)
    return middle - half, middle + half


def _round(o: tuple[Array, ...], d: tuple[Array, ...]) -> Interval:
    """Where |o + t d| <= 1, in 2 or 3 dimensions."""
    dd = jnp.maximum(sum(b * b for b in d), 1e-12)
    middle = -sum(a * b for a, b in zip(o, d)) / dd
    # From the point nearest to the centre: the usual discriminant cancels in float32.
    miss = sum((a + middle * b) ** 2 for a, b in zip(o, d))
    half = jnp.sqrt(jnp.maximum(1 - miss, 0.0) / dd)
    # Where the ray misses, the interval is empty: start = end.
    return middle - half, middle + half


def _common(*intervals: Interval) -> Interval:
    starts, ends = zip(*intervals)
    start, end = starts[0], ends[0]
    for s, e in zip(starts[1:], ends[1:]):
        start, end = jnp.maximum(start, s), jnp.minimum(end, e)
    return start, end


def _cube(o: Vector, d: Vector) -> Interval:
    return _common(*(_slab(a, b) for a, b in zip(o, d)))


def _ball(o: Vector, d: Vector) -> Interval:
    return _round(o, d)


def _cylinder(o: Vector, d: Vector) -> Interval:
    return _common(_round(o[:2], d[:2]), _slab(o[2], d[2]))
