"""Intervals by bootstrap over groups, and what they change: bold, notes and the CSV file."""

import csv

import numpy as np
import pytest

from muskie_jax.evaluators.results import ResultRow
from muskie_jax.report import intervals
from muskie_jax.report.intervals import interval, may_be_equal, resample
from muskie_jax.report.results_file import ModelInfo, append, read
from muskie_jax.report.write import write_report
from muskie_tests.results import LATE, NAVI, STILL, correspondence, reconstruction, unit

OTHER = ModelInfo("other", "muskie", 400, "runs/other", 22_000_000, "ab" * 32)
GROUPS = 12
SPREAD = np.linspace(-1, 1, GROUPS)


def by_group(means, weights=None):
    weights = np.full(len(means), 10) if weights is None else weights
    return {"pairs": [int(x) for x in weights], "px_ate": [float(x) for x in means]}


def correspondence_unit(number, model, means, predictor="attention"):
    row = correspondence(NAVI, predictor, "all", float(np.mean(means)))
    return unit(number, model, "correspondence", [row._replace(by_group=by_group(means))])


def reconstruction_unit(number, model, errors, filled):
    """A model's errors with views of the same scene and with distractors, and the mean colour's."""
    rows = []
    for context, worse in (("own", 1.0), ("distractor", 2.0)):
        row = reconstruction(float(np.mean(errors)) * worse, 4, context)
        groups = {
            "mse": (worse * np.array(errors)).tolist(),
            "baseline_mse": list(filled),
            "patches": [10] * GROUPS,
        }
        values = row.values | {"baseline_mse": float(np.mean(filled))}
        rows.append(ResultRow(row.labels, values, groups))
    return unit(number, model, "reconstruction", rows)


def report_of(folder, *units):
    for each in units:
        append(folder / "results.jsonl", each)
    return {kind: path.read_text() for kind, path in write_report(folder).items()}


def row_of(markdown, name):
    """Returns the cells of the first row of a model."""
    line = next(line for line in markdown.splitlines() if line.startswith(f"| {name}"))
    return [cell.strip().replace("\\", "") for cell in line.split("|")[1:-1]]


def test_the_interval_covers_the_mean_of_independent_groups():
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(200):
        low, high = interval(resample(by_group(rng.normal(5, 2, 30)), "px_ate"))
        covered.append(low <= 5 <= high)
    assert 0.88 <= np.mean(covered) <= 0.98


def test_resampled_metrics_are_weighted_means_and_the_same_every_time():
    weights = np.arange(1, GROUPS + 1)
    found = resample(by_group(SPREAD, weights), "px_ate")
    assert found.shape == (intervals.RESAMPLES,)
    assert found.mean() == pytest.approx(np.average(SPREAD, weights=weights), abs=0.03)
    np.testing.assert_array_equal(resample(by_group(SPREAD, weights), "px_ate"), found)
    # A group without pairs has no metric, and does not count.
    gap = {"pairs": [*weights.tolist(), 0], "px_ate": [*SPREAD, None]}
    assert np.isfinite(resample(gap, "px_ate")).all()


def test_few_groups_have_no_interval_and_cannot_be_distinguished():
    enough, better = resample(by_group(SPREAD[:6]), "px_ate"), resample(by_group(SPREAD - 1), "px_ate")
    assert interval(enough) is not None and not may_be_equal(resample(by_group(SPREAD), "px_ate"), better)
    for few in (by_group(SPREAD[:5]), by_group(SPREAD, [10] * 5 + [0] * 7)):
        found = resample(few, "px_ate")
        assert interval(found) is None and may_be_equal(found, better)
    assert resample({}, "px_ate") is None and resample(by_group(SPREAD), "px_10") is None
    assert resample(by_group(SPREAD), "pairs") is None, "a weight"


def test_differences_are_paired():
    """Groups differ by much more than models do."""
    hard = 20 * np.arange(GROUPS) + 20.0
    base, better = resample(by_group(hard), "px_ate"), resample(by_group(hard - 1), "px_ate")
    assert interval(better)[1] > interval(base)[0], "the intervals overlap"
    assert not may_be_equal(base, better) and may_be_equal(base, base)
    assert may_be_equal(base, resample(by_group(hard + SPREAD), "px_ate"))
    assert not may_be_equal(base, None)


def test_old_results_have_no_intervals(tmp_path):
    done = unit(1, OTHER, "correspondence", [correspondence(NAVI, "attention", "all", 20.0)])
    texts = report_of(tmp_path, done)
    assert "by_group" not in (tmp_path / "results.jsonl").read_text() and read(tmp_path) == [done]
    assert row_of(texts["markdown"], "other")[2] == "20.00"
    assert "Brackets" not in texts["html"] and "px_ate low" not in texts["csv"]


