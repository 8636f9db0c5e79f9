"""Draws the initial parameters of a network."""

import contextlib
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax._src.config import threefry_gpu_kernel_lowering  # JAX has no public context manager for it

from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import Muskie


def init_params(model: nn.Module, seed: int = 0) -> dict[str, Any]:
    """Returns new parameters of a network, made by one compiled program."""
    with fast_random_draws():
        return jax.jit(lambda key: draw_params(model, key))(jax.random.key(seed))


def draw_params(model: nn.Module, key: Array) -> dict[str, Any]:
    """Returns new parameters of a network. Slow outside `jax.jit`: every operation compiles on its own.

    Args:
      model: a Muskie, or a network with a Muskie as its attribute `backbone`.
      key: the random key.
    """
    # A single image cannot be sharded over a mesh.
    on_one_device = lambda muskie: muskie.clone(attention=Attention("xla"))
    if isinstance(model, Muskie):
        patch, model = model.patch, on_one_device(model)
    else:
        backbone = cast(Any, model).backbone
        patch, model = backbone.patch, model.clone(backbone=on_one_device(backbone))
    return cast(dict[str, Any], model.init(key, jnp.zeros((1, 1, patch, patch, 3)))["params"])


def fast_random_draws() -> contextlib.AbstractContextManager:
    """Returns a context in which programs with many random draws compile fast on a GPU.

    By default JAX writes out the 20 rounds of its random generator for each draw. With hundreds of
    parameters, XLA then compiles for half a minute. In this context, each draw calls one kernel, with the
    same result. The context must hold when a program is lowered, and when its jitted function is called.
    """
    return threefry_gpu_kernel_lowering(True)
