"""An update computes hidden patches only, with the same result as computing all patches."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax import train_step
from muskie_jax.buckets import Bucket
from muskie_jax.config import default_config
from muskie_jax.losses import LossOptions
from muskie_jax.masking import MaskOptions, group_masks
from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import build_model
from muskie_jax.sharding import make_mesh
from muskie_jax.train_step import Task, accumulate_gradients, make_task

BUCKET = Bucket(48, 64, 4)
MASKS = MaskOptions((("random", 0.8), ("rectangle", 0.5)), None)
GROUPS = 5


@pytest.fixture
def small_multiple(monkeypatch):
    """A multiple that leaves fewer slots than patches even for small images."""
    monkeypatch.setattr(train_step, "SLOTS_MULTIPLE", 4)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    masks = group_masks(rng, GROUPS, BUCKET.views, BUCKET.grid(16), MASKS)
    masks[1] = False  # a group without hidden patches
    return {
        "images": rng.integers(0, 256, (GROUPS, BUCKET.views, 48, 64, 3), np.uint8),
        "mask": masks,
        "source": np.array([0, 1, 1, 2, 0], np.int32),
    }


@pytest.fixture(scope="module")
def params():
    init = jax.jit(build_model("nano").init)
    params = init(jax.random.key(0), jnp.zeros((1, 1, 16, 16, 3)))["params"]
    draw = lambda x: x + 0.05 * jax.random.normal(jax.random.key(x.size), x.shape)
    return jax.tree.map(draw, params)


def gradients(task, params, batch):
    step = lambda params, batch: accumulate_gradients(params, None, batch, task=task, weight=1.0)
    return jax.jit(step)(params, batch)


@pytest.mark.parametrize(
    "loss", [LossOptions(), LossOptions("smooth_l1", confidence=False, normalize_targets=True)]
)
def test_computing_hidden_patches_only_gives_the_same_update(small_multiple, params, batch, loss):
    task = Task(build_model("nano"), loss, 3, MASKS)
    assert task.slots(BUCKET) == 32  # of 48: 3 views with 10 of 12 patches hidden, rounded up to 4
    ours, measured = gradients(task, params, batch)
    expected, all_measured = gradients(dataclasses.replace(task, masks=None), params, batch)
    for leaf, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(leaf, other, atol=1e-5 * max(1e-3, np.abs(other).max()))
    assert measured.keys() == all_measured.keys()
    for name in measured:
        np.testing.assert_allclose(
            measured[name].compute(), all_measured[name].compute(), rtol=1e-5, err_msg=name
        )


def test_more_hidden_patches_than_slots_make_the_loss_nan(small_multiple, params, batch):
    task = Task(build_model("nano"), LossOptions(), 3, MASKS)
    mask = batch["mask"].copy()
    mask[3] = np.arange(48).reshape(4, 12) < 32  # as many as there are slots
    loss = lambda task: float(gradients(task, params, batch | {"mask": mask})[1]["loss"].compute())
    assert loss(task) == pytest.approx(loss(dataclasses.replace(task, masks=None)), rel=1e-6)
    mask[3].flat[32] = True  # one more
    assert np.isnan(loss(task))


@pytest.mark.parametrize("num_reference, slots", [(None, 384), (0, None), (1, 448), (6, 128)])
def test_slots_follow_the_masks_of_the_config(num_reference, slots):
    config = default_config()
    config.mask.update(modes=[["random", 0.9]], num_reference=num_reference)
    mesh = make_mesh(config.mesh, jax.devices()[:1])
    assert make_task(config, mesh, 1).slots(Bucket(128, 128, 8)) == slots  # of 512


def test_all_patches_are_computed_if_slots_are_unsupported_or_save_nothing(small_multiple, monkeypatch):
    task = Task(build_model("nano"), LossOptions(), 1, MASKS)
    change = lambda **options: dataclasses.replace(task, model=task.model.clone(**options))
    split = make_mesh({"data": 2, "fsdp": 1, "view": 2}, jax.devices()[:4])
    groups = make_mesh({"data": 2, "fsdp": 2, "view": 1}, jax.devices()[:4])
    assert change(scan_blocks=True).slots(BUCKET) is None
    assert change(attention=Attention("xla", split)).slots(BUCKET) is None
    assert change(attention=Attention("xla", groups)).slots(BUCKET) == 32
    assert task.slots(BUCKET._replace(views=1)) is None  # 10 of 12, rounded up to 4: all 12
    assert task.slots(BUCKET._replace(views=2)) == 20
    monkeypatch.undo()
    assert task.slots(BUCKET) is None and task.slots(Bucket(224, 224, 8)) == 960
