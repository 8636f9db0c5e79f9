"""The learning rate; Muon: its parameters, updates and meshes; updates that are skipped."""

import re

import jax
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from optax import contrib

from muskie_jax.config import validate
from muskie_jax.errors import UserError
from muskie_jax.models.muskie import build_model
from muskie_jax.optim import (
    global_norm,
    learning_rate_schedule,
    make_optimizer,
    optimizer_names,
    skip_bad_updates,
    stacked_muon,
    was_skipped,
)
from muskie_jax.sharding import make_mesh
from muskie_jax.train_step import apply_gradients, init_state
from muskie_tests.runs import nano_config

SINGLE = {"data": 1, "fsdp": 1, "view": 1}


@pytest.fixture
def config(tmp_path):
    config = nano_config(tmp_path)
    config.optim.update(name="muon", learning_rate=1e-2, warmup="0 steps", weight_decay=0.0)
    return config


def updated(config, sizes=SINGLE, steps=1):
    """Returns the parameters before and after updates with random gradients."""
    mesh = make_mesh(sizes, jax.devices()[: np.prod([*sizes.values()])])
    optimizer = make_optimizer(config)
    state = init_state(build_model("nano"), optimizer, 0, mesh)
    before = jax.tree.map(np.asarray, state.params)
    rng = np.random.default_rng(0)
    step = jax.jit(lambda *arguments: apply_gradients(*arguments, optimizer=optimizer)[0])
    for _ in range(steps):
        gradients = jax.tree.map(lambda x: rng.standard_normal(x.shape).astype(np.float32), before)
        state = step(state, jax.device_put(gradients, NamedSharding(mesh, P())))
    flat = lambda tree: flatten_dict(jax.tree.map(np.asarray, tree), sep="/")
    return flat(before), flat(state.params)


def test_muon_updates_the_kernels_of_the_blocks(config):
    before, _ = updated(config)
    names = flatten_dict(optimizer_names(unflatten_dict(before, sep="/")), sep="/")
    muon = {path for path, name in names.items() if name == "muon"}
    assert len(muon) == 2 * 2 * 4  # blocks, halves, and qkv, proj, fc1, fc2
    assert all(path.startswith("block_") and path.endswith("kernel") for path in muon)
    assert {"patch_embed/kernel", "head/kernel", "register_tokens"} <= names.keys() - muon


def test_updates_of_kernels_are_nearly_orthogonal_and_others_are_those_of_adamw(config):
    before, after = updated(config)
    config.optim.name = "adamw"
    _, adamw = updated(config)
    for path, value in before.items():
        update = after[path] - value
        if path.startswith("block_") and path.endswith("kernel"):
            singular = np.linalg.svd(update, compute_uv=False)
            low, high = np.quantile(singular, (0.1, 0.9))
            assert high < 1.8 * low  # about 6 for the gradient of a square kernel, 2 to 3 for others
            assert np.sqrt(np.square(update).mean()) == pytest.approx(0.2 * 1e-2, rel=0.2)
        else:
            np.testing.assert_array_equal(after[path], adamw[path])


def test_stacked_updates_are_those_of_optax():
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)
    shapes = {"a": (16, 48), "b": (64, 16), "c": (16, 48), "d": (16, 16), "e": (64, 16)}
    params = {name: draw(*shape) for name, shape in shapes.items()}
    ours = optax.chain(stacked_muon(0.9), optax.add_decayed_weights(0.1), optax.scale_by_learning_rate(0.5))
    theirs = contrib.muon(0.5, beta=0.9, weight_decay=0.1, consistent_rms=0.2)
    states = ours.init(params), theirs.init(params)
    for _ in range(3):
        gradients = {name: draw(*shape) for name, shape in shapes.items()}
        (updates, ours_state), (expected, theirs_state) = (
            optimizer.update(gradients, state, params) for optimizer, state in zip((ours, theirs), states)
        )
        states = ours_state, theirs_state
        for name, update in updates.items():
            np.testing.assert_allclose(update, expected[name], atol=1e-5, err_msg=name)


def test_kernels_of_one_shape_are_orthogonalised_together(config):
    params = init_state(
        build_model("nano"), make_optimizer(config), 0, make_mesh(SINGLE, jax.devices()[:1])
    ).params
    optimizer = make_optimizer(config)
    program = jax.jit(optimizer.update).lower(params, optimizer.init(params), params).compile()
    products = re.findall(r" dot\(", program.as_text())
    assert len(products) == 4 * 5 * 3, "shapes, iterations, products of an iteration"


def test_decay_of_both_optimizers(config):
    _, without = updated(config)
    config.optim.update(weight_decay=0.5, decay="matrices")
    before, after = updated(config)
    for path, value in before.items():
        decay = 1e-2 * 0.5 * value if path.endswith("kernel") else 0.0
        np.testing.assert_allclose(after[path], without[path] - decay, atol=1e-6)


