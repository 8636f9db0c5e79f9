"""The memory estimate, against XLA's reservations on GPUs and against general properties."""

import contextlib
import io
import math
import re
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import print_saved_residuals

from muskie_jax.buckets import Bucket, BucketSchedule
from muskie_jax.config_file import load_config
from muskie_jax.models.dpt import DPTHead
from muskie_jax.models.muskie import build_model
from muskie_jax.models.reconstruction import Reconstruction
from muskie_jax.perf.machines import GIB
from muskie_jax.perf.memory import KEPT_BY_BLOCK, kept_by_point_head, training_memory

BFLOAT16 = {"dtype": "bfloat16", "residual_dtype": "bfloat16"}
LARGE = build_model("large", remat="block", **BFLOAT16)
BUCKET = Bucket(224, 224, 8)
MESH = {"data": 16, "fsdp": 1, "view": 1}

# Variant, remat, dtype of the residual stream, bucket, groups, devices that split a group, and GiB of a
# step with one batch per update: configs/benchmark.py (H200, jax 0.11.2, 2026-11-29), :remat and :long
# (H100 and H200, 2026-11-22).
MEASURED = [
    ("base", "none", "float32", Bucket(224, 224, 8), 4, 1, 3.2),
    ("base", "none", "float32", Bucket(384, 384, 8), 4, 1, 7.2),
    ("base", "none", "float32", Bucket(512, 512, 8), 4, 1, 11.8),
    ("large", "none", "float32", Bucket(224, 224, 8), 4, 1, 9.4),
    ("large", "none", "float32", Bucket(512, 512, 8), 4, 1, 31.8),
    ("large", "block", "float32", Bucket(512, 512, 8), 4, 1, 9.3),
    ("small", "none", "float32", Bucket(128, 128, 8), 64, 1, 6.1),
    ("base", "none", "bfloat16", Bucket(512, 512, 8), 4, 1, 10.6),
    ("large", "none", "bfloat16", Bucket(512, 512, 8), 4, 1, 28.6),
    ("large", "block", "bfloat16", Bucket(512, 512, 8), 4, 1, 8.2),
    ("large", "full", "bfloat16", Bucket(512, 512, 8), 4, 1, 6.8),
    ("small", "none", "bfloat16", Bucket(128, 128, 8), 64, 1, 5.5),
    ("huge", "none", "bfloat16", Bucket(512, 512, 64), 1, 1, 89.8),
    ("huge", "none", "bfloat16", Bucket(512, 512, 64), 1, 2, 52.3),
]


@pytest.mark.parametrize("variant, remat, residual_dtype, bucket, groups, view, gib", MEASURED)
def test_estimate_is_within_3_percent(variant, remat, residual_dtype, bucket, groups, view, gib):
    model = build_model(variant, remat=remat, dtype="bfloat16", residual_dtype=residual_dtype)
    mesh = {"data": 1, "fsdp": 1, "view": view}
    estimated = training_memory(model, bucket, groups, mesh, prefetched=0)
    assert sum(estimated.values()) / GIB == pytest.approx(gib, rel=0.03)


def test_the_recipe_for_24_gb_leaves_some_of_what_jax_takes():
    config = load_config("configs/muskie_base_24gb.py:photos")
    schedule, model = BucketSchedule.of(config), build_model(**config.model)
    batches, mesh = schedule.batches_per_update, {"data": 1, "fsdp": 1, "view": 1}
    for bucket in schedule.all():
        groups = config.batch.groups * config.batch.views // bucket.views
        prefetched = config.data.prefetch * batches
        parts = training_memory(model, bucket, groups, mesh, prefetched, batches)
        assert sum(parts.values()) / GIB < 0.75 * (0.75 * 24), "JAX takes three quarters of the memory"


class SavedArray(NamedTuple):
    """An array that a backward pass keeps: its type, its shape, and how JAX describes its origin."""

    dtype: str
    shape: tuple[int, ...]
    source: str


