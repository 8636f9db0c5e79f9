"""The benchmark of steps: its arithmetic, and a run at toy size."""

import datetime
import json
import pathlib

import jax
import numpy as np
import pytest

from muskie_jax.buckets import Bucket
from muskie_jax.config import validate
from muskie_jax.config_file import load_config
from muskie_jax.errors import UserError
from muskie_jax.losses import LossOptions
from muskie_jax.masking import MaskOptions
from muskie_jax.models.muskie import build_model
from muskie_jax.models.reconstruction import Reconstruction
from muskie_jax.perf import benchmark as job
from muskie_jax.perf.benchmark import benchmark, device_counts, device_roofline
from muskie_jax.perf.flops import forward_flops, training_flops
from muskie_jax.perf.roofline import Roofline, best_time, forward_products, operations
from muskie_jax.programs import batch_shapes
from muskie_jax.reconstruction.targets import reconstruction_targets
from muskie_jax.sharding import make_mesh
from muskie_jax.train_step import Pretraining

PATH = pathlib.Path(__file__).parents[2] / "configs" / "benchmark.py"


def load(arg):
    return load_config(f"{PATH}:{arg}" if arg else PATH)


@pytest.mark.parametrize("variant, bucket", [("base", Bucket(224, 224, 8)), ("huge", Bucket(512, 288, 2))])
def test_timed_operations_cover_all_model_flops(variant, bucket):
    model, groups = build_model(variant), 3
    products = forward_products(model, bucket, groups)
    counted = sum(2 * p.rows * p.inner * p.columns * p.count for p in products)
    timed, attentions = operations(model, bucket, groups)
    embedding = products[0]  # images have no gradient
    backward = 2 * counted - 2 * embedding.rows * embedding.inner * embedding.columns
    assert sum(op.flops * op.count for op in timed) == pytest.approx(counted + backward, rel=1e-9)
    counted += 2 / 7 * sum(op.flops * op.count for op in attentions)  # two of seven products are forward
    assert counted == pytest.approx(groups * forward_flops(model, bucket), rel=1e-9)


def test_best_time_is_per_call():
    calls = []
    seconds = best_time(lambda: calls.append(1), calls=5, repeats=2)
    assert len(calls) == 2 + 10 and 0 <= seconds < 0.1


@pytest.mark.slow
def test_cases_at_toy_size(tmp_path):
    config = load("tiny")
    config.benchmark.cases = config.benchmark.cases[:1]
    config.benchmark.devices = ("doubling",)
    validate(config)
    result = benchmark(config, tmp_path, jax.devices()[:2])
    rows = [json.loads(line) for line in (tmp_path / "benchmark.jsonl").read_text().splitlines()]
    assert result["cases"] == rows and len(rows) == 2
    for row in rows:
        assert row["groups"] == row["devices"] and row["gib"] > 0
        assert row["views_per_second"] == pytest.approx(8 * row["groups"] / row["step_ms"] * 1e3)
        assert row["roofline_ms"] == pytest.approx(row["products_ms"] + row["attention_ms"])
        assert row["reached"] == pytest.approx(row["roofline_ms"] / row["step_ms"])
        assert row["device"] == jax.devices()[0].device_kind and row["jax"] == jax.__version__
        age = datetime.datetime.now(datetime.UTC) - datetime.datetime.fromisoformat(row["date"])
        assert abs(age) < datetime.timedelta(minutes=10)
    assert rows[0]["roofline_ms"] == rows[1]["roofline_ms"]  # measured once


def test_roofline_covers_the_groups_of_one_device(monkeypatch):
    measured = []

    def measure(model, bucket, groups):
        measured.append(groups)
        if groups > 3:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return Roofline(groups, 1.0, 1.0, 1.0)

    monkeypatch.setattr(job, "composed_roofline", measure)
    task, bucket, known = Pretraining(build_model("nano"), LossOptions(), 1), Bucket(32, 32, 8), {}

    def roofline(groups, **axes):
        mesh = make_mesh({"data": 1, "fsdp": 1, "view": 1} | axes, jax.devices()[:4])
        return device_roofline(task, bucket, groups, mesh, known)

    assert roofline(4, data=4) == Roofline(1, 1.0, 1.0, 1.0)
    assert roofline(12, data=2, fsdp=2) == Roofline(3, 1.0, 1.0, 1.0)
    assert roofline(12, fsdp=4) is roofline(12, data=4)
    assert roofline(1, view=4) is None and roofline(4, data=2, view=2) is None
    assert roofline(16, data=4) is None  # does not fit
    assert measured == [1, 3, 4]


