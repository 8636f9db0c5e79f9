"""Rotary position embedding over the two axes of the patch grid (RoFormer, applied per axis).

The head dimension D splits in two: the first half rotates by the patch's row, the second by its
column. Registers sit at position (0, 0), which rotates nothing; the patch in row y and column x
sits at (y + 1, x + 1). All views share these positions, so attention across views prefers nothing.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

RotationTable = tuple[np.ndarray, np.ndarray]

BASE = 100.0  # wavelengths grow from 2*pi patches to BASE * 2*pi patches


def patch_positions(grid: tuple[int, int], num_registers: int) -> np.ndarray:
    """Positions (row, column) of a view's tokens, registers first: int (R + hp*wp, 2)."""
    rows, columns = np.indices(grid).reshape(2, -1)
    patches = np.stack([rows, columns], axis=-1) + 1
    registers = np.zeros((num_registers, 2), patches.dtype)
    return np.concatenate([registers, patches])


def rotation_table(
    positions: np.ndarray, head_dim: int, frequencies: np.ndarray | None = None
) -> RotationTable:
    """Cosines and sines of the angles by which every token's query and key turn.

    Args:
      positions: (T, 2), row and column of every token.
      head_dim: D, divisible by 4.
      frequencies: (D/4,) radians per step of a position; None is what BASE gives.

    Returns:
      Two float32 arrays (T, D). For each half of D there are D/4 angles: channel i of a half turns
      with channel i + D/4, and the sine is negative for the first of such a pair.
    """
    if head_dim % 4:
        raise ValueError(f"2-D RoPE needs a head dimension divisible by 4, got {head_dim}")
    half = head_dim // 2
    if frequencies is None:
        frequencies = BASE ** (-np.arange(0, half, 2) / half)  # (D/4,)
    angles = positions[:, :, None] * frequencies  # (T, 2, D/4)
    angles = np.concatenate([-angles, angles], axis=-1).reshape(len(positions), head_dim)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(qkv: Array, table: RotationTable) -> tuple[Array, Array, Array]:
    """Rotates queries and keys.

    Args:
      qkv: (..., T, 3, heads, D): queries, keys and values.
      table: see `rotation_table`.

    Returns:
      Queries, keys and values, (..., T, heads, D) in the dtype of `qkv`; the arithmetic is float32.
    """
    cosines, sines = (jnp.asarray(part)[:, None] for part in table)  # (T, 1, D)
    return _rotate(qkv, cosines, sines)


def _turn(x, cosines, sines):
    wide = x.astype(jnp.float32)
    quarters = wide.reshape(*x.shape[:-1], 2, 2, x.shape[-1] // 4)
    partners = jnp.flip(quarters, -2).reshape(x.shape)
    return (wide * cosines + partners * sines).astype(x.dtype)


@jax.custom_vjp
def _rotate(qkv, cosines, sines):
    query, key, value = (part.squeeze(-3) for part in jnp.split(qkv, 3, axis=-3))
    return _turn(query, cosines, sines), _turn(key, cosines, sines), value


def _rotate_back(table, gradients):
    # The transpose of a rotation is the rotation by the negative angle. The barrier makes XLA turn the
    # gradients while it puts them together, in one pass, instead of before or after.
    cosines, sines = table
    query, key, value = gradients
    turned = _turn(query, cosines, -sines), _turn(key, cosines, -sines), value
    return jax.lax.optimization_barrier(jnp.stack(turned, axis=-3)), None, None


_rotate.defvjp(lambda qkv, *table: (_rotate(qkv, *table), table), _rotate_back)
