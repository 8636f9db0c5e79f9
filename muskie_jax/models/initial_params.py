"""Draws the initial parameters of a network."""

import contextlib
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax import Array
from jax._src.config import threefry_gpu_kernel_lowering  # JAX has no public context manager for it

from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import Muskie


def init_params(model: Muskie, seed: int = 0) -> dict[str, Any]:
    """Returns new parameters of a network, made by one compiled program."""
    with fast_random_draws():
        return jax.jit(lambda key: draw_params(model, key))(jax.random.key(seed))


def draw_params(model: Muskie, key: Array) -> dict[str, Any]:
    """Returns new parameters of a network. Slow outside `jax.jit`: every operation compiles on its own."""
    image = jnp.zeros((1, 1, model.patch, model.patch, 3))
    model = model.clone(attention=Attention("xla"))  # a single image cannot be sharded over a mesh
    return cast(dict[str, Any], model.init(key, image, jnp.ones((1, 1, 1), bool))["params"])


def fast_random_draws() -> contextlib.AbstractContextManager:
    """Returns a context in which programs with many random draws compile fast on a GPU.

    By default JAX writes out the 20 rounds of its random generator for each draw. With hundreds of
    parameters, XLA then compiles for half a minute. In this context, each draw calls one kernel, with the
    same result. The context must hold when a program is lowered, and when its jitted function is called.
    """
    return threefry_gpu_kernel_lowering(True)
