"""The metrics of a batch, against plain numpy."""

import functools

import jax
import numpy as np
import pytest

from muskie_jax.losses import LossOptions
from muskie_jax.models.muskie import build_model
from muskie_jax.train_step import Task, accumulate_gradients, reconstruct

GROUPS, VIEWS, PATCHES = 5, 3, 6


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    mask = rng.random((GROUPS, VIEWS, PATCHES)) < 0.5
    mask[1] = False  # a group without masked patches
    return {
        "images": rng.integers(0, 256, (GROUPS, VIEWS, 32, 48, 3), np.uint8),
        "mask": mask,
        "source": np.array([0, 1, 1, 3, 0], np.int32),
    }


def test_metrics_of_a_batch(batch):
    task = Task(build_model("nano"), LossOptions("smooth_l1"), num_sources=4)
    params = jax.jit(task.model.init)(jax.random.key(0), np.zeros((1, 1, 16, 16, 3), np.float32))["params"]
    step = functools.partial(accumulate_gradients, task=task, weight=1.0)
    metrics = jax.jit(step)(params, None, batch)[1]
    losses = jax.jit(functools.partial(reconstruct, task))(params, batch)[2]
    found = {name: np.asarray(mean.compute()) for name, mean in metrics.items()}
    masked = batch["mask"]
    by_group = {g: np.asarray(losses.weighted)[g][masked[g]].mean() for g in (0, 2, 3, 4)}
    assert found["mse"] == pytest.approx(np.asarray(losses.squared)[masked].mean(), rel=1e-5)
    assert found["conf_reg"] == pytest.approx(np.asarray(losses.log_confidence).mean(), rel=1e-5)
    by_source = [np.mean([by_group[0], by_group[4]]), by_group[2], np.nan, by_group[3]]
    np.testing.assert_allclose(found["source_loss"], by_source, rtol=1e-5)
    total = np.mean(list(by_group.values())) + 0.1 * found["conf_reg"]
    assert found["loss"] == pytest.approx(total, rel=1e-5)