class FakePrograms:
    """Programs that are never compiled; those at 64x64 do not fit."""

    def __init__(self, lowered, others, quiet):
        self.bucket = next(iter(lowered))

    def compile(self):
        if self.bucket.height == 64:
            raise UserError("does not fit")
        return 0.0

    def needed_bytes(self, state):
        return 2**30, None

    def check_memory(self, state, device, config):
        pass


@pytest.fixture
def toy_steps(monkeypatch):
    """Steps take 1 s on one device and 1.25 s on several; those at 96x96 run out of memory."""

    def time_updates(programs, state, batch, options):
        if batch[0].height == 96:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return 1.0 if batch[1] == 1 else 1.25

    monkeypatch.setattr(job, "Programs", FakePrograms)
    monkeypatch.setattr(job, "init_state", lambda *arguments: None)
    monkeypatch.setattr(job, "random_batch", lambda shapes, *_: shapes["images"].shape[0])  # groups
    monkeypatch.setattr(job, "time_updates", time_updates)
    monkeypatch.setattr(job, "composed_roofline", lambda *arguments: Roofline(0.5, 1.0, 0.25, 1.0))


def test_table_continues_after_a_case_that_does_not_fit(tmp_path, toy_steps, capsys):
    config = load("tiny")
    config.benchmark.cases = tuple(("nano", (size, size), "none") for size in (64, 96, 32))
    validate(config)
    compiling, running, fine = benchmark(config, tmp_path, jax.devices()[:1])["cases"]
    assert compiling["too_big"] == "does not fit" and "gib" not in compiling
    assert "Out of memory" in running["too_big"] and running["gib"] == 1
    assert fine["step_ms"] == 1000 and fine["reached"] == 0.75 and "too_big" not in fine
    head, *lines = capsys.readouterr().err.splitlines()
    assert ["too big" in line for line in lines] == [True, True, False]
    assert "efficiency" not in head


def test_efficiency_is_relative_to_the_fewest_devices(tmp_path, toy_steps, capsys):
    config = load("tiny")
    config.benchmark.devices = (4, 2, 1)
    rows = benchmark(config, tmp_path, jax.devices()[:4])["cases"]
    assert [row["devices"] for row in rows] == [1, 2, 4, 1, 2, 4]
    assert [row.get("efficiency") for row in rows] == [None, 0.8, 0.8] * 2
    head, *lines = capsys.readouterr().err.splitlines()
    assert head.endswith("efficiency")
    assert [line.split()[-1] for line in lines] == ["-", "80.0%", "80.0%"] * 2


def test_device_counts():
    assert device_counts(("all",), 3) == [3]
    assert device_counts(("doubling",), 1) == [1]
    assert device_counts(("doubling",), 8) == [1, 2, 4, 8]
    assert device_counts(("doubling", 3), 6) == [1, 2, 3, 4, 6]
    assert device_counts((1, "all"), 1) == [1]
    with pytest.raises(UserError, match="devices has 4, but there are 3 devices: use at most 3"):
        device_counts((4, 1), 3)


