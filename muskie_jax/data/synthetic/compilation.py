"""Keeps the compiler from fusing too much."""

import jax
import jax.numpy as jnp
from jax import Array


def materialise(array: Array) -> Array:
    """The same array, written to memory before it is used.

    A compiler that fuses everything computes (and compiles) an index again in each of the gathers
    that use it, and a random number in all that depends on it.
    """
    return jax.lax.platform_dependent(
        array, cpu=_copy_in_halves, default=jax.lax.optimization_barrier
    )


def _copy_in_halves(array: Array) -> Array:
    """Copies in a loop of two turns: XLA drops barriers for CPUs before it fuses, but not loops."""
    if array.size % 2:
        return array
    halves = array.reshape(2, -1)

    def copy_half(i, copy):
        return copy.at[i].set(halves[i])

    return jax.lax.fori_loop(0, 2, copy_half, jnp.zeros_like(halves)).reshape(array.shape)
