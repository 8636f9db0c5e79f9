"""Keeps the compiler from fusing too much."""

import jax
from jax import Array


def materialise(array: Array) -> Array:
    """The same array, written to memory before it is used.

    A compiler that fuses everything computes (and compiles) an index again, with all that leads to
    it, in each of the gathers that use it.
    """
    return jax.lax.platform_dependent(array, cpu=_copy_in_halves, default=jax.lax.optimization_barrier)


def _copy_in_halves(array: Array) -> Array:
    """Copies in a loop of two turns: XLA drops barriers for CPUs before it fuses, but not loops."""
    if array.size % 2:
        return array
    # With nothing between in and out, jax would leave out the loop itself.
    _, halves = jax.lax.scan(
        lambda _, half: (None, jax.lax.optimization_barrier(half)), None, array.reshape(2, -1)
    )
    return halves.reshape(array.shape)
