"""Random numbers for the synthetic world."""

import jax
import jax.numpy as jnp
from jax import Array

from muskie_jax.data.synthetic.compilation import materialise


class Draws:
    """Uniform random numbers, drawn by one call and handed out in order.

    A scene is made of some hundred differently distributed numbers. One call of the generator for
    each would be most of what there is to compile.
    """

    def __init__(self, key: Array, shape: tuple[int, ...], capacity: int):
        """Prepares `capacity` arrays of a shape."""
        (self._numbers,) = materialise(jax.random.uniform(key, (capacity, *shape)))
        self._used = 0

    def uniform(self, low: float | Array, high: float | Array) -> Array:
        """The next array, between `low` and `high` (scalars, or of the arrays' shape)."""
        if self._used == len(self._numbers):
            raise ValueError(f"all {self._used} draws are used: raise the capacity")
        self._used += 1
        return low + (high - low) * self._numbers[self._used - 1]

    def vectors(self, size: int, low: float, high: float) -> Array:
        """The next `size` arrays, stacked along a new last axis."""
        return jnp.stack([self.uniform(low, high) for _ in range(size)], -1)

    def chance(self, probability: float) -> Array:
        """True with a probability."""
        return self.uniform(0.0, 1.0) < probability

    def bits(self) -> Array:
        """uint32, of which the lower 23 bits are random."""
        return (self.uniform(0.0, 1.0) * 2**23).astype(jnp.uint32)
