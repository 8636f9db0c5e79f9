"""Results without depth have tables of their own, never mixed with errors in pixels."""

import pytest

from muskie_jax.evaluators.results import ResultRow
from muskie_jax.report.results_file import ModelInfo, append
from muskie_jax.report.write import write_report
from muskie_tests.results import STILL, UNTRAINED, correspondence, unit

TRAINED = ModelInfo("ours", "muskie", 100, "runs/ours", 22_000_000, "aa" * 32)
PARK = {"dataset": "park", "height": 96, "width": 128, "views": 4}


def epipolar(predictor, layer, mean, points="all", pairs=600, left_out=200):
    values = {"epipolar_mean": mean} | {f"epipolar_{t}": min(100.0, 100 * t / mean) for t in (2, 5, 10)}
    values |= {"random_mean": 40.0, "random_10": 12.0, "pairs": pairs, "left_out": left_out}
    labels = {
        "predictor": predictor,
        "layer": layer,
        "protocol": "targets",
        "angle": "all",
        "points": points,
    }
    return ResultRow(PARK | labels, values)


@pytest.fixture
def tables(tmp_path):
    """The text of the Markdown tables, and of the page."""
    rows = [
        epipolar("attention", "all", 6.25),
        epipolar("feature", 2, 5.0),
        epipolar("attention+refined", "all", 3.5),
        epipolar("attention", "all", 2.5, "cycle", 150),
    ]
    units = [
        unit(0, STILL, "epipolar", [epipolar("still", "all", 20.0)]),
        unit(1, UNTRAINED, "epipolar", [epipolar("attention", "all", 30.0)]),
        unit(2, TRAINED, "epipolar", rows),
        unit(3, STILL, "correspondence", [correspondence(PARK, "still", "all", 77.0, 8.0)]),
    ]
    for each in units:
        append(tmp_path / "results.jsonl", each)
    paths = write_report(tmp_path)
    return paths["markdown"].read_text(), paths["html"].read_text()


def test_tables_are_labelled_and_separate(tables):
    markdown, page = tables
    parts = markdown.split("\n## ")
    (pixels,) = (part for part in parts if part.startswith("Correspondence: "))
    (lines,) = (
        part for part in parts if part.startswith("Correspondence without depth: epipolar distance")
    )
    assert "77.00" in pixels and "ours" not in pixels and "77.00" not in lines
    assert "| ours | attention, all layers | **6.25** |" in lines and "mean px to line" in lines
    assert "ATE" not in lines.split("Symmetric epipolar distance")[0]
    assert "do not compare it with ATE" in lines
    assert "Random positions have a mean of 40.0 px, and 12% are within 10 px." in lines
    assert "25% of the pairs of a point and a view are left out" in lines
    assert "| ours | attention, all layers | refined | 3.50 |" in lines
    assert "| ours | attention, all layers | consistent | 2.50 |" in lines and "| 25.0 |" in lines
    assert "Correspondence without depth" in page


def test_the_summary_compares_with_baselines_and_chance(tables):
    _, page = tables
    assert "the mean epipolar distance is lowest for ours at 6.2 px." in page
    assert "did not move at 20.0 px" in page and "random positions at 40.0 px" in page
