"""Faults of a camera, added to rendered images: blur, vignetting, contrast, noise and JPEG artefacts.

Two photographs of one scene differ in these as much as in viewpoint. The settings are largest strengths:
every view draws its own below them. Most views are nearly clean, as most photographs are.

Faults are applied to display values in a simplified order: blur, vignetting, contrast, noise, JPEG. In a
camera, blur and vignetting act on linear light, and noise comes before the tone curve. Exposure, colour
cast and tone are part of the rendering, so they come first, before colours are clipped.

Lengths of blur are relative to the image, so that all resolutions show the same view. Noise and JPEG's
blocks have a fixed size in pixels.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, UInt8

from muskie_jax.data.synthetic.compilation import materialise
from muskie_jax.data.synthetic.draws import Draws, hash_bits
from muskie_jax.data.synthetic.scenes import WorldConfig

BLUR_REACH = 2.5  # standard deviations at which a blur's kernel ends
DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (rows, columns) that the passes of a blur step along

BLOCK = 8  # side of JPEG's blocks, pixels
# Table K.1 and K.2 of ITU-T T.81: quantisation steps of luminance and chrominance, at quality 50.
LUMINANCE_STEPS = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92,
    49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
CHROMINANCE_STEPS = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *[99] * 32,
)  # fmt: skip
# JFIF: from red, green and blue to luminance and both chrominances.
RGB_TO_YCC = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]], np.float32
)


def add_camera_faults(
    key: Array, images: UInt8[Array, "V H W 3"], config: WorldConfig
) -> UInt8[Array, "V H W 3"]:
    """Returns the images of V views with the faults of their cameras.

    Args:
      key: the group's threefry key.
      images: images without faults.
      config: largest strengths of the faults; without any, the images are returned unchanged.
    """
    blurs = config.defocus > 0 or config.motion_blur > 0
    if not (blurs or config.vignetting or config.contrast or config.noise or config.jpeg):
        return images
    draws = Draws(key, "photometry", images.shape[:1], capacity=8)
    weak = lambda maximum: maximum * draws.uniform(0.0, 1.0) ** 2  # most views have little of it
    defocus, motion, vignetting = weak(config.defocus), weak(config.motion_blur), weak(config.vignetting)
    direction, contrast = draws.uniform(0.0, jnp.pi), config.contrast * draws.uniform(-1.0, 1.0)
    noise, coarseness, noise_seed = weak(config.noise), weak(config.jpeg), draws.bits()

    pixels = images.astype(jnp.float32)
    if blurs:
        side = min(images.shape[1:3])
        # A line of length L has the variance L²/12.
        pixels = blur(
            pixels,
            defocus=side * defocus,
            motion=side * motion / 12**0.5,
            direction=direction,
            max_defocus=side * config.defocus,
            max_motion=side * config.motion_blur / 12**0.5,
        )
    if config.vignetting:
        pixels *= 1 - vignetting[:, None, None, None] * _squared_radius(*images.shape[1:3])[..., None]
    if config.contrast:
        pixels = 127.5 + jnp.exp(contrast)[:, None, None, None] * (pixels - 127.5)
    if config.noise:
        pixels += 255 * noise[:, None, None, None] * _unit_noise(noise_seed, images.shape)
    pixels = jnp.round(jnp.clip(pixels, 0, 255))
    if config.jpeg:
        pixels = jpeg_artefacts(pixels, coarseness)
    return pixels.astype(jnp.uint8)


def blur(
    pixels: Float[Array, "V H W C"],
    defocus: Float[Array, " V"],
    motion: Float[Array, " V"],
    direction: Float[Array, " V"],
    *,
    max_defocus: float,
    max_motion: float,
) -> Float[Array, "V H W C"]:
    """Returns images blurred by Gaussians: round, for defocus, and elongated, for motion.

    A Gaussian blur is a series of narrow ones, along rows, columns and both diagonals. Their covariances
    add up. Between these directions, the elongated Gaussian is a little too wide.

    Args:
      pixels: V images.
      defocus: standard deviation of the round Gaussian, pixels.
      motion: standard deviation along the motion, pixels.
      direction: direction of the motion, radians from the x axis to the y axis.
      max_defocus, max_motion: largest values of `defocus` and `motion`; they set the sizes of the kernels.
    """
    x, y = jnp.cos(direction), jnp.sin(direction)
    # The covariance (x, y)(x, y)ᵀ is split into those of the passes; a diagonal's is [[1, ±1], [±1, 1]].
    round_part, line = defocus**2, motion**2
    variances = (
        round_part + line * jnp.maximum(x * x - jnp.abs(x * y), 0.0),
        round_part + line * jnp.maximum(y * y - jnp.abs(x * y), 0.0),
        line * jnp.maximum(x * y, 0.0),
        line * jnp.maximum(-x * y, 0.0),
    )
    straight = (max_defocus**2 + max_motion**2) ** 0.5
    diagonal = max_motion * 0.5**0.5  # the variance along a diagonal, x y, is at most half of the motion's
    max_deviations = (straight, straight, diagonal, diagonal)
    for (down, right), variance, max_deviation in zip(DIRECTIONS, variances, max_deviations):
        reach = int(np.ceil(BLUR_REACH * max_deviation))
        if not reach:
            continue
        steps = np.arange(-reach, reach + 1)
        # The floor keeps the kernel of variance 0 at one pixel.
        weights = jnp.exp(-(steps**2) / (2 * jnp.maximum(variance, 1e-2)[:, None]))
        weights /= weights.sum(-1, keepdims=True)
        pads = ((0, 0), (reach * abs(down),) * 2, (reach * abs(right),) * 2, (0, 0))
        padded = jnp.pad(pixels, pads, mode="edge")
        height, width = pixels.shape[1:3]
        total = jnp.zeros_like(pixels)
        for index, step in enumerate(steps):
            top, left = reach * abs(down) + step * down, reach * abs(right) + step * right
            total += (
                weights[:, index, None, None, None] * padded[:, top : top + height, left : left + width]
            )
        pixels = materialise(total)  # otherwise XLA repeats a pass for every tap of the next one
    return pixels


def _squared_radius(height: int, width: int) -> Array:
    """Returns the squared distance (H, W) of pixels from the centre; 1 in the corners."""
    rows = (jnp.arange(height) + 0.5) * 2 / height - 1
    columns = (jnp.arange(width) + 0.5) * 2 / width - 1
    return (rows[:, None] ** 2 * height**2 + columns**2 * width**2) / (height**2 + width**2)


def _unit_noise(seed: Array, shape: tuple[int, ...]) -> Array:
    """Returns noise (V, H, W, 3) of variance 1: the sum of two uniform numbers per pixel and channel."""
    index = jnp.arange(shape[1] * shape[2] * shape[3], dtype=jnp.uint32).reshape(shape[1:])
    bits = hash_bits(seed[:, None, None, None], index)
    total = (bits >> 16).astype(jnp.float32) + (bits & 0xFFFF).astype(jnp.float32)
    return (total * 2.0**-16 - 1) * 6**0.5


def jpeg_artefacts(
    pixels: Float[Array, "V H W 3"], coarseness: Float[Array, " V"]
) -> Float[Array, "V H W 3"]:
    """Returns images as JPEG shows them: blocks of 8x8 pixels with rounded frequencies.

    Chrominance has full resolution (4:4:4). Images whose sides are no multiples of 8 are extended.

    Args:
      pixels: images in [0, 255].
      coarseness: factor on the standard tables of quantisation, one per view. At 0, all steps are 1, and
        pixels change by rounding only, at most by about 3 grey levels.
    """
    views, height, width, _ = pixels.shape
    padded = jnp.pad(
        pixels - 128.0, ((0, 0), (0, -height % BLOCK), (0, -width % BLOCK), (0, 0)), mode="edge"
    )
    rows, columns = padded.shape[1] // BLOCK, padded.shape[2] // BLOCK
    channels = [sum(row[i] * padded[..., i] for i in range(3)) for row in RGB_TO_YCC.tolist()]
    blocks = jnp.round(jnp.stack(channels, 1)).reshape(views, 3, rows, BLOCK, columns, BLOCK)
    blocks = blocks.swapaxes(3, 4).reshape(views, 3, rows * columns, BLOCK**2)

    tables = np.array([LUMINANCE_STEPS, CHROMINANCE_STEPS, CHROMINANCE_STEPS], np.float32)
    # JPEG's quantisation steps are whole numbers from 1.
    steps = jnp.maximum(jnp.floor(coarseness[:, None, None, None] * tables[:, None] + 0.5), 1.0)
    # Full precision, since rounding would turn the operands' rounding into whole steps.
    product = lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
    transform = jnp.asarray(block_transform())
    blocks = product(steps * jnp.round(product(blocks, transform.T) / steps), transform)

    planes = blocks.reshape(views, 3, rows, columns, BLOCK, BLOCK).swapaxes(3, 4)
    planes = jnp.round(planes.reshape(views, 3, *padded.shape[1:3])[:, :, :height, :width])
    inverse = np.linalg.inv(RGB_TO_YCC).astype(np.float32).tolist()
    colours = [sum(row[i] * planes[:, i] for i in range(3)) + 128.0 for row in inverse]
    return jnp.clip(jnp.round(jnp.stack(colours, -1)), 0, 255)


def block_transform() -> Float[np.ndarray, "64 64"]:
    """Returns the orthonormal discrete cosine transform of blocks of 8x8 pixels, as a matrix."""
    frequency, position = np.arange(BLOCK)[:, None], np.arange(BLOCK)
    cosines = np.cos(np.pi * (2 * position + 1) * frequency / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
    cosines[0] /= np.sqrt(2)
    return np.kron(cosines, cosines).astype(np.float32)
