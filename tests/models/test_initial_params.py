import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.models.initial_params import draw_params, fast_random_draws, init_params
from muskie_jax.models.muskie import build_model
from muskie_jax.optim import make_optimizer
from muskie_jax.sharding import make_mesh
from muskie_jax.train_step import StateInitializer
from muskie_tests.runs import nano_config


def lower_for_gpu() -> str:
    traced = jax.jit(lambda key: jax.random.normal(key, (8, 8))).trace(jax.random.key(0))
    return traced.lower(lowering_platforms=("cuda",)).as_text()


def test_draws_call_a_kernel_on_a_gpu():
    assert "threefry2x32_ffi" not in lower_for_gpu()
    with fast_random_draws():
        assert "threefry2x32_ffi" in lower_for_gpu()


def test_values_are_those_of_the_network():
    model = build_model("nano")
    expected = jax.jit(model.init)(jax.random.key(3), jnp.zeros((1, 2, 32, 48, 3)))["params"]
    jax.tree.map(np.testing.assert_array_equal, init_params(model, 3), expected)


@pytest.mark.parametrize("method", ["lower", "__call__"])
def test_a_state_is_made_with_fast_draws_and_traced_once(monkeypatch, method):
    states = []

    def record(model, key):
        states.append(jax.config.jax_threefry_gpu_kernel_lowering)
        return draw_params(model, key)

    model, config = build_model("nano"), nano_config(None)
    optimizer, mesh = make_optimizer(config), make_mesh(config.mesh, jax.devices()[:1])
    monkeypatch.setattr("muskie_jax.train_step.draw_params", record)
    initialise = StateInitializer(model, optimizer, mesh)
    functools.partial(getattr(initialise, method), jax.random.key(0))()
    assert states == [True]  # without the context, `method` would trace again