def test_a_sharded_update_is_the_same(config):
    _, expected = updated(config, steps=2)
    _, sharded = updated(config, {"data": 2, "fsdp": 4, "view": 1}, steps=2)
    for path, value in expected.items():
        np.testing.assert_allclose(sharded[path], value, atol=2e-5, err_msg=path)


def rates(config, **optim):
    """Returns the learning rates of 12 updates, of which 2 warm up, and of the update after the end."""
    config.duration = "12 steps"
    config.optim.update(warmup="2 steps", learning_rate=1.0, **optim)
    schedule = jax.jit(learning_rate_schedule(config))
    return [float(schedule(update)) for update in range(13)]


def test_learning_rates_of_the_schedules(config):
    cosine = [0.5 + 0.5 * np.cos(np.pi * i / 10) for i in range(11)]
    np.testing.assert_allclose(rates(config), [0, 0.5, *cosine], atol=1e-6)
    falling = [1 - i / 10 for i in range(11)]
    np.testing.assert_allclose(rates(config, schedule="linear"), [0, 0.5, *falling], atol=1e-6)
    constant = [1.0] * 6 + [1.0, 0.75, 0.5, 0.25, 0.0]
    np.testing.assert_allclose(rates(config, cooldown=0.4), [0, 0.5, *constant], atol=1e-6)
    lowest = [1.0] * 6 + [1.0, 0.8, 0.6, 0.4, 0.2]
    np.testing.assert_allclose(rates(config, min_learning_rate=0.2), [0, 0.5, *lowest], atol=1e-6)


def test_linear_schedule_without_warmup_starts_at_the_peak(config):
    config.duration = "4 steps"
    config.optim.update(warmup="0 steps", learning_rate=1.0, schedule="linear")
    schedule = learning_rate_schedule(config)
    np.testing.assert_allclose([schedule(update) for update in range(5)], [1, 0.75, 0.5, 0.25, 0])


def test_cooldown_needs_the_linear_schedule(config):
    config.optim.cooldown = 0.2
    with pytest.raises(UserError, match="cooldown=0.2 has no effect on the schedule 'cosine': use conf"):
        validate(config)
    config.optim.schedule = "linear"
    validate(config)


def test_invalid_settings(config):
    for name, value, message in (
        ("schedule", "linaer", "did you mean 'linear'"),
        ("cooldown", 0.0, "cooldown=0.0 must be above 0, at most 1, such as 0.2"),
        ("cooldown", 1.5, "cooldown=1.5 must be above 0"),
        ("name", "sgd", r"choices: adamw, muon"),
        ("momentum", 1.0, r"momentum=1.0 must be from 0 to below 1"),
    ):
        config.optim[name], before = value, config.optim[name]
        with pytest.raises(UserError, match=message):
            validate(config)
        config.optim[name] = before


def skipping(spike_factor=0.0):
    """Returns a jitted update of skip_bad_updates around AdamW, and its first parameters and state."""
    optimizer = skip_bad_updates(optax.adamw(0.1), spike_factor)
    params = {"a": np.ones(3, np.float32), "b": np.ones((2, 2), np.float32)}

    @jax.jit
    def update(gradients, state, params):
        updates, state = optimizer.update(gradients, state, params)
        skipped = was_skipped(global_norm(gradients), state)
        return optax.apply_updates(params, updates), state, skipped

    return update, params, optimizer.init(params)


def of_norm(value):
    """Returns gradients of this norm."""
    return {"a": np.array([value, 0, 0], np.float32), "b": np.zeros((2, 2), np.float32)}


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_updates_with_gradients_that_are_not_finite_are_skipped(bad):
    """The square of 1e30 is infinite in float32."""
    update, params, state = skipping()
    assert jax.tree.structure(state) == jax.tree.structure(optax.adamw(0.1).init(params)), "as before"
    moved, after, skipped = update(of_norm(1.0), state, params)
    assert not skipped and moved["a"][0] < 0.95
    same, kept, skipped = update(of_norm(bad), after, moved)
    assert skipped
    jax.tree.map(np.testing.assert_array_equal, (same, kept), (moved, after))


def test_spikes_are_skipped_once_the_window_is_full_and_a_lasting_change_is_followed(monkeypatch):
    monkeypatch.setattr("muskie_jax.optim.SPIKE_WINDOW", 4)
    update, params, state = skipping(spike_factor=5.0)
    outcomes = []
    for norm in (1.0, 50.0, 1.0, 1.0, 1.0, 4.0, 6.0, np.nan, 20.0, 6.0, 6.0, 6.0):
        before, state_before = params, state
        params, state, skipped = update(of_norm(norm), state, params)
        outcomes.append(bool(skipped))
        if skipped:
            jax.tree.map(np.testing.assert_array_equal, (params, state.inner), (before, state_before.inner))
    # The second is no spike, since there are too few norms before; 6 is one while the median is 1.
    assert outcomes == [False] * 6 + [True] * 3 + [False] * 3
