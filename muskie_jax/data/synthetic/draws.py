"""Random numbers for synthetic scenes."""

import math
import zlib

import jax
import jax.numpy as jnp
from jax import Array

from muskie_jax.data.synthetic.compilation import materialise


def hash_bits(*words: Array) -> Array:
    """Hashes integers, broadcast together, to pseudo-random uint32 values."""
    bits = jnp.uint32(0x9E3779B1)
    for word in words:
        bits = (bits ^ word.astype(jnp.uint32)) * jnp.uint32(0x85EBCA77)
        bits = (bits ^ (bits >> 15)) * jnp.uint32(0x2C1B3C6D)
        bits ^= bits >> 13
    return bits


class Draws:
    """A stream of uniform random arrays of one shape, in a fixed order.

    A scene needs about a hundred differently distributed numbers. Hashes of a key and a counter are
    random enough; a threefry call for each would dominate compile time.
    """

    def __init__(self, key: Array, stream: str, shape: tuple[int, ...], capacity: int):
        """Generates `capacity` arrays.

        Args:
          key: threefry key.
          stream: the stream's name. Streams of different names from one key are independent.
          shape: shape of each array.
          capacity: maximum number of arrays that can be drawn. A vector uses one array per component.
        """
        words = jax.random.key_data(key)
        name = jnp.uint32(zlib.crc32(stream.encode()))
        index = jnp.arange(capacity * math.prod(shape), dtype=jnp.uint32)
        bits = hash_bits(hash_bits(words[0], words[1], name), index)
        # Written to memory once; otherwise XLA repeats the hash wherever a number is used.
        self._bits = materialise(bits.reshape(capacity, *shape))
        self._units = (self._bits >> 8).astype(jnp.float32) * 2.0**-24
        self._used = 0

    def _next(self, count: int) -> slice:
        used, self._used = self._used, self._used + count
        if self._used > len(self._bits):
            raise ValueError(f"all {len(self._bits)} draws are used: raise the capacity")
        return slice(used, self._used)

    def bits(self) -> Array:
        """Returns the next array of random bits, uint32."""
        return self._bits[self._next(1)][0]

    def uniform(self, low: float | Array, high: float | Array) -> Array:
        """Returns uniform numbers between `low` and `high`, scalars or arrays of the stream's shape."""
        return low + (high - low) * self._units[self._next(1)][0]

    def vectors(self, size: int, low: float, high: float) -> Array:
        """Returns vectors (*shape, size) with independent uniform components."""
        return low + (high - low) * jnp.moveaxis(self._units[self._next(size)], 0, -1)

    def chance(self, probability: float) -> Array:
        """Returns booleans that are True with the given probability."""
        return self.uniform(0.0, 1.0) < probability
