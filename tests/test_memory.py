"""The estimate of memory against what XLA reserved on GPUs, and what must hold of any estimate."""

import pytest

from muskie_jax.data.buckets import Bucket
from muskie_jax.machines import GIB
from muskie_jax.memory import training_memory
from muskie_jax.models.muskie import build_model

LARGE = build_model("large", dtype="bfloat16", remat="block")
BUCKET = Bucket(224, 224, 8)

# GiB of a training step with one batch per update, from docs/speed.md: configs/benchmark.py, :remat and
# :long (H100 and H200, jax 0.11.2, 2026-11-22).
MEASURED = [
    ("base", "none", Bucket(224, 224, 8), 4, 1, 3.0),
    ("base", "none", Bucket(384, 384, 8), 4, 1, 6.5),
    ("base", "none", Bucket(512, 512, 8), 4, 1, 10.6),
    ("large", "none", Bucket(224, 224, 8), 4, 1, 8.8),
    ("large", "none", Bucket(512, 512, 8), 4, 1, 28.6),
    ("large", "elementwise", Bucket(512, 512, 8), 4, 1, 19.0),
    ("large", "block", Bucket(512, 512, 8), 4, 1, 8.2),
    ("large", "full", Bucket(512, 512, 8), 4, 1, 6.8),
    ("huge", "none", Bucket(512, 512, 64), 1, 1, 89.8),
    ("huge", "none", Bucket(512, 512, 64), 1, 2, 52.3),
]


@pytest.mark.parametrize("variant, remat, bucket, groups, view, gib", MEASURED)
def test_the_estimate_is_near_what_was_measured(variant, remat, bucket, groups, view, gib):
    model = build_model(variant, dtype="bfloat16", remat=remat)
    parts = training_memory(model, bucket, groups, {"data": 1, "fsdp": 1, "view": view}, prefetched=0)
    assert sum(parts.values()) / GIB == pytest.approx(gib, rel=0.03, abs=0.05)  # GiB are rounded


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