def test_results_files_keep_the_metrics_of_groups(tmp_path):
    done = correspondence_unit(1, OTHER, np.round(20 + SPREAD, 3))
    append(tmp_path / "results.jsonl", done)
    assert read(tmp_path) == [done]


def test_every_format_has_intervals(tmp_path):
    texts = report_of(
        tmp_path,
        correspondence_unit(1, OTHER, 20 + SPREAD),
        correspondence_unit(2, STILL, 40 + SPREAD, "still"),
    )
    low, high = interval(resample(by_group(20 + SPREAD), "px_ate"))
    assert 19 < low < 19.8 and 20.2 < high < 21
    ends = f"[{low:.2f}, {high:.2f}]"
    assert row_of(texts["markdown"], "other")[2:4] == [f"**20.00** {ends}", "**25.00**"]
    assert f'20.00<span class="interval">{ends}</span></td>' in texts["html"]
    assert f"\\textbf{{20.00}} {{\\scriptsize {{[}}{low:.2f}, {high:.2f}{{]}}}}" in texts["latex"]
    assert "Brackets: 95% interval" in texts["markdown"] and "Not distinguishable" not in texts["markdown"]
    (row, _) = csv.DictReader(texts["csv"].splitlines())
    assert (float(row["px_ate low"]), float(row["px_ate high"])) == pytest.approx((low, high))


def test_models_that_cannot_be_distinguished_are_named_and_not_bold(tmp_path):
    texts = report_of(
        tmp_path,
        correspondence_unit(1, OTHER, 20 + SPREAD),
        correspondence_unit(2, LATE._replace(name="late"), 20.1 - SPREAD),
        correspondence_unit(3, STILL, 40 + SPREAD, "still"),
    )
    (row, note) = row_of(texts["markdown"], "other"), "groups have a value): "
    assert row[2].startswith("20.00 [") and f"{note}late and other (px ATE)." in texts["markdown"]
    assert f"{note}late and other (px ATE)." in texts["html"] and f"{note}late and" in texts["latex"]
    assert "next is late at 20.1 px, not distinguishable from it" in texts["html"]


def test_few_groups_are_one_sentence(tmp_path):
    few = SPREAD[:5]
    texts = report_of(
        tmp_path,
        correspondence_unit(1, OTHER, 20 + few),
        correspondence_unit(2, STILL, 40 + few, "still"),
    )
    assert "With fewer than 6 groups, models cannot be distinguished" in texts["markdown"]
    assert "Not distinguishable" not in texts["markdown"] and "**20" not in texts["markdown"]


@pytest.mark.parametrize(
    "network, is_bold", [(40 + 2 * SPREAD, False), (39.9 - SPREAD, False), (38 + SPREAD, True)]
)
def test_only_a_model_that_beats_the_trivial_baseline_is_bold(tmp_path, network, is_bold):
    texts = report_of(
        tmp_path,
        correspondence_unit(1, OTHER, network),
        correspondence_unit(2, OTHER._replace(name="worse", source="w"), 60 + SPREAD),
        correspondence_unit(3, STILL, 40 + SPREAD, "still"),
    )
    cells = [row_of(texts["markdown"], name)[2] for name in ("other", "worse", "did not move")]
    assert [cell.startswith("**") for cell in cells] == [is_bold, False, False]
    assert ("no trained model" in texts["html"]) != is_bold


@pytest.mark.parametrize("scale, is_bold", [(1.3, False), (1.0, False), (0.5, True)])
def test_a_model_that_loses_to_the_mean_colour_is_not_bold(tmp_path, scale, is_bold):
    """Its gain from views of the same scene is 50% in any case."""
    filled = (0.08 + 0.01 * SPREAD).tolist()
    texts = report_of(
        tmp_path,
        reconstruction_unit(1, OTHER, (scale * np.array(filled)).tolist(), filled),
        reconstruction_unit(2, OTHER._replace(name="worse", source="w"), [0.2] * GROUPS, filled),
    )
    cells = [row_of(texts["markdown"], name) for name in ("other", "worse", "mean colour")]
    found = [[cell.startswith("**") for cell in row[3:7]] for row in cells]
    assert found == [[False, is_bold, False, False], [False] * 4, [False] * 4]
    assert cells[2][4].startswith("0.0800 [0.0") and cells[2][6] == "0.0 [0.0, 0.0]"
    assert ("no lower than that of the mean colour" in texts["html"]) == (not is_bold)


def test_scenes_of_training_are_named(tmp_path):
    done = correspondence_unit(1, OTHER, 20 + SPREAD)
    texts = report_of(tmp_path, done._replace(setting=done.setting | {"training_groups": 9}))
    sentence = "Evaluated on scenes of their own training: other (9 of 12 groups)."
    assert texts["html"].count(sentence) == 2 and sentence in texts["markdown"]
