"""Rotary position embedding over the two axes of the patch grid (SPEC: RoFormer, applied per axis).

The head dimension D splits in two: the first half rotates by the patch's row, the second by its
column. Registers sit at position (0, 0), which rotates nothing; the patch in row y and column x
sits at (y + 1, x + 1). All views share these positions, so attention across views prefers nothing.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

BASE = 100.0  # wavelengths grow from 2*pi patches to BASE * 2*pi patches


def patch_positions(grid: tuple[int, int], num_registers: int) -> np.ndarray:
    """Positions (row, column) of a view's tokens, registers first: int (R + hp*wp, 2)."""
    rows, columns = np.indices(grid).reshape(2, -1)
    patches = np.stack([rows, columns], axis=-1) + 1
    registers = np.zeros((num_registers, 2), patches.dtype)
    return np.concatenate([registers, patches])


def rotation_table(positions: np.ndarray, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of every token's rotation angles.

    Args:
      positions: (T, 2), row and column of every token.
      head_dim: D, divisible by 4.

    Returns:
      Two float32 arrays (T, D): for each half of D the same D/4 angles twice, as `rotate` pairs
      channel i with channel i + D/4 of its half.
    """
    if head_dim % 4:
        raise ValueError(f"2-D RoPE needs a head dimension divisible by 4, got {head_dim}")
    half = head_dim // 2
    frequencies = BASE ** (-np.arange(0, half, 2) / half)  # (D/4,)
    angles = positions[:, :, None] * frequencies  # (T, 2, D/4)
    angles = np.concatenate([angles, angles], axis=-1).reshape(len(positions), head_dim)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(x: Array, table: tuple[np.ndarray, np.ndarray]) -> Array:
    """Rotates queries or keys x (..., T, heads, D) by a table of (T, D) cosines and sines.

    The arithmetic is float32; the result has the dtype of `x`.
    """
    cosines, sines = (jnp.asarray(part)[:, None, :] for part in table)  # (T, 1, D)
    wide = x.astype(jnp.float32)
    first, second, third, fourth = jnp.split(wide, 4, axis=-1)
    turned = jnp.concatenate([-second, first, -fourth, third], axis=-1)
    return (wide * cosines + turned * sines).astype(x.dtype)
