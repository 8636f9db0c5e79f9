"""Rotary position embedding over the two axes of the patch grid (RoFormer, arXiv 2104.09864, per axis).

The first half of the head dimension D is rotated by the patch's row, and the second half by its column.
The patch in row y and column x has position (y + 1, x + 1). Registers have position (0, 0), which means no
rotation. All views share these positions, so attention across views has no bias towards any view.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int

# Cosines and sines, both float32 (T, D).
RotationTable = tuple[np.ndarray, np.ndarray]

BASE = 100.0  # as published: wavelengths grow from 2*pi patches to BASE * 2*pi patches


def patch_positions(grid: tuple[int, int], num_registers: int) -> Int[np.ndarray, "T 2"]:
    """Returns the (row, column) positions of a view's tokens, registers first."""
    rows, columns = np.indices(grid).reshape(2, -1)
    patches = np.stack([rows, columns], axis=-1) + 1
    registers = np.zeros((num_registers, 2), patches.dtype)
    return np.concatenate([registers, patches])


def rotation_table(
    positions: np.ndarray, head_dim: int, frequencies: np.ndarray | None = None, base: float = BASE
) -> RotationTable:
    """Returns cosines and sines of the rotation angles of every token's query and key.

    Args:
      positions: row and column of every token, (T, 2).
      head_dim: D, divisible by 4.
      frequencies: radians per unit of position, (D/4,); None for base^(-2i / (D/2)), i < D/4.
      base: used if `frequencies` is None.

    Returns:
      Two float32 arrays (T, D). Within each half of D, channel i is paired with channel i + D/4
      (rotate-half convention). Sines are negated for the first channel of a pair.
    """
    if head_dim % 4:
        raise ValueError(f"2-D RoPE needs a head dimension divisible by 4, got {head_dim}")
    half = head_dim // 2
    if frequencies is None:
        frequencies = base ** (-np.arange(0, half, 2) / half)  # (D/4,)
    angles = positions[:, :, None] * frequencies  # (T, 2, D/4)
    angles = np.concatenate([-angles, angles], axis=-1).reshape(len(positions), head_dim)
    return np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)


def rotate(qkv: Float[Array, "*batch T 3 heads D"], table: RotationTable) -> tuple[Array, Array, Array]:
    """Rotates queries and keys in float32.

    Args:
      qkv: queries, keys and values.
      table: result of `rotation_table`.

    Returns:
      Queries, keys and values, each (..., T, heads, D) in the dtype of `qkv`.
    """
    cosines, sines = (jnp.asarray(part)[:, None] for part in table)  # (T, 1, D)
    return _rotate(qkv, cosines, sines)


def _rotate_channels(x, cosines, sines):
    x_float32 = x.astype(jnp.float32)
    quarters = x_float32.reshape(*x.shape[:-1], 2, 2, x.shape[-1] // 4)
    partners = jnp.flip(quarters, -2).reshape(x.shape)
    return (x_float32 * cosines + partners * sines).astype(x.dtype)


@jax.custom_vjp
def _rotate(qkv, cosines, sines):
    query, key, value = (part.squeeze(-3) for part in jnp.split(qkv, 3, axis=-3))
    return _rotate_channels(query, cosines, sines), _rotate_channels(key, cosines, sines), value


def _rotate_backward(table, gradients):
    # The transpose of a rotation is the rotation by the negative angle. The barrier makes XLA rotate
    # and concatenate the gradients in one pass.
    cosines, sines = table
    dquery, dkey, dvalue = gradients
    dqkv = _rotate_channels(dquery, cosines, -sines), _rotate_channels(dkey, cosines, -sines), dvalue
    return jax.lax.optimization_barrier(jnp.stack(dqkv, axis=-3)), None, None


_rotate.defvjp(lambda qkv, *table: (_rotate(qkv, *table), table), _rotate_backward)
