"""The estimate of memory against what XLA reserved on GPUs, and what must hold of any estimate."""

import jax
import jax.numpy as jnp
import pytest
from jax._src.ad_checkpoint import saved_residuals

from muskie_jax.buckets import Bucket
from muskie_jax.losses import LossOptions
from muskie_jax.models.muskie import build_model
from muskie_jax.perf.machines import GIB
from muskie_jax.perf.memory import KEPT_BY_BLOCK, KEPT_OF_PLACES, training_memory
from muskie_jax.train_step import MaskOptions, Task

LARGE = build_model("large", dtype="bfloat16", remat="block")
BUCKET = Bucket(224, 224, 8)

# GiB of a training step with one batch per update: configs/benchmark.py and :remat (H100 and H200, jax
# 0.11.2, 2026-11-23).
MEASURED = [
    ("base", "none", Bucket(224, 224, 8), 2.95),
    ("base", "none", Bucket(384, 384, 8), 6.34),
    ("base", "none", Bucket(512, 512, 8), 10.33),
    ("large", "none", Bucket(224, 224, 8), 8.72),
    ("large", "none", Bucket(512, 512, 8), 28.23),
    ("large", "elementwise", Bucket(512, 512, 8), 19.03),
    ("large", "block", Bucket(512, 512, 8), 8.01),
]
# The day before, when the last layer and the head computed all patches; :long, on H200s that share a group.
ALL_PATCHES = [
    ("base", "none", Bucket(512, 512, 8), 4, 1, 10.6),
    ("large", "none", Bucket(512, 512, 8), 4, 1, 28.6),
    ("large", "block", Bucket(512, 512, 8), 4, 1, 8.2),
    ("large", "full", Bucket(512, 512, 8), 4, 1, 6.8),
    ("huge", "none", Bucket(512, 512, 64), 1, 1, 89.8),
    ("huge", "none", Bucket(512, 512, 64), 1, 2, 52.3),
]


def estimate(variant, remat, bucket, groups, view=1, masks=None):
    """GiB, without batches that wait."""
    model = build_model(variant, dtype="bfloat16", remat=remat)
    slots = Task(model, LossOptions(), 1, masks).slots(bucket)
    mesh = {"data": 1, "fsdp": 1, "view": view}
    return sum(training_memory(model, bucket, groups, mesh, prefetched=0, slots=slots).values()) / GIB


@pytest.mark.parametrize("variant, remat, bucket, gib", MEASURED)
def test_the_estimate_is_near_what_was_measured(variant, remat, bucket, gib):
    masks = MaskOptions((("random", 0.9), ("rectangle", 0.75), ("ellipse", 0.75)), None)
    assert estimate(variant, remat, bucket, 4, masks=masks) == pytest.approx(gib, rel=0.03)
    assert estimate(variant, remat, bucket, 4) > estimate(variant, remat, bucket, 4, masks=masks)


@pytest.mark.parametrize("variant, remat, bucket, groups, view, gib", ALL_PATCHES)
def test_the_estimate_where_all_patches_are_computed(variant, remat, bucket, groups, view, gib):
    assert estimate(variant, remat, bucket, groups, view) == pytest.approx(gib, rel=0.03)


def kept_arrays(remat, depth, slots):
    """Arrays, as large as the tokens, that a backward pass keeps; and those as large as the slots."""
    model = build_model("nano", remat=remat).clone(depth=depth)
    images, mask = jnp.zeros((1, 4, 64, 64, 3)), jnp.ones((1, 4, 16), bool)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    def predict(variables):
        return model.apply(variables, images, mask, slots, method="predict_hidden")[0].sum()

    residuals = saved_residuals(predict, variables)
    inside = [leaf for leaf, source in residuals if "argument" not in source and leaf.shape[-1] != 768]
    named = [leaf for leaf, source in residuals if "named" in source and slots in leaf.shape]
    return sum(leaf.size for leaf in inside) / (4 * 20 * 48), sum(leaf.size for leaf in named) / (
        slots * 48
    )


@pytest.mark.parametrize("remat", ["elementwise", "block", "full"])
def test_blocks_keep_what_the_estimate_counts(remat):
    slots = 40
    (three, of_places), (two, _) = (kept_arrays(remat, depth, slots) for depth in (3, 2))
    assert three - two == pytest.approx(KEPT_BY_BLOCK[remat])
    assert of_places == KEPT_OF_PLACES[remat] + 1  # the last layer's result, which the head needs


def test_memory_falls_with_what_saves_it():
    mesh = {"data": 16, "fsdp": 1, "view": 1}
    plain = training_memory(LARGE, BUCKET, 256, mesh)
    count = 304_700_000  # parameters of Muskie-L, from the published implementation
    assert plain["parameters"] == pytest.approx(4 * count, rel=2e-3)
    assert plain["optimizer"] == 2 * plain["parameters"]
    split = training_memory(LARGE, BUCKET, 256, {"data": 4, "fsdp": 4, "view": 1})
    assert split["parameters"] == pytest.approx(plain["parameters"] / 4, rel=0.02)
    assert split["activations"] == plain["activations"]
    half = training_memory(LARGE, BUCKET, 128, mesh)
    assert half["activations"] == plain["activations"] / 2
    full = training_memory(build_model("large", dtype="bfloat16"), BUCKET, 256, mesh)
    assert full["activations"] > 5 * plain["activations"]
    assert sum(full.values()) > sum(plain.values()) > sum(half.values())


def test_memory_grows_with_batches_of_an_update():
    mesh = {"data": 16, "fsdp": 2, "view": 1}
    one, three = (training_memory(LARGE, BUCKET, 128, mesh, batches=count) for count in (1, 3))
    assert one["gradients"] == 0 and three["gradients"] == three["parameters"]
    assert {**three, "gradients": 0} == one
    few = training_memory(LARGE, Bucket(32, 32, 1), 32, mesh)
    assert few["activations"] == few["parameters"] / 2  # gradients take the place of less, in bfloat16
