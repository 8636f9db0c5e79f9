"""Gathers a fixed number of tokens from each group.

The loss covers masked patches only, so the last layer need not compute visible patches. The number of
masked patches differs between groups, but shapes are static. Each group therefore gets the same number of
slots.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Bool, Int32, Shaped


@struct.dataclass
class Picked:
    """Maps K slots to a group's N tokens, and back.

    Attributes:
      token: index of the token in each slot; 0 for unused slots.
      is_filled: whether a slot has a token.
      slot: index of each token's slot; K for tokens without a slot.
    """

    token: Int32[Array, "B K"]
    is_filled: Bool[Array, "B K"]
    slot: Int32[Array, "B N"]


def pick(chosen: Bool[Array, "B N"], slots: int) -> Picked:
    """Assigns the first `slots` chosen tokens of each group to slots, in order; drops the rest."""
    slot = jnp.cumsum(chosen, axis=1, dtype=jnp.int32) - 1
    slot = jnp.where(chosen, jnp.minimum(slot, slots), slots)
    indices = jnp.arange(chosen.shape[1], dtype=jnp.int32)
    invert = lambda slot: jnp.zeros(slots, jnp.int32).at[slot].set(indices, mode="drop")
    is_filled = jnp.arange(slots) < chosen.sum(axis=1, keepdims=True)
    return Picked(token=jax.vmap(invert)(slot), is_filled=is_filled, slot=slot)


@jax.custom_vjp
def take(x: Shaped[Array, "B N *rest"], picked: Picked) -> Shaped[Array, "B K *rest"]:
    """Gathers the picked tokens. Gradients of unused slots are ignored."""
    return _gather(x, picked.token)


def _gather(x: Array, index: Array) -> Array:
    index = index.reshape(*index.shape, *[1] * (x.ndim - 2))
    return jnp.take_along_axis(x, index, axis=1, mode="clip")


def _take_backward(picked, gradient):
    # A token is in at most one slot, so its gradient is gathered from that slot. The automatic transpose
    # would scatter-add into a buffer that must first be zeroed.
    is_picked = picked.slot < gradient.shape[1]
    is_picked = is_picked.reshape(*is_picked.shape, *[1] * (gradient.ndim - 2))
    return jnp.where(is_picked, _gather(gradient, picked.slot), 0), None


take.defvjp(lambda x, picked: (take(x, picked), picked), _take_backward)
