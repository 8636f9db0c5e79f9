"""Surface textures: random fields on hashed lattices, and photographs.

A procedural texture sums three lattices of cells (coarse, medium, fine), with one random value per cell. If
it is interpolated smoothly, a lattice is value noise. If it is constant per cell, it is a mosaic. If it is
stretched, it becomes grain, planks or stripes. The sum passes through a step of random steepness between
two colours, which gives anything from soft clouds to hard-edged camouflage. A motif (dots or grid lines)
adds a third colour. Values are hashed, so textures never repeat: every point of a surface is distinct.

All computation is per ray and elementwise. Colours are tuples (red, green, blue) of arrays, not arrays
with a last axis of 3, so that XLA fuses everything into one loop over the rays.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Bool, Float, UInt8, UInt32

from muskie_jax.data.synthetic.draws import Draws, hash_bits

LACUNARITY = 2.4  # ratio of frequencies between one lattice and the next
NUM_PALETTES = 3  # palettes that a room's surfaces share
PLAIN_DETAIL = 0.03  # variation of brightness on plain surfaces
NO_PERIOD = 1e6  # cells; further than any surface extends


@struct.dataclass
class Textures:
    """Parameters of S textures."""

    to_cells: Float[Array, "S 2 2"]  # maps surface metres to cells of the coarse lattice
    offset: Float[Array, "S 2"]  # cells
    hash_seed: UInt32[Array, " S"]
    warp: Float[Array, " S"]  # amplitude of the sinusoidal distortion of the lattice, in cells; 0: none
    blockiness: Float[Array, " S"]  # 0 = value noise, 1 = mosaic
    contrast: Float[Array, " S"]  # slope of the step between the first two colours
    detail: Float[Array, " S"]  # amplitude of fine variations in brightness
    dots: Float[Array, " S"]  # largest radius of the dots, cells of the medium lattice; <= 0: none
    lines: Float[Array, " S"]  # half width of the grid lines, cells of the medium lattice; <= 0: none
    colours: Float[Array, "S 3 3"]  # three colours, display RGB in [0, 1]
    use_photo: Bool[Array, " S"]  # show a photograph if photographs are given
    photo: UInt32[Array, " S"]  # index of the photograph, modulo the number of photographs
    photo_span: Float[Array, " S"]  # width of the photograph, metres
    period: Float[Array, " S"] | None = None  # cells after which the lattice repeats; None: nothing repeats
    gloss: Float[Array, " S"] | None = None  # brightness of the highlight; None: no surface is glossy
    shininess: Float[Array, " S"] | None = None  # exponent of the highlight: higher is sharper


def sample_textures(
    key: Array, extent: Float[Array, "S 2"], coarse_cell: Float[Array, " S"], *, photo_fraction: float
) -> Textures:
    """Draws one texture per surface.

    Args:
      key: a PRNG key.
      extent: half sizes of the surfaces, metres.
      coarse_cell: typical cell size of the coarse lattice, metres.
      photo_fraction: fraction of the surfaces that show a photograph if photographs are given.
    """
    count = len(extent)
    draws = Draws(key, "textures", (count,), capacity=40)
    uniform, chance = draws.uniform, draws.chance

    cell = coarse_cell * 2 ** uniform(-0.7, 0.7)
    # Stretches about a third of the surfaces: grain, planks, stripes.
    stretch = 2 ** jnp.where(chance(0.35), uniform(0.5, 1.3), uniform(-0.2, 0.2))
    scale = jnp.stack([stretch**0.5, stretch**-0.5], -1) / cell[:, None]
    # Half of the lattices are axis-aligned, as most man-made patterns are.
    angle = jnp.where(chance(0.5), jnp.pi / 2 * chance(0.5), uniform(-jnp.pi, jnp.pi))
    rotation = jnp.stack([jnp.cos(angle), -jnp.sin(angle), jnp.sin(angle), jnp.cos(angle)], -1)

    motif = uniform(0.0, 1.0)
    return Textures(
        to_cells=scale[:, :, None] * rotation.reshape(count, 2, 2),
        offset=draws.vectors(2, 0.0, 512.0),
        hash_seed=draws.bits(),
        warp=jnp.where(chance(0.5), 0.0, uniform(0.1, 0.7)),
        blockiness=jnp.where(chance(0.4), 1.0, jnp.where(chance(0.3), uniform(0.2, 0.8), 0.0)),
        contrast=2 ** uniform(-0.2, 4.0),
        detail=uniform(0.1, 0.5),
        dots=jnp.where(motif < 0.25, uniform(0.25, 0.5), 0.0),
        lines=jnp.where(motif > 0.75, uniform(0.04, 0.12), 0.0),
        colours=_sample_palettes(draws),
        use_photo=chance(photo_fraction),
        photo=draws.bits(),
        photo_span=2 * extent.max(-1) * uniform(0.8, 1.6),
    )


def vary_textures(
    key: Array,
    textures: Textures,
    *,
    plain_fraction: float,
    repeat_fraction: float,
    palette_fraction: float,
    gloss: float,
) -> Textures:
    """Returns textures among which some are hard to tell apart, and some reflect the lamp.

    Real rooms differ in this from unvaried textures, whose every point is distinct, and whose colours alone
    identify a surface. A setting of 0 changes nothing. For the settings, see `WorldConfig`.
    """
    draws = Draws(key, "variety", textures.warp.shape, capacity=8)
    plain, repeats, in_palette = (
        draws.chance(fraction) for fraction in (plain_fraction, repeat_fraction, palette_fraction)
    )
    period, palette = jnp.floor(draws.uniform(1.0, 4.0)), draws.uniform(0.0, NUM_PALETTES)
    glossy, sharpness = draws.uniform(0.0, 1.0), draws.uniform(3.0, 7.0)
    changes = {}
    if palette_fraction:
        shared = textures.colours[palette.astype(jnp.int32)]
        changes["colours"] = jnp.where(in_palette[:, None, None], shared, textures.colours)
    if plain_fraction:
        changes |= {
            "contrast": jnp.where(plain, 0.0, textures.contrast),
            "detail": jnp.where(plain, PLAIN_DETAIL, textures.detail),
            "dots": jnp.where(plain, 0.0, textures.dots),
            "lines": jnp.where(plain, 0.0, textures.lines),
            "use_photo": textures.use_photo & ~plain,
        }
    if repeat_fraction:
        changes["period"] = jnp.where(repeats, period, NO_PERIOD)
    if gloss:
        changes |= {"gloss": gloss * glossy**2, "shininess": 2**sharpness}
    return dataclasses.replace(textures, **changes)


def _sample_palettes(draws: Draws) -> Array:
    """Returns three colours per surface, distinct in brightness: (S, 3, 3)."""
    first = draws.uniform(0.12, 0.88)
    # Differs from the first brightness, modulo the range of brightness.
    second, third = (0.1 + (first - 0.1 + sign * draws.uniform(0.25, 0.5)) % 0.82 for sign in (1, -1))
    brightness = jnp.stack([first, second, third], -1)[..., None]
    chroma = draws.vectors(9, -1.7, 1.7).reshape(-1, 3, 3)
    chroma -= chroma.mean(-1, keepdims=True)
    saturation = draws.uniform(0.02, 0.2)[:, None, None]
    return jnp.clip(brightness + saturation * chroma, 0.04, 0.96)


def _signed_unit(bits: Array) -> Array:
    """Maps the upper 16 bits to [-1, 1)."""
    return (bits >> 16).astype(jnp.float32) * (2.0 / 65536.0) - 1.0


def lattice(
    x: Array, y: Array, seed: Array, blockiness: Array | float
) -> tuple[Array, Array, Array, Array]:
    """Evaluates a lattice of random values at points (x, y), in cells.

    Args:
      seed: the hash's seed.
      blockiness: 0 interpolates smoothly between cells, 1 is constant on each cell.

    Returns:
      The value in [-1, 1]; the cell's random bits; x and y relative to the cell's centre.
    """
    column, row = jnp.floor(x), jnp.floor(y)
    fx, fy = x - column, y - row
    column, row = column.astype(jnp.int32), row.astype(jnp.int32)
    bits = hash_bits(seed, column, row)
    here = _signed_unit(bits)
    right = _signed_unit(hash_bits(seed, column + 1, row))
    below = _signed_unit(hash_bits(seed, column, row + 1))
    diagonal = _signed_unit(hash_bits(seed, column + 1, row + 1))
    # At blockiness 1 the weights of the neighbours are 0.
    wx = fx * fx * (3 - 2 * fx) * (1 - blockiness)
    wy = fy * fy * (3 - 2 * fy) * (1 - blockiness)
    top = here + wx * (right - here)
    bottom = below + wx * (diagonal - below)
    return top + wy * (bottom - top), bits, fx - 0.5, fy - 0.5


def procedural_colour(
    textures: Textures, surface: Array, u: Array, v: Array, footprint: Array
) -> tuple[Array, ...]:
    """Returns the colours of points on procedurally textured surfaces, as (red, green, blue).

    Args:
      textures: the scene's textures.
      surface: index of each point's texture, int32. u, v and footprint have its shape.
      u, v: surface coordinates, metres.
      footprint: size of a pixel on the surface, metres; finer detail fades out.
    """

    def of(column):  # gathers one scalar per point: gathered rows would be written to memory
        return column[surface]

    (m00, m01), (m10, m11) = ([of(textures.to_cells[:, i, j]) for j in range(2)] for i in range(2))
    x = m00 * u + m01 * v + of(textures.offset[:, 0])
    y = m10 * u + m11 * v + of(textures.offset[:, 1])
    if textures.period is not None:
        period = of(textures.period)
        x, y = x - period * jnp.floor(x / period), y - period * jnp.floor(y / period)
    warp = of(textures.warp)
    x, y = x + warp * jnp.sin(2.1 * y), y + warp * jnp.sin(1.7 * x)
    # Pixels in a cell of the coarse lattice, along its shorter side (Frobenius norm).
    pixels = 1 / (footprint * jnp.sqrt(m00 * m00 + m01 * m01 + m10 * m10 + m11 * m11))

    def fade(pixels_per_cell):
        return jnp.minimum(pixels_per_cell, 1.0)

    seed, blockiness = of(textures.hash_seed), of(textures.blockiness)
    coarse, _, _, _ = lattice(x, y, seed, blockiness)
    pixels_medium = pixels / LACUNARITY
    medium, bits, dx, dy = lattice(x * LACUNARITY, y * LACUNARITY, seed + 1, blockiness)
    pixels_fine = pixels_medium / LACUNARITY
    # The fine lattice is rotated (3-4-5 triangle) so that it does not align with the other lattices.
    rotated_x, rotated_y = 0.8 * x - 0.6 * y, 0.6 * x + 0.8 * y
    fine, _, _, _ = lattice(rotated_x * LACUNARITY**2, rotated_y * LACUNARITY**2, seed + 2, 0.0)
    medium, fine = medium * fade(pixels_medium), fine * fade(pixels_fine)

    # Limits the slope: a step sharper than a pixel would alias.
    slope = jnp.minimum(of(textures.contrast), pixels)
    mix = jnp.clip(0.5 + slope * (0.6 * coarse + 0.5 * medium + 0.25 * fine), 0.0, 1.0)
    # Dots of hashed radii, or grid lines, with edges one pixel wide.
    dots, lines = of(textures.dots), of(textures.lines)
    dot = dots * (bits & 0xFF).astype(jnp.float32) / 255.0 - jnp.sqrt(dx * dx + dy * dy)
    line = lines - (0.5 - jnp.maximum(jnp.abs(dx), jnp.abs(dy)))
    motif = jnp.where(lines > 0, line, jnp.where(dots > 0, dot, -1.0))
    mask = jnp.clip(0.5 + motif * pixels_medium, 0.0, 1.0) * fade(pixels_medium)
    brightness = 1 + of(textures.detail) * (fine + 0.5 * medium)

    def channel(c):
        first, second, third = (of(textures.colours[:, i, c]) for i in range(3))
        base = first + mix * (second - first)
        return (base + mask * (third - base)) * brightness

    return channel(0), channel(1), channel(2)


@struct.dataclass
class PhotoPyramid:
    """Image pyramids of N square photographs of S x S pixels, in one flat array.

    Attributes:
      texels: N * (S² + (S/2)² + ...) texels, level after level. A uint32 stores 8-bit red, green and blue,
        red in the lowest byte.
      count: number of photographs, N.
      size: side of a photograph, S, pixels.
      levels: number of levels.
    """

    texels: UInt32[Array, " texels"]
    count: int = struct.field(pytree_node=False)
    size: int = struct.field(pytree_node=False)
    levels: int = struct.field(pytree_node=False)


@functools.partial(jax.jit, static_argnames="levels")
def photo_pyramid(photos: UInt8[Array, "N S S 3"], levels: int = 5) -> PhotoPyramid:
    """Builds the image pyramids of N photographs of S x S pixels; S must be a power of two."""
    count, size = photos.shape[:2]
    if photos.shape != (count, size, size, 3) or photos.dtype != jnp.uint8 or size & (size - 1):
        raise ValueError(
            f"photos must be uint8 (N, S, S, 3), S a power of two, got {photos.dtype} {photos.shape}"
        )
    levels = min(levels, size.bit_length())
    packed = []
    for level in range(levels):
        red, green, blue = (photos[..., channel].astype(jnp.uint32) for channel in range(3))
        packed.append((red | green << 8 | blue << 16).reshape(-1))
        if level + 1 < levels:
            quads = photos.reshape(count, size >> (level + 1), 2, size >> (level + 1), 2, 3)
            mean = (quads.astype(jnp.uint16).sum((2, 4), dtype=jnp.uint16) + 2) // 4
            photos = mean.astype(jnp.uint8)
    return PhotoPyramid(jnp.concatenate(packed), count=count, size=size, levels=levels)


def photo_colour(
    pyramid: PhotoPyramid,
    textures: Textures,
    surface: Array,
    u: Array,
    v: Array,
    footprint: Array,
) -> tuple[Array, ...]:
    """Returns the colours of points on surfaces that show photographs, as (red, green, blue).

    Photographs are mirrored at their borders. Sampling is bilinear, in the pyramid level whose texel size
    is closest to the footprint. See `procedural_colour` for arguments.
    """
    span = textures.photo_span[surface]
    level = jnp.log2(jnp.maximum(footprint * pyramid.size / span, 1.0))
    level = jnp.minimum(jnp.round(level), pyramid.levels - 1).astype(jnp.int32)
    size = pyramid.size >> level
    # Levels before this one contain N * (S² + S²/4 + ...) texels: a geometric series.
    start = pyramid.count * (4 * (pyramid.size**2 - size**2) // 3)
    start += (textures.photo[surface] % pyramid.count).astype(jnp.int32) * size**2
    # Rows run against v, so that photographs on walls are upright.
    columns = (u / span + textures.offset[:, 0][surface]) * size - 0.5
    rows = (textures.offset[:, 1][surface] - v / span) * size - 0.5
    column, row = jnp.floor(columns), jnp.floor(rows)
    wx, wy = columns - column, rows - row

    def texel(column, row):
        """Returns red, green and blue of texels, in [0, 255]."""
        column, row = (_mirror(i.astype(jnp.int32), size) for i in (column, row))
        word = pyramid.texels[start + row * size + column]
        return tuple(((word >> shift) & 0xFF).astype(jnp.float32) for shift in (0, 8, 16))

    corners = texel(column, row), texel(column + 1, row), texel(column, row + 1)
    corners += (texel(column + 1, row + 1),)
    return tuple(
        ((a * (1 - wx) + b * wx) * (1 - wy) + (c * (1 - wx) + d * wx) * wy) / 255.0
        for a, b, c, d in zip(*corners)
    )


def _mirror(index: Array, size: Array) -> Array:
    """Reflects any integer into [0, size): 0 .. size-1, size-1 .. 0, and so on; size a power of two."""
    index = index & (2 * size - 1)
    return jnp.minimum(index, 2 * size - 1 - index)
