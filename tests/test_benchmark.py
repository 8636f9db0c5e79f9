"""The benchmark's arithmetic, and a run of it at toy size."""

import json
import pathlib

import jax
import pytest

from muskie_jax.benchmark import benchmark
from muskie_jax.config import validate
from muskie_jax.config_file import load_config
from muskie_jax.data.buckets import Bucket
from muskie_jax.errors import UserError
from muskie_jax.flops import forward_flops
from muskie_jax.models.muskie import build_model
from muskie_jax.roofline import best_time, forward_products

PATH = pathlib.Path(__file__).parent.parent / "configs" / "benchmark.py"


def load(arg):
    return load_config(f"{PATH}:{arg}" if arg else PATH)


@pytest.mark.parametrize("variant, bucket", [("base", Bucket(224, 224, 8)), ("huge", Bucket(512, 288, 2))])
def test_products_and_attention_are_all_the_arithmetic(variant, bucket):
    model, groups = build_model(variant), 3
    products = forward_products(model, bucket, groups)
    counted = sum(2 * p.rows * p.inner * p.columns * p.count for p in products)
    tokens = 4 + bucket.height * bucket.width // 256
    pairs = bucket.views * tokens**2 + (bucket.views * tokens) ** 2  # inside views, and across them
    counted += groups * model.depth * 4 * pairs * model.width
    assert counted == pytest.approx(groups * forward_flops(model, bucket), rel=1e-9)


def test_time_is_the_best_of_several_repeats_per_call():
    calls = []
    seconds = best_time(lambda: calls.append(1), calls=5, repeats=2)
    assert len(calls) == 2 + 10 and 0 <= seconds < 0.1


def test_cases_at_toy_size(tmp_path):
    config = load("tiny")
    config.benchmark.cases = config.benchmark.cases[:1]
    config.benchmark.devices = (1, 2)
    validate(config)
    result = benchmark(config, tmp_path, jax.devices()[:2])
    rows = [json.loads(line) for line in (tmp_path / "benchmark.jsonl").read_text().splitlines()]
    assert result["cases"] == rows and len(rows) == 2
    for row in rows:
        assert row["groups"] == row["devices"] and row["gib"] > 0
        assert row["views_per_second"] == pytest.approx(8 * row["groups"] / row["step_ms"] * 1e3)
        assert row["roofline_ms"] == pytest.approx(row["products_ms"] + row["attention_ms"])
        assert row["reached"] == pytest.approx(row["roofline_ms"] / row["step_ms"])
    assert rows[0]["roofline_ms"] == rows[1]["roofline_ms"]  # measured once


def test_more_devices_than_there_are(tmp_path):
    with pytest.raises(UserError, match="config.benchmark.devices has 2, and there are 1"):
        benchmark(load("scaling"), tmp_path, jax.devices()[:1])


@pytest.mark.parametrize("arg", [None, "remat", "scaling", "long", "tiny"])
def test_shipped_benchmarks_are_valid(arg):
    validate(load(arg))
