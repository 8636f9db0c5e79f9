"""The data benchmark: its arithmetic, its tools, and a run at toy size."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from muskie_jax.config import validate
from muskie_jax.config_file import load_config
from muskie_jax.data.sources import PhotographSource
from muskie_jax.errors import UserError
from muskie_jax.perf import loading, throughput
from muskie_jax.perf.loading import STAGES, benchmark_data, cores_needed, one_core
from muskie_jax.perf.synthetic_photographs import write_photographs

PATH = pathlib.Path(__file__).parents[2] / "configs" / "benchmark_data.py"


def load(arg):
    return load_config(f"{PATH}:{arg}" if arg else PATH)


@pytest.mark.parametrize("arg", [None, "quick"])
def test_shipped_benchmarks_are_valid(arg):
    validate(load(arg))


@pytest.mark.parametrize(
    "setting, value, message",
    [
        ("seconds", 0.0, "seconds=0.0 must be above 0"),
        ("sizes", (230,), r"sizes has 230x230, .*: the nearest valid sizes are \(224, 224\)"),
        ("sizes", ((224, 224),), r"sizes has \(224, 224\), but each must be a side in pixels"),
        ("photo_sizes", (640,), r"photo_sizes has 640, but each must be \(height, width\)"),
        (
            "steps",
            (("base", 224),),
            r"steps has \('base', 224\), but each must be \(variant, size, milliseconds\)",
        ),
        ("steps", (("bass", 224, 12.6),), "steps: 'bass' is not a valid value; did you mean 'base'"),
    ],
)
def test_invalid_settings_raise(setting, value, message):
    config = load(None)
    config.benchmark_data[setting] = value
    with pytest.raises(UserError, match=f"^config.benchmark_data.{message}"):
        validate(config)


def test_sizes_do_not_matter_to_other_jobs():
    config = load(None)
    config.model.patch, config.evaluation.size = 14, (112, 112)  # 14 does not divide 512
    config.buckets.resolutions = (((112, 112),),)
    config.job = "train"
    validate(config)


def test_synthetic_photographs_are_as_large_as_real_ones(tmp_path):
    write_photographs(tmp_path, 3, (480, 640))
    first, *others = sorted(tmp_path.iterdir())
    assert len(others) == 2 and first.read_bytes() != others[0].read_bytes()
    with Image.open(first) as image:
        assert image.size == (640, 480)
    assert all(55e3 < path.stat().st_size < 85e3 for path in (first, *others))
    times = first.stat().st_mtime_ns
    others[0].unlink()
    write_photographs(tmp_path, 3, (480, 640))
    assert first.stat().st_mtime_ns == times and others[0].exists(), "only missing files are written"


def test_throughput_leaves_out_the_warm_up(monkeypatch):
    now, closed = [0.0], []
    monkeypatch.setattr(throughput.time, "perf_counter", lambda: now[0])

    def loads():
        try:
            for seconds in [50.0, 3.0, *[0.25] * 100]:  # start, filling of queues, steady state
                now[0] += seconds
                yield
        finally:
            closed.append(True)

    assert throughput.items_per_second(loads(), 4.0) == 4.0
    assert closed


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin threads to cores")
def test_one_core_pins_threads_started_within():
    before, seen = os.sched_getaffinity(0), []
    with one_core():
        thread = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        thread.start()
        thread.join()
    assert len(seen[0]) == 1 and seen[0] <= before
    assert os.sched_getaffinity(0) == before


def test_cores_that_feed_a_gpu(monkeypatch):
    monkeypatch.setattr(loading, "available_cores", lambda: [0, 1])
    case = lambda size, one, both: {
        "photographs": "p",
        "size": size,
        "views_per_second": one,
        "views_per_second_all": both,
    }
    cases = [case(224, 400.0, 1000.0), case(512, 500.0, 400.0)]
    steps = (("base", 224, 10.0), ("base", 512, 30.0), ("large", 224, 40.0), ("large", 384, 70.0))
    needs = {(n["variant"], n["size"]): n for n in cores_needed(cases, steps, step_views=32, reuse=2)}
    # 16 views are loaded per step; a core loads 400 views/s at 224, and 200 at 512 while both cores work.
    assert needs["base", 224]["cores"] == pytest.approx(16 / 400 / 0.010)
    assert needs["base", 512]["cores"] == pytest.approx(16 / 200 / 0.030)
    assert needs["base", "all"]["cores"] == pytest.approx((16 / 400 + 16 / 200) / 0.040)
    assert not needs["base", "all"]["at_most"]
    assert needs["large", 224]["cores"] == pytest.approx(16 / 400 / 0.040)
    assert set(needs) == {("base", 224), ("base", 512), ("base", "all"), ("large", 224), ("large", "all")}
    # The time of the step at 512 is unknown, so it counts as zero.
    assert needs["large", "all"]["cores"] == pytest.approx((16 / 400 + 16 / 200) / 0.040)
    assert needs["large", "all"]["at_most"]


@pytest.mark.parametrize("torch", [False, pytest.param(True, marks=pytest.mark.extras)])
def test_a_run_at_toy_size(tmp_path, monkeypatch, capsys, torch):
    if torch:
        pytest.importorskip("torch")
    else:
        found = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "torch" else found(name)
        )
    monkeypatch.setattr(loading, "available_cores", lambda: sorted(os.sched_getaffinity(0))[:1])
    config = load("quick")
    config.benchmark_data.update(photo_sizes=((60, 80),), sizes=(32,), seconds=0.1)
    config.benchmark_data.steps = (("base", 32, 5.0),)
    validate(config)
    before = os.sched_getaffinity(0)
    result = benchmark_data(config, tmp_path)
    assert os.sched_getaffinity(0) == before, "the programs that follow would share a core"
    (case,) = result["cases"]
    assert json.loads((tmp_path / "benchmark_data.jsonl").read_text()) == case
    assert case["views_per_second"] > 0 and case["views_per_second_all"] > 0
    assert set(case["stages"]) == set(STAGES)
    assert all(case["stages"][stage] > 0 for stage in STAGES[:-1])
    (need,) = result["needs"]
    speed = min(case["views_per_second"], case["views_per_second_all"])
    assert need["cores"] == pytest.approx(16 / speed / 5e-3)
    printed = capsys.readouterr().err
    assert ("[torch]" in printed) != torch and ("ratio" in case) == torch
    if torch:
        assert case["ratio"] == pytest.approx(case["views_per_second"] / case["torch_views_per_second"])


def test_photographs_of_the_user(tmp_path):
    config = load("quick")
    config.benchmark_data.photos = str(tmp_path / "photos")
    write_photographs(tmp_path / "photos" / "2024" / "june", 2, (60, 80))
    ((name, root),) = loading.photograph_folders(config.benchmark_data, tmp_path)
    sampler = loading.make_sampler(config, root, 32)
    source = sampler.sources[0]
    assert isinstance(source, PhotographSource)
    assert name == "yours" and source.scenes.counts.sum() == 2
    assert sampler.photo_group(0, 0, 0).images.shape == (8, 32, 32, 3)


@pytest.mark.extras
def test_the_pytorch_loader_yields_normalised_views(tmp_path):
    pytest.importorskip("torch")
    from muskie_jax.perf.torch_loader import crop_box, photograph_loader

    Image.new("RGB", (80, 60), (255, 0, 51)).save(tmp_path / "a.png")
    batch = next(iter(photograph_loader([tmp_path / "a.png"], 32, 4, 0)))
    assert batch.shape == (4, 3, 32, 32)
    assert batch[:, :, 5, 5].numpy() == pytest.approx(np.tile([1.0, -1.0, -0.6], (4, 1)), abs=1e-5)
    boxes = np.array([crop_box(640, 480) for _ in range(500)])
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) / (640 * 480)
    assert 0.79 < area.min() < 0.82 and boxes.min() >= 0 and boxes.max(0)[2:].tolist() == [640, 480]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_freed_memory_is_kept():
    code = """
import resource, numpy as np
from muskie_jax.data.allocation import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        images = [np.ones(1_000_000, np.uint8) for _ in range(4)]
        del images
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
returned = faults()
keep_freed_memory()
faults()
print(returned, faults())
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    returned, kept = map(int, run.stdout.split())
    assert returned > 10_000 and kept < 1_000
