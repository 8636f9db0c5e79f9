"""The metrics of a batch, against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from muskie_jax.losses import LossOptions
from muskie_jax.models.muskie import build_model
from muskie_jax.optim import global_norm
from muskie_jax.train_step import Pretraining, batch_gradients, reconstruct

GROUPS, VIEWS, PATCHES = 5, 3, 6


def test_metrics_of_a_batch():
    rng = np.random.default_rng(0)
    masked = rng.random((GROUPS, VIEWS, PATCHES)) < 0.5
    masked[1] = False  # a group without masked patches
    images = rng.integers(0, 256, (GROUPS, VIEWS, 32, 48, 3), np.uint8)
    batch = {"images": images, "mask": masked, "source": np.array([0, 1, 1, 3, 0], np.int32)}
    task = Pretraining(build_model("nano").clone(depth=1), LossOptions("smooth_l1"), num_sources=4)
    params = jax.jit(task.model.init)(jax.random.key(0), np.zeros((1, 1, 16, 16, 3), np.float32))["params"]
    metrics = jax.jit(lambda *arguments: batch_gradients(*arguments, task=task)[1])(params, batch)
    losses = jax.jit(lambda *arguments: reconstruct(task, *arguments)[2])(params, batch)
    found = {name: np.asarray(mean.compute()) for name, mean in metrics.items()}
    by_group = {g: np.asarray(losses.weighted)[g][masked[g]].mean() for g in (0, 2, 3, 4)}
    assert found["mse"] == pytest.approx(np.asarray(losses.squared)[masked].mean(), rel=1e-5)
    assert found["conf_reg"] == pytest.approx(np.asarray(losses.log_confidence).mean(), rel=1e-5)
    by_source = [np.mean([by_group[0], by_group[4]]), by_group[2], np.nan, by_group[3]]
    np.testing.assert_allclose(found["source_loss"], by_source, rtol=1e-5)
    total = np.mean(list(by_group.values())) + 0.1 * found["conf_reg"]
    assert found["loss"] == pytest.approx(total, rel=1e-5)


def test_global_norm_joins_small_arrays():
    rng = np.random.default_rng(0)
    tree = {"a": rng.standard_normal(7), "b": {"c": rng.standard_normal((300, 300)), "d": np.float32(3)}}
    tree = jax.tree.map(jnp.float32, tree)
    np.testing.assert_allclose(global_norm(tree), optax.tree.norm(tree), rtol=1e-6)
    assert str(jax.make_jaxpr(global_norm)(tree)).count("reduce_sum") == 2
    assert global_norm({"b": jnp.full((300, 300), 2.0)}) == 600
