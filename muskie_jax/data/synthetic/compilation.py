"""Limits XLA's fusion."""

import jax
from jax import Array


def materialise(array: Array) -> Array:
    """Returns the array unchanged, but forces XLA to write it to memory first.

    Without this, XLA fuses the computation of an index into every gather that uses the index. That repeats
    the work, both at compile time and at run time.
    """
    return jax.lax.platform_dependent(array, cpu=_copy_in_halves, default=jax.lax.optimization_barrier)


def _copy_in_halves(array: Array) -> Array:
    """Copies in a loop of two iterations: on CPUs XLA removes barriers before fusion, but not loops."""
    if array.size % 2:
        return array
    # Without the barrier, JAX would optimise the loop away.
    _, halves = jax.lax.scan(
        lambda _, half: (None, jax.lax.optimization_barrier(half)), None, array.reshape(2, -1)
    )
    return halves.reshape(array.shape)
