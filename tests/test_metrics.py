"""Metrics merge as sums and counts, and are written as measured."""

import json
import threading
import time

import numpy as np
import pytest
from PIL import Image

from muskie_jax.data.prefetch import prefetch
from muskie_jax.errors import NotFinite
from muskie_jax.evaluators.reconstruction import visible_mean_error
from muskie_jax.metrics import Mean, MetricsQueue, merge_all
from muskie_jax.models.muskie import patchify
from muskie_jax.viz.reconstruction import reconstruction_sheet
from muskie_jax.writers import JsonLines, duration, print_result


def test_means_of_unequal_counts():
    parts = [
        {"x": Mean(np.array([1.0, 0.0]), np.array([1.0, 0.0]))},
        {"x": Mean(np.array([9.0, 0.0]), np.array([3.0, 0.0]))},
    ]
    values = merge_all(parts)["x"].compute()
    assert values[0] == 2.5 and np.isnan(values[1])


def test_a_queue_reads_late_and_reports_the_step_of_a_loss_that_is_not_finite():
    queue = MetricsQueue(lag=2)
    for step in (1, 2):
        queue.add(step, [{"loss": Mean(np.float32(step), np.float32(1))}])
    queue.add(3, [{"loss": Mean(np.float32(np.nan), np.float32(1))}])
    with pytest.raises(NotFinite, match="at step 3"):
        queue.wait()
    queue = MetricsQueue(lag=1)
    for step in range(1, 5):
        queue.add(step, [{"loss": Mean(np.float32(step), np.float32(1))}])
    assert queue.drain()["loss"].compute() == 2.5
    assert queue.drain() == {}


def test_the_reason_of_a_streak_is_named():
    queue = MetricsQueue(lag=0, sources=("rooms", "photos", "faces"), max_skipped=2)
    losses = Mean(np.array([1.0, np.nan, 0.0]), np.array([1.0, 1.0, 0.0]))
    bad = lambda: [
        {"loss": Mean.of(np.float32(np.nan)), "source_loss": losses, "skipped": Mean.of(np.ones(()))}
    ]
    good = lambda: [{"loss": Mean.of(np.float32(2.0)), "skipped": Mean.of(np.zeros(()))}]
    for step, metrics in enumerate((bad(), bad(), good(), bad(), bad()), 1):
        queue.add(step, metrics, "32x32, 4 views")
    assert queue.drain()["loss"].compute() == 2.0
    assert [update.step for update in queue.skipped] == [1, 2, 4, 5] and len(queue.streak) == 2
    error = r"bad gradients in 3 updates in a row, 4 to 6 \(the last: 64x64, 2 views of photos\)"
    with pytest.raises(NotFinite, match=error):
        queue.add(6, bad(), "64x64, 2 views")


def test_json_lines_of_repeated_steps_are_removed(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = JsonLines(path, 0)
    for step in range(1, 6):
        lines.write(step, {"loss": float("nan") if step == 2 else step / 2})
    with path.open("a") as file:
        file.write(
            '{"step": "x"}\nnull\n{"step": Infinity}\n{"step": 6, "lo'
        )  # the end is what a killed run leaves
    damaged = bytearray(path.read_bytes())
    damaged[damaged.index(b'"step": 1')] ^= 0x80
    path.write_bytes(damaged)
    lines = JsonLines(path, 3)
    lines.write(3, {"loss": 9.0})  # written already
    lines.write(4, {"loss": 0.0})
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == [(2, None), (3, 1.5), (4, 0.0)]


def test_the_result_is_valid_json(capsys):
    print_result({"loss": float("nan"), "step": 3})
    assert json.loads(capsys.readouterr().out) == {"loss": None, "step": 3}


def test_durations_are_readable():
    assert [duration(s) for s in (4.4, 65, 3725)] == ["4s", "1m05s", "1h02m"]


def test_prefetch_keeps_order_works_ahead_and_passes_errors_on():
    produced = []

    def items():
        for number in range(6):
            produced.append(number)
            yield number
        raise KeyError("broken source")

    with prefetch(items(), lambda x: 10 * x, ahead=2) as results:
        assert next(results) == 0
        time.sleep(0.3)
        assert 3 <= len(produced) <= 4, "two are ready, one is being prepared"
        assert [next(results) for _ in range(5)] == [10, 20, 30, 40, 50]
        with pytest.raises(KeyError, match="broken source"):
            next(results)


def test_prefetch_ends_with_its_context_and_closes_its_source():
    closed = []

    def endless():
        try:
            while True:
                yield 1
        finally:
            closed.append(True)

    with prefetch(endless(), lambda x: x, ahead=1) as results:
        next(results)
    assert closed == [True]


def test_prefetch_abandons_a_source_that_does_not_close(monkeypatch):
    """A source may wait for a process that hangs, and must not outlive the context."""
    monkeypatch.setattr("muskie_jax.data.prefetch.CLOSE_SECONDS", 0.1)
    abandoned, closed = threading.Event(), threading.Event()

    def stuck():
        try:
            while True:
                yield 1
        finally:
            abandoned.wait(60)
            closed.set()

    with prefetch(stuck(), lambda x: x, ahead=1, abandon=abandoned.set) as results:
        next(results)
    assert closed.wait(10) and abandoned.is_set()


def test_the_baseline_fills_with_the_mean_of_visible_pixels():
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, 2, 32, 48, 3)).astype(np.float32)
    mask = np.zeros((2, 2, 6), bool)
    mask[0, 0, [0, 2, 3]] = True
    mask[0, 1] = True  # this view has no visible patch: filled with its group's mean
    mask[1] = True  # this group has no visible patch: filled with grey
    errors = np.asarray(visible_mean_error(images, mask, 16))
    patches = np.asarray(patchify(images, 16)).reshape(2, 2, 6, 3, 256)
    mean = patches[0, 0][~mask[0, 0]].mean((0, 2))
    for view in (0, 1):
        for patch in range(6):
            expected = ((patches[0, view, patch] - mean[:, None]) ** 2).mean() * mask[0, view, patch]
            assert errors[0, view, patch] == pytest.approx(expected, rel=1e-5)
    assert errors[1, 0, 0] == pytest.approx((patches[1, 0, 0] ** 2).mean(), rel=1e-5)


def test_the_picture_shows_input_prediction_confidence_and_truth():
    images = np.full((1, 2, 32, 32, 3), -1.0)  # black
    pred, conf = np.full_like(images, 1.0), np.full_like(images, 1.0)
    mask = np.zeros((1, 2, 4), bool)
    mask[0, 1, 0] = True
    sheet = reconstruction_sheet(images, mask, pred, conf, 16)
    colours = {}
    for row, name in enumerate(("input", "prediction", "confidence", "truth")):
        y = row * (128 + 4) + 20
        colours[name] = [tuple(sheet[y, 84 + view * 132 + 20]) for view in (0, 1)]
    assert all(colour[0] == (0, 0, 0) for colour in colours.values())
    assert colours["input"][1] == (128, 128, 128) and colours["truth"][1] == (0, 0, 0)
    assert colours["prediction"][1] == (255, 255, 255) and colours["confidence"][1] == (253, 231, 37)
    assert Image.fromarray(sheet).size == (84 + 2 * 132, 4 * 132 + 12)
