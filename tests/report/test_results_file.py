"""Results files: round trip, lines cut off by a kill, damaged lines, names of earlier versions."""

import json
import math

import pytest

from muskie_jax.errors import UserError
from muskie_jax.evaluators.results import ResultRow
from muskie_jax.report.results_file import FigureFile, append, read
from muskie_tests.results import DINO, STILL, unit

ROW = ResultRow({"dataset": "navi", "layer": 3, "mask": None}, {"px_ate": 0.1 + 0.2, "pairs": 700})
FIGURE = FigureFile("figures/a.jpg", "tracks", {"views": 4}, "A caption.\nüber two lines")


def test_round_trip(tmp_path):
    written = [unit(1, DINO, "correspondence", [ROW], [FIGURE]), unit(2, STILL, "correspondence")]
    for done in written:
        append(tmp_path / "results.jsonl", done)
    assert read(tmp_path) == written
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2


def test_values_that_are_not_finite_are_missing(tmp_path):
    values = {"a": math.nan, "b": math.inf, "c": 1.5}
    append(tmp_path / "results.jsonl", unit(1, DINO, "x", [ResultRow({}, values)]))
    line = json.loads((tmp_path / "results.jsonl").read_text(), parse_constant=pytest.fail)
    assert line["rows"][0]["values"] == {"a": None, "b": None, "c": 1.5}
    assert read(tmp_path)[0].rows[0].values == {"c": 1.5}


@pytest.mark.parametrize("cut", ['{"unit": "2', '{"unit": "2"}'[:-1], '{"caption": "\xc3'])
def test_an_incomplete_last_line_is_skipped_and_then_removed(tmp_path, cut):
    path = tmp_path / "results.jsonl"
    append(path, unit(1, DINO, "x"))
    complete = path.read_bytes()
    path.write_bytes(complete + cut.encode("latin-1"))
    assert [done.identity for done in read(tmp_path)] == ["0001"]
    append(path, unit(2, DINO, "x"))
    assert [done.identity for done in read(tmp_path)] == ["0001", "0002"]
    assert path.read_bytes().startswith(complete) and len(path.read_bytes().splitlines()) == 2


def test_a_complete_line_without_its_newline_counts_and_stays(tmp_path):
    path = tmp_path / "results.jsonl"
    append(path, unit(1, DINO, "x"))
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert len(read(tmp_path)) == 1
    append(path, unit(2, DINO, "x"))
    assert [done.identity for done in read(tmp_path)] == ["0001", "0002"]


@pytest.mark.parametrize("first, second", [("results.jsonl", "results.1.jsonl"), ("results.jsonl",) * 2])
@pytest.mark.parametrize("later_first", [True, False])
def test_of_equal_units_the_one_that_finished_last_counts(tmp_path, first, second, later_first):
    early, late = (unit(1, DINO, "x", finished=f"2026-11-22T20:00:0{second}Z") for second in (1, 2))
    pair = (late, early) if later_first else (early, late)
    for name, done in zip((first, second), pair):
        append(tmp_path / name, done)
    assert read(tmp_path) == [late]


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '"text"', '{"unit": "1", "model": {"name": "a"}, "evaluator": "x", "rows": []}', "\0"],
)
def test_damaged_lines_are_named(tmp_path, line):
    path = tmp_path / "results.3.jsonl"
    append(path, unit(1, DINO, "x"))
    path.write_text(path.read_text() + line + "\n")
    append(path, unit(2, DINO, "x"))
    with pytest.raises(UserError, match=r"results\.3\.jsonl:2 is not a line of results"):
        read(tmp_path)


def test_keys_in_the_file_are_those_of_the_first_version(tmp_path):
    append(tmp_path / "results.jsonl", unit(1, DINO, "x", [ROW], [FIGURE]))
    line = json.loads((tmp_path / "results.jsonl").read_text())
    assert list(line) == [
        *("unit", "model", "evaluator", "setting", "rows", "figures"),
        *("seconds", "finished", "device", "version"),
    ]
    model = ["name", "kind", "step", "source", "parameters", "digest"]
    assert list(line["model"]) == [*model, "layers"], "the last is newer"


def test_names_of_earlier_versions_are_translated(tmp_path):
    labels = {"context": "stranger", "dataset": "stranger"}
    old = unit(1, DINO, "reconstruction", [ResultRow(labels, {"mse": 0.5})], setting={"strangers": ["a 1"]})
    append(tmp_path / "results.jsonl", old)
    (done,) = read(tmp_path)
    assert done.setting["distractors"] == ["a 1"] and "strangers" not in done.setting
    assert done.rows[0].labels == {"context": "distractor", "dataset": "stranger"}


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_folder_without_results_is_an_error(tmp_path, name):
    with pytest.raises(UserError, match="has no results .* run the job evaluate"):
        read(tmp_path / name)
