"""Exact intersections of rays with a scene's primitives.

In a primitive's own unit space (see `scenes`) each shape is the common part of slabs and balls, and
a ray meets each of those in an interval of its parameter: the shape is entered at the last of the
starts if that comes before the first of the ends. An affine map keeps the parameter.

Vectors are tuples (x, y, z) of arrays, so that the search is elementwise and writes one number a ray.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jax import Array

from muskie_jax.data.synthetic.compilation import materialise
from muskie_jax.data.synthetic.scenes import RoomScene

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


def cast_rays(scene: RoomScene, origins: Array, directions: Array) -> Hits:
    """The first surface that each ray meets; there is one, since the room encloses everything.

    Args:
      scene: what to meet.
      origins: (..., 3) metres, inside the room and outside the objects.
      directions: (..., 3) of any length, broadcast against origins. Distances are in lengths of the
        direction, so along directions with depth 1 in a camera's axes they are z-depths.
    """
    distance, primitive = nearest_primitive(scene, origins, directions)
    return _surface_hit(scene, distance, primitive, origins, directions)


def nearest_primitive(scene: RoomScene, origins: Array, directions: Array) -> tuple[Array, Array]:
    """Distance to and number of the primitive that each ray meets first; see `cast_rays`.

    Distances are exact to 2^-18 of themselves (for up to 32 primitives): their last bits make room
    for the number, so that the nearest is a minimum of integers and the search has one output.
    """
    number_bits = jnp.uint32(2 ** (len(scene.centre) - 1).bit_length() - 1)

    def search(at_once):
        return functools.partial(_search, number_bits=number_bits, at_once=at_once)

    nearest = jax.lax.platform_dependent(
        scene, origins, directions, cpu=search(at_once=False), default=search(at_once=True)
    )
    # It feeds dozens of gathers, which would all search anew.
    nearest = materialise(nearest)
    distance = jax.lax.bitcast_convert_type(nearest & ~number_bits, jnp.float32)
    return distance, (nearest & number_bits).astype(jnp.int32)


def _search(
    scene: RoomScene, origins: Array, directions: Array, *, number_bits: Array, at_once: bool
) -> Array:
    """The least bits of a distance with the primitive's number as its lowest bits, uint32.

    Args:
      at_once: make it a minimum over an axis of primitives, for accelerators: one kernel, each of whose
        threads loops over them. A loop around them would write and read the nearest for each. To a
        processor's cache that is little, and its vectors run along the rays.
    """
    origin, direction = _components(origins), _components(directions)

    def key(distance, number):  # positive floats are ordered as their bits are
        return jax.lax.bitcast_convert_type(distance, jnp.uint32) & ~number_bits | number

    maps = scene.world_to_unit
    _, leave_room = _cube(*_to_unit_space(_rows(maps[0]), origin, direction))
    nearest, first = key(leave_room, jnp.uint32(0)), 1
    miss = jnp.uint32(2**32 - 1)
    for shape, count in (
        (_cube, scene.num_boxes),
        (_ball, scene.num_ellipsoids),
        (_cylinder, scene.num_cylinders),
    ):

        def candidate(number, unit_map, shape=shape):
            start, end = shape(*_to_unit_space(_rows(unit_map), origin, direction))
            return jnp.where((start < end) & (start > 0), key(start, number), miss)

        numbers = jnp.arange(first, first + count, dtype=jnp.uint32)
        numbered_maps = numbers, maps[first : first + count]
        if at_once:
            candidates = jax.vmap(candidate)(*numbered_maps)
            nearest = jnp.minimum(nearest, candidates.min(0, initial=miss))
        else:
            nearer = lambda so_far, numbered: (jnp.minimum(so_far, candidate(*numbered)), None)
            nearest, _ = jax.lax.scan(nearer, nearest, numbered_maps)
        first += count
    return nearest


def _surface_hit(
    scene: RoomScene, distance: Array, primitive: Array, origins: Array, directions: Array
) -> Hits:
    """What rays meet, given the primitive and where."""
    unit_map = [[scene.world_to_unit[:, i, j][primitive] for j in range(4)] for i in range(3)]
    o, d = _to_unit_space(unit_map, _components(origins), _components(directions))
    x, y, z = (a + distance * b for a, b in zip(o, d))
    num_flat = 1 + scene.num_boxes
    is_cylinder = primitive >= num_flat + scene.num_ellipsoids
    is_ball = (primitive >= num_flat) & ~is_cylinder

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
    # An index of dozens of gathers again.
    surface = materialise(6 * primitive + face)
    x, y, z = (a * scene.half_size[:, i][primitive] for i, a in enumerate((x, y, z)))  # metres
    u, v = jnp.where(face_x, y, x), jnp.where(face_x | face_y, z, y)

    # Normals transform with the transpose of the map to unit space; the room's point inwards.
    world = [nx * unit_map[0][i] + ny * unit_map[1][i] + nz * unit_map[2][i] for i in range(3)]
    length = jnp.sqrt(sum(a * a for a in world))
    towards = jnp.where(primitive == 0, -1.0, 1.0) / length
    normal = jnp.stack([a * towards for a in world], -1)
    return Hits(distance, primitive, surface, jnp.stack([u, v], -1), normal)


def _components(vectors: Array) -> Vector:
    return vectors[..., 0], vectors[..., 1], vectors[..., 2]


def _rows(unit_map: Array) -> list[list[Array]]:
    """A map (3, 4) as rows of scalars."""
    return [[unit_map[i, j] for j in range(4)] for i in range(3)]


def _to_unit_space(unit_map, origin: Vector, direction: Vector) -> tuple[Vector, Vector]:
    """Applies 3 x 4 affine maps (rows of scalars or arrays) to rays."""
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    o = tuple(m[0] * ox + m[1] * oy + m[2] * oz + m[3] for m in unit_map)
    d = tuple(m[0] * dx + m[1] * dy + m[2] * dz for m in unit_map)
    return o, d


def _slab(o: Array, d: Array) -> Interval:
    """Where -1 <= o + t d <= 1."""
    inverse = 1 / jnp.where(jnp.abs(d) < 1e-9, 1e-9, d)
    middle, half = -o * inverse, jnp.abs(inverse)
    return middle - half, middle + half


def _round(o: tuple[Array, ...], d: tuple[Array, ...]) -> Interval:
    """Where |o + t d| <= 1, in 2 or 3 dimensions."""
    inverse = 1 / jnp.maximum(sum(b * b for b in d), 1e-12)
    middle = -sum(a * b for a, b in zip(o, d)) * inverse
    # From the point nearest to the centre: the usual discriminant cancels in float32.
    miss = sum((a + middle * b) ** 2 for a, b in zip(o, d))
    half = jnp.sqrt(jnp.maximum(1 - miss, 0.0) * inverse)
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
