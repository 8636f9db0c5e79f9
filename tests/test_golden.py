"""Compares results with those of the published implementation, in float32 on a CPU."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from muskie_jax.config import default_config
from muskie_jax.losses import token_losses, total_loss
from muskie_jax.models.muskie import build_model, patchify, unpatchify
from muskie_jax.optim import make_optimizer
from muskie_tests.golden_params import golden_params

GRID, PATCH = (3, 4), 16


@pytest.fixture(scope="module")
def inputs(golden):
    images = jnp.asarray(golden["images"].transpose(0, 1, 3, 4, 2))
    return images, jnp.asarray(golden["mask"] > 0)


@pytest.fixture(scope="module")
def params(golden):
    return golden_params(golden, "param")


def losses_of(params, inputs, scan_blocks=False):
    images, mask = inputs
    output = build_model("nano", scan_blocks=scan_blocks).apply({"params": params}, images, mask)
    losses = token_losses(output.pred, output.conf, patchify(images, PATCH), mask)
    # The golden batch is one draw of the published code, which pools the tokens of a draw.
    return total_loss(losses, "tokens"), (losses, output)


def as_images(patches):
    return np.asarray(unpatchify(patches, GRID, PATCH)).transpose(0, 1, 4, 2, 3)


def test_the_golden_tree_has_the_models_structure(golden, inputs, params):
    initial = jax.eval_shape(build_model("nano").init, jax.random.key(0), *inputs)["params"]
    assert jax.tree.map(np.shape, initial) == jax.tree.map(np.shape, params)
    assert sum(np.size(p) for p in jax.tree.leaves(params)) == sum(
        value.size for name, value in golden.items() if name.startswith("param/")
    )


@pytest.mark.parametrize("scan_blocks", [False, True])
def test_predictions_and_losses(golden, inputs, params, scan_blocks):
    total, (losses, output) = losses_of(params, inputs, scan_blocks)
    hidden = losses.hidden.sum()
    close = lambda ours, key: np.testing.assert_allclose(ours, golden[key], rtol=0, atol=2e-5, err_msg=key)
    close(as_images(output.pred), "pred")
    close(as_images(output.conf), "conf")
    close(total, "loss")
    close(losses.squared.sum() / hidden, "mse")
    close(losses.log_confidence.mean(), "conf_reg")
    close(losses.weighted.sum((1, 2)) / losses.hidden.sum((1, 2)), "per_instance_loss")


@pytest.mark.parametrize("scan_blocks", [False, True])
def test_tokens_of_every_block(golden, inputs, params, scan_blocks):
    model = build_model("nano", scan_blocks=scan_blocks)
    tokens = model.apply({"params": params}, inputs[0], method="features")
    for block, ours in enumerate(tokens):
        theirs = golden[f"latent/{block}"].reshape(ours.shape)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("scan_blocks", [False, True])
def test_gradients(golden, inputs, params, scan_blocks):
    gradients = jax.grad(losses_of, has_aux=True)(params, inputs, scan_blocks)[0]
    theirs = golden_params(golden, "grad")
    worst = jax.tree.map(lambda a, b: float(np.abs(a - b).max() / np.abs(b).max()), gradients, theirs)
    assert max(jax.tree.leaves(worst)) < 1e-4, worst


def test_parameters_after_a_step(golden, inputs, params):
    config = default_config()
    config.optim.learning_rate = 1e-3
    config.optim.warmup = "0 steps"
    optimizer = make_optimizer(config)
    gradients = jax.grad(losses_of, has_aux=True)(params, inputs)[0]
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    stepped = optax.apply_updates(params, updates)
    theirs, golden_gradients = (golden_params(golden, name) for name in ("param_after_step", "grad"))

    def compare(ours, golden_step, gradient):
        """Adam's first step is lr * g / (|g| + eps): where |g| is near eps, it amplifies rounding of g."""
        difference = np.abs(ours - golden_step)
        conditioned = np.abs(gradient) > 10 * config.optim.eps
        assert difference[conditioned].max(initial=0) < 2e-6
        assert difference.max() < config.optim.learning_rate / 10
        return conditioned.mean()

    fractions = jax.tree.leaves(jax.tree.map(compare, stepped, theirs, golden_gradients))
    assert np.mean(fractions) > 0.95
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), stepped, params)
    assert min(jax.tree.leaves(moved)) > 1e-5