def test_no_case_runs_if_one_is_invalid(tmp_path, toy_steps):
    config = load("long")
    config.benchmark.cases = (("nano", (32, 32), "none"),)
    with pytest.raises(UserError, match="groups of 64 views cannot be split over config.mesh.view=3"):
        benchmark(config, tmp_path, jax.devices()[:3])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("steps", 0, "config.benchmark.steps=0 must be at least 1"),
        ("repeats", 0, "config.benchmark.repeats=0 must be at least 1"),
        ("groups_per_device", -1, "config.benchmark.groups_per_device=-1 must be at least 0"),
        (
            "cases",
            (("nano", 32, "none"),),
            "config.benchmark.cases has ('nano', 32, 'none'), but each case must be (variant,",
        ),
        (
            "cases",
            ("nano", (32, 32), "none"),
            "config.benchmark.cases has 'nano', but each case must be (variant,",
        ),
        ("cases", (("nano", (30, 32), "none"),), "config.benchmark.cases has 30x32, not divisible"),
        (
            "cases",
            (("nana", (32, 32), "none"),),
            "config.benchmark.cases: 'nana' is not a valid value; did you mean 'nano'?",
        ),
        ("cases", (("nano", (32, 32), "some"),), "config.benchmark.cases: 'some' is not a valid value"),
        ("devices", (), "config.benchmark.devices is empty: use ('all',)"),
        ("devices", (1, 0), "config.benchmark.devices has 0, but each must be at least 1"),
        ("devices", ("al",), "config.benchmark.devices has 'al', but each must be at least 1"),
    ],
)
def test_invalid_settings_raise_one_line(key, value, message):
    config = load("tiny")
    config.benchmark[key] = value
    with pytest.raises(UserError) as caught:
        validate(config)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


ARGUMENTS = ("remat", "scaling", "long", "tiny")


@pytest.mark.parametrize("arg", [None, *ARGUMENTS, "reconstruct", *(f"reconstruct_{a}" for a in ARGUMENTS)])
def test_shipped_benchmarks_are_valid(arg):
    validate(load(arg))


@pytest.mark.slow
def test_a_decoder_at_toy_size(tmp_path, capsys):
    config = load("reconstruct_tiny")
    config.benchmark.cases = config.benchmark.cases[:1]
    (row,) = benchmark(config, tmp_path, jax.devices()[:2])["cases"]
    assert (row["task"], row["decoder_depth"], row["freeze_backbone"]) == ("reconstruct", 2, False)
    flops = training_flops(Reconstruction(build_model("nano"), 2), Bucket(32, 32, 8))
    assert row["groups"] == row["devices"] == 2
    assert row["tflops"] * 1e12 * row["step_ms"] / 1e3 == pytest.approx(flops)
    assert row["gib"] > 0 and "roofline_ms" not in row
    note, _, line = capsys.readouterr().err.splitlines()
    assert note.endswith("it is not measured for this task") and "nano+2" in line


def test_a_random_batch_of_a_decoder_has_losses_and_gradients():
    mesh = make_mesh({"data": 1, "fsdp": 1, "view": 1}, jax.devices()[:1])
    shapes = batch_shapes(Bucket(32, 48, 2), 3, 2, 16, mesh, geometry=True)
    batch = job.random_batch(shapes, (2, 3), MaskOptions((("random", 0.9),)))
    assert {key: (x.shape, x.dtype) for key, x in batch.items()} == {
        key: (x.shape, x.dtype) for key, x in shapes.items()
    }
    targets = reconstruction_targets(batch["depth"], batch["intrinsics"], batch["world_to_camera"])
    assert targets.valid.all() and np.isfinite(targets.points).all()
    assert np.asarray(batch["depth"]).std() > 0.5 and np.asarray(batch["images"]).std() > 50


def test_a_backbone_that_is_too_shallow_for_a_decoder_is_refused_before_any_case(tmp_path, toy_steps):
    config = load("reconstruct_tiny")
    config.reconstruct.decoder_depth = 1
    validate(config)  # Muskie-B has enough blocks
    with pytest.raises(UserError, match="the point head reads 4 blocks, but there are 2 backbone blocks"):
        benchmark(config, tmp_path, jax.devices()[:1])
    assert not list(tmp_path.iterdir())


def test_too_many_views_for_a_learned_embedding():
    config = load("long")
    config.model.view_embed = "learned"
    with pytest.raises(UserError, match="use config.model.max_views=64"):
        validate(config)
    config.model.max_views = 64
    validate(config)
