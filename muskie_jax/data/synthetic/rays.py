"""Exact intersections of rays with a scene's primitives.

In its unit space (see `scenes`), each primitive is an intersection of slabs and balls. A ray o + t d meets
each slab or ball in an interval of t. It enters the primitive at the largest start, if that is below the
smallest end. Affine maps preserve t, so intervals in unit space hold in world space.

Vectors are tuples (x, y, z) of arrays, so that the search is elementwise and writes one number per ray.
"""

import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Float, Int32

from muskie_jax.data.synthetic.compilation import materialise
from muskie_jax.data.synthetic.scenes import RoomScene

Vector = tuple[Array, Array, Array]
Interval = tuple[Array, Array]  # values of t where a ray enters and leaves; empty if the first is larger


@struct.dataclass
class Hits:
    """The first intersection of each ray with the scene.

    Attributes:
      distance: distance to the hit, in units of the direction's length.
      primitive: index of the primitive; 0 is the room.
      surface: index of the surface, 6 * primitive + face.
      surface_coordinates: position on the face, metres.
      normal: unit normal, on the side that the ray comes from.
    """

    distance: Float[Array, "*rays"]
    primitive: Int32[Array, "*rays"]
    surface: Int32[Array, "*rays"]
    surface_coordinates: Float[Array, "*rays 2"]
    normal: Float[Array, "*rays 3"]


def cast_rays(
    scene: RoomScene, origins: Float[Array, "*#rays 3"], directions: Float[Array, "*#rays 3"]
) -> Hits:
    """Returns the first surface that each ray hits. There always is one: the room encloses all rays.

    Args:
      origins: the rays' origins, metres, inside the room and outside the objects.
      directions: need not be normalised. Distances are in units of a direction's length; with camera-frame
        depth 1 they are z-depths.
    """
    distance, primitive = nearest_primitive(scene, origins, directions)
    return _surface_hit(scene, distance, primitive, origins, directions)


def nearest_primitive(
    scene: RoomScene, origins: Float[Array, "*#rays 3"], directions: Float[Array, "*#rays 3"]
) -> tuple[Float[Array, "*rays"], Int32[Array, "*rays"]]:
    """Returns distance and index of the primitive that each ray hits first; see `cast_rays`.

    The lowest bits of a distance are replaced by the index, so that the search is a minimum over integers
    with a single output. For up to 32 primitives, distances keep a relative precision of 2^-18.
    """
    index_bits = jnp.uint32(2 ** (len(scene.centre) - 1).bit_length() - 1)

    def search(vectorised):
        return functools.partial(_search, index_bits=index_bits, vectorised=vectorised)

    nearest = jax.lax.platform_dependent(
        scene, origins, directions, cpu=search(vectorised=False), default=search(vectorised=True)
    )
    # Written to memory once; otherwise XLA repeats the search in each of the dozens of gathers that use it.
    nearest = materialise(nearest)
    distance = jax.lax.bitcast_convert_type(nearest & ~index_bits, jnp.float32)
    return distance, (nearest & index_bits).astype(jnp.int32)


def _search(
    scene: RoomScene, origins: Array, directions: Array, *, index_bits: Array, vectorised: bool
) -> Array:
    """Returns the smallest uint32 key of each ray: a distance whose lowest bits are a primitive's index.

    Args:
      vectorised: True reduces over an axis of primitives in one kernel, whose threads loop over primitives;
        this suits accelerators. False runs a loop of kernels, one per primitive, which read and write the
        nearest key. On CPUs this stays in the cache, and SIMD runs along the rays.
    """
    origin, direction = _components(origins), _components(directions)

    def key(distance, index):  # positive floats are ordered as their bits are
        return jax.lax.bitcast_convert_type(distance, jnp.uint32) & ~index_bits | index

    maps = scene.world_to_unit
    _, leave_room = _cube(*_to_unit_space(_rows(maps[0]), origin, direction))
    nearest, first = key(leave_room, jnp.uint32(0)), 1
    miss = jnp.uint32(2**32 - 1)
    for shape, count in (
        (_cube, scene.num_boxes),
        (_ball, scene.num_ellipsoids),
        (_cylinder, scene.num_cylinders),
    ):

        def candidate(index, unit_map, shape=shape):
            start, end = shape(*_to_unit_space(_rows(unit_map), origin, direction))
            return jnp.where((start < end) & (start > 0), key(start, index), miss)

        indices = jnp.arange(first, first + count, dtype=jnp.uint32)
        indexed_maps = indices, maps[first : first + count]
        if vectorised:
            candidates = jax.vmap(candidate)(*indexed_maps)
            nearest = jnp.minimum(nearest, candidates.min(0, initial=miss))
        else:
            nearer = lambda so_far, indexed: (jnp.minimum(so_far, candidate(*indexed)), None)
            nearest, _ = jax.lax.scan(nearer, nearest, indexed_maps)
        first += count
    return nearest


