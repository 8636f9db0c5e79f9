"""Checks the images that are given to a network."""

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import Tracer

from muskie_jax.checks import nearest_sizes

CHANNELS = 3
# Bicubic resizing exceeds [-1, 1] by little; pixels from 0 to 255 exceed this value unless all are black.
LARGEST_VALUE = 10.0
CONVERT = "convert 0..255 pixels with x / 127.5 - 1"


def check_images(images: Array, axes: str, patch: int) -> None:
    """Raises ValueError unless images are valid input: shape, type, size, and values where they are known.

    Values are known outside `jax.jit`; inside it, the check of values costs nothing and does nothing.

    Args:
      images: the images, channels last.
      axes: names of the expected axes, such as "B, V, H, W, 3".
      patch: side of a patch, in pixels.
    """
    if images.ndim != len(axes.split(",")) or images.shape[-1] != CHANNELS:
        raise ValueError(f"images must have shape ({axes}), got {images.shape}")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be float, in [-1, 1], got {images.dtype}: {CONVERT}")
    check_divisible((images.shape[-3], images.shape[-2]), patch)
    if isinstance(images, Tracer) or images.size == 0:
        return
    with jax.ensure_compile_time_eval():  # a function being traced may give images that are known
        largest = float(jnp.abs(images).max())
    if largest > LARGEST_VALUE:
        raise ValueError(
            f"images must be in [-1, 1], but have values up to {largest:g}: {CONVERT}, or load them "
            "with muskie_jax.load_images"
        )


def check_divisible(size: tuple[int, int], patch: int) -> None:
    """Raises ValueError unless an image size (height, width) is divisible by the patch size."""
    height, width = size
    if height % patch or width % patch:
        nearest = " or ".join(f"{h}x{w}" for h, w in nearest_sizes(size, patch))
        raise ValueError(
            f"image size {height}x{width} is not divisible by the patch size {patch}: "
            f"crop or resize to {nearest}"
        )
