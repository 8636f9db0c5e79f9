"""Some tokens of each group, as an array of their own.

Only hidden patches are compared with what was there, so of the last layer nothing else is needed. How
many are hidden differs from group to group; shapes may not, so there is room for a fixed number of them.
"""

import flax
import jax
import jax.numpy as jnp
from jax import Array


@flax.struct.dataclass
class Picked:
    """Which of a group's N tokens have one of K slots.

    Attributes:
      token: int32 (B, K), the token at each place; the first, where slots are left over.
      is_filled: bool (B, K), False where slots are left over.
      place: int32 (B, N), where each token is; K if it is nowhere.
    """

    token: Array
    is_filled: Array
    place: Array


def pick(chosen: Array, slots: int) -> Picked:
    """Puts chosen tokens, bool (B, N), into `slots` slots in their order; those too many into none."""
    place = jnp.cumsum(chosen, axis=1, dtype=jnp.int32) - 1
    place = jnp.where(chosen, jnp.minimum(place, slots), slots)
    numbers = jnp.arange(chosen.shape[1], dtype=jnp.int32)
    put = lambda place: jnp.zeros(slots, jnp.int32).at[place].set(numbers, mode="drop")
    is_filled = jnp.arange(slots) < chosen.sum(axis=1, keepdims=True)
    return Picked(jax.vmap(put)(place), is_filled, place)


@jax.custom_vjp
def take(x: Array, picked: Picked) -> Array:
    """(B, N, ...) -> (B, K, ...), the picked tokens. Gradients of slots left over are left out."""
    return _rows(x, picked.token)


def _rows(x: Array, index: Array) -> Array:
    index = index.reshape(*index.shape, *[1] * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1, mode="clip")


def _take_back(picked, gradient):
    # Each token is in one place at most: its gradient is looked up there, where the transpose of a
    # look-up would add to memory that must first be zeroed.
    is_picked = picked.place < gradient.shape[1]
    is_picked = is_picked.reshape(*is_picked.shape, *[1] * (gradient.ndim - 2))
    return jnp.where(is_picked, _rows(gradient, picked.place), 0), None


take.defvjp(lambda x, picked: (take(x, picked), picked), _take_back)