def _surface_hit(
    scene: RoomScene, distance: Array, primitive: Array, origins: Array, directions: Array
) -> Hits:
    """Returns the hits of rays, given the primitive and the distance."""
    unit_map = [[scene.world_to_unit[:, i, j][primitive] for j in range(4)] for i in range(3)]
    o, d = _to_unit_space(unit_map, _components(origins), _components(directions))
    x, y, z = (a + distance * b for a, b in zip(o, d))
    num_flat = 1 + scene.num_boxes
    is_cylinder = primitive >= num_flat + scene.num_ellipsoids
    is_ball = (primitive >= num_flat) & ~is_cylinder

    # The normal in unit space: along the largest coordinate on cubes and on the caps of cylinders, along
    # the radius on balls and on the sides of cylinders.
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

    # The largest component of the normal selects a face of the unit cube.
    nx, ny, nz = normal
    face_x = (jnp.abs(nx) >= jnp.abs(ny)) & (jnp.abs(nx) >= jnp.abs(nz))
    face_y = ~face_x & (jnp.abs(ny) >= jnp.abs(nz))
    face = jnp.where(
        face_x,
        jnp.where(nx > 0, 1, 0),
        jnp.where(face_y, jnp.where(ny > 0, 3, 2), jnp.where(nz > 0, 5, 4)),
    )
    # Written to memory once, since dozens of gathers use this index.
    surface = materialise(6 * primitive + face)
    x, y, z = (a * scene.half_size[:, i][primitive] for i, a in enumerate((x, y, z)))  # metres
    u, v = jnp.where(face_x, y, x), jnp.where(face_x | face_y, z, y)

    # Normals transform with the transpose of the map to unit space. The room's normals point inwards.
    world = [nx * unit_map[0][i] + ny * unit_map[1][i] + nz * unit_map[2][i] for i in range(3)]
    length = jnp.sqrt(sum(a * a for a in world))
    sign = jnp.where(primitive == 0, -1.0, 1.0) / length
    normal = jnp.stack([a * sign for a in world], -1)
    return Hits(distance, primitive, surface, jnp.stack([u, v], -1), normal)


def _components(vectors: Array) -> Vector:
    return vectors[..., 0], vectors[..., 1], vectors[..., 2]


def _rows(unit_map: Array) -> list[list[Array]]:
    """Splits a map (3, 4) into rows of scalars."""
    return [[unit_map[i, j] for j in range(4)] for i in range(3)]


def _to_unit_space(unit_map, origin: Vector, direction: Vector) -> tuple[Vector, Vector]:
    """Applies a 3 x 4 affine map (rows of scalars or arrays) to rays."""
    (ox, oy, oz), (dx, dy, dz) = origin, direction
    o = tuple(m[0] * ox + m[1] * oy + m[2] * oz + m[3] for m in unit_map)
    d = tuple(m[0] * dx + m[1] * dy + m[2] * dz for m in unit_map)
    return o, d


def _slab(o: Array, d: Array) -> Interval:
    """Returns the interval of t where -1 <= o + t d <= 1."""
    inverse = 1 / jnp.where(jnp.abs(d) < 1e-9, 1e-9, d)
    middle, half = -o * inverse, jnp.abs(inverse)
    return middle - half, middle + half


def _round(o: tuple[Array, ...], d: tuple[Array, ...]) -> Interval:
    """Returns the interval of t where |o + t d| <= 1, in 2 or 3 dimensions."""
    inverse = 1 / jnp.maximum(sum(b * b for b in d), 1e-12)
    middle = -sum(a * b for a, b in zip(o, d)) * inverse
    # Uses the distance to the centre, because the usual discriminant suffers from cancellation in float32.
    squared_distance = sum((a + middle * b) ** 2 for a, b in zip(o, d))
    half = jnp.sqrt(jnp.maximum(1 - squared_distance, 0.0) * inverse)
    # If the ray misses, start = end, so the interval is empty.
    return middle - half, middle + half


def _intersection(*intervals: Interval) -> Interval:
    starts, ends = zip(*intervals)
    start, end = starts[0], ends[0]
    for s, e in zip(starts[1:], ends[1:]):
        start, end = jnp.maximum(start, s), jnp.minimum(end, e)
    return start, end


def _cube(o: Vector, d: Vector) -> Interval:
    return _intersection(*(_slab(a, b) for a, b in zip(o, d)))


def _ball(o: Vector, d: Vector) -> Interval:
    return _round(o, d)


def _cylinder(o: Vector, d: Vector) -> Interval:
    return _intersection(_round(o[:2], d[:2]), _slab(o[2], d[2]))
