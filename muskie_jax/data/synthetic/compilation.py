"""Keeps the compiler from fusing too much."""

import jax
import jax.numpy as jnp
from jax import Array


def materialise(*arrays: Array) -> tuple[Array, ...]:
    """The same arrays, written to memory before they are used.

    A compiler that fuses everything computes (and compiles) an index again in each of the gathers
    that use it, and a random number with its generator wherever it goes.
    """
    return jax.lax.platform_dependent(
        *arrays, cpu=_copy_in_halves, default=lambda *a: jax.lax.optimization_barrier(a)
    )


def _copy_in_halves(*arrays: Array) -> tuple[Array, ...]:
    """Copies arrays in a loop: XLA for CPUs drops barriers before it fuses, but keeps loops."""
    if arrays[0].size % 2:
        return arrays
    halves = [a.reshape(2, -1) for a in arrays]

    def copy_half(i, copies):
        return [copy.at[i].set(half[i]) for copy, half in zip(copies, halves)]

    copies = jax.lax.fori_loop(0, 2, copy_half, [jnp.zeros_like(half) for half in halves])
    return tuple(copy.reshape(a.shape) for copy, a in zip(copies, arrays))