def saved_arrays(function, *arguments) -> list[SavedArray]:
    """Returns the arrays that the backward pass of a function keeps, as JAX prints them."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        print_saved_residuals(function, *arguments)
    found = [re.fullmatch(r"(\w+)\[([\d,]*)\]\S* (.*)", line) for line in printed.getvalue().splitlines()]
    return [SavedArray(f[1], tuple(map(int, filter(None, f[2].split(",")))), f[3]) for f in found if f]


def kept_arrays(remat, depth):
    """Returns the numbers of float32 and bfloat16 arrays of the tokens' size that a backward pass keeps."""
    model = build_model("nano", dtype="bfloat16", residual_dtype="float32", remat=remat).clone(depth=depth)
    images = jnp.zeros((1, 4, 64, 64, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)
    variables = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    saved = saved_arrays(lambda variables: model.apply(variables, images).pred.sum(), variables)
    inside = [each for each in saved if "argument" not in each.source and each.shape[-1:] != (768,)]
    tokens, width = 4 * (16 + 4), 48
    size = lambda dtype: sum(math.prod(each.shape) for each in inside if each.dtype == dtype)
    return np.array([size("f32"), size("bf16")]) / (tokens * width)


@pytest.mark.parametrize("remat", ["elementwise", "block", "full"])
def test_blocks_keep_the_arrays_of_the_estimate(remat):
    added = kept_arrays(remat, depth=3) - kept_arrays(remat, depth=2)
    np.testing.assert_allclose(added, KEPT_BY_BLOCK[remat], atol=0.1)


def test_a_float32_stream_takes_more_memory():
    small = training_memory(LARGE, BUCKET, 256, MESH)
    large = training_memory(LARGE.clone(residual_dtype=jnp.dtype("float32")), BUCKET, 256, MESH)
    assert large["activations"] == 4 / 3 * small["activations"]  # one of three arrays has twice the size


def test_settings_that_save_memory():
    plain = training_memory(LARGE, BUCKET, 256, MESH)
    count = 304_700_000  # parameters of Muskie-L, from the published implementation
    assert plain["parameters"] == pytest.approx(4 * count, rel=2e-3)
    assert plain["optimizer"] == 2 * plain["parameters"]
    split = training_memory(LARGE, BUCKET, 256, {"data": 4, "fsdp": 4, "view": 1})
    assert split["parameters"] == pytest.approx(plain["parameters"] / 4, rel=0.02)
    assert split["activations"] == plain["activations"]
    half = training_memory(LARGE, BUCKET, 128, MESH)
    assert half["activations"] == plain["activations"] / 2
    full = training_memory(build_model("large", **BFLOAT16), BUCKET, 256, MESH)
    assert full["activations"] > 5 * plain["activations"]
    assert sum(full.values()) > sum(plain.values()) > sum(half.values())


def test_memory_grows_with_batches_per_update():
    mesh = {"data": 16, "fsdp": 2, "view": 1}
    one, three = (training_memory(LARGE, BUCKET, 128, mesh, batches=count) for count in (1, 3))
    assert one["gradients"] == 0 and three["gradients"] == three["parameters"]
    assert {**three, "gradients": 0} == one
    few = training_memory(LARGE, Bucket(32, 32, 1), 32, mesh)
    # Fewer activations than bfloat16 gradients, which take their memory.
    assert few["activations"] == few["parameters"] / 2


DECODER = Reconstruction(build_model("base", **BFLOAT16), 2)
ONE = {"data": 1, "fsdp": 1, "view": 1}


def test_the_point_head_keeps_the_arrays_of_the_estimate():
    batch, rows, columns, width = 5, 4, 6, 64  # no kernel has a side of 5
    size = (16 * rows, 16 * columns)
    head, levels = DPTHead(4, jnp.dtype("bfloat16")), [jnp.zeros((batch, rows, columns, width))] * 4
    params = jax.eval_shape(lambda key: head.init(key, levels, size), jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), params)
    saved = saved_arrays(lambda params, levels: head.apply(params, levels, size).sum(), params, levels)
    # Zeros that are broadcast need no memory.
    inputs = [each for each in saved if each.shape[:1] == (batch,) and "broadcast" not in each.source]
    itemsize = {"bf16": 2, "f32": 4, "bool": 1}
    counted = sum(itemsize[each.dtype] * math.prod(each.shape) for each in inputs)
    assert kept_by_point_head(width, 16, 2) * batch * rows * columns == pytest.approx(counted, rel=1e-3)


def test_a_frozen_backbone_has_no_moments_and_keeps_no_activations():
    trained, frozen = (
        training_memory(model, BUCKET, 16, ONE, batches=2)
        for model in (DECODER, DECODER.clone(freeze_backbone=True))
    )
    of_backbone = training_memory(DECODER.backbone, BUCKET, 16, ONE, batches=2)
    assert frozen["parameters"] == trained["parameters"] > of_backbone["parameters"]
    assert frozen["optimizer"] < trained["optimizer"] and frozen["gradients"] < trained["gradients"]
    assert trained["activations"] - frozen["activations"] == pytest.approx(of_backbone["activations"])
    assert frozen["optimizer"] == 2 * frozen["gradients"]


def test_memory_of_a_decoder_grows_with_its_batch_and_depth_and_shrinks_with_the_mesh():
    total = lambda model, groups, mesh: sum(training_memory(model, BUCKET, groups, mesh).values())
    plain = training_memory(DECODER, BUCKET, 16, ONE)
    half = training_memory(DECODER, BUCKET, 16, {"data": 2, "fsdp": 1, "view": 1})
    assert half["activations"] == plain["activations"] / 2
    assert half["parameters"] == plain["parameters"]
    # Each view has three bytes of colour and four of depth per pixel, in the batch and in two waiting ones.
    assert plain["batches"] == 3 * 7 * 16 * 8 * 224 * 224
    split = training_memory(DECODER, BUCKET, 16, {"data": 1, "fsdp": 2, "view": 1})
    assert 0.5 < split["parameters"] / plain["parameters"] < 0.6
    assert total(DECODER.clone(decoder_depth=20), 16, ONE) > 1.5 * total(DECODER, 16, ONE)
