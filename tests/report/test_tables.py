"""Tables: the right number in the right cell, the best bold, nothing invented, nobody's name a command."""

import csv
import json
import re

import pytest

from muskie_jax.report import write
from muskie_jax.report.page import report_page
from muskie_jax.report.published import PUBLISHED
from muskie_jax.report.results_file import ModelInfo, append
from muskie_jax.report.selection import MISSING, shown, titles
from muskie_jax.report.tables import Column, Line, Table
from muskie_jax.report.write import write_report
from muskie_tests.results import (
    DINO,
    EARLY,
    HOSTILE,
    LATE,
    NAVI,
    SHOWN,
    STILL,
    UNTRAINED,
    correspondence,
    make_results,
    reconstruction,
    unit,
)

GAIN = Column("y", 1, "more", margin=1)


@pytest.fixture
def written(tmp_path):
    """(paths of a report, units)"""
    units = make_results(tmp_path / "evaluation")
    return write_report(tmp_path / "evaluation"), units


def markdown_tables(text):
    """(part and place, title) -> rows of cells as a reader sees them, the head first, ** kept."""
    tables, place, title = {}, "", ""
    for line in text.splitlines():
        if line.startswith("## "):
            place = line[3:]
        elif line.startswith("### "):
            title = line[4:]
        elif line.startswith("|") and not line.startswith("| ---"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            tables.setdefault((place, title), []).append([plain(cell.strip()) for cell in cells])
    return tables


def plain(markdown):
    """What Markdown shows for a text without emphasis other than bold."""
    unescaped = re.sub(r"\\([\\`*_\[\]|#~$])", r"\1", markdown)
    return unescaped.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def test_csv_has_every_row_exactly(written):
    paths, units = written
    with open(paths["csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [(unit, row) for unit in units for row in unit.rows]
    assert len(rows) == len(expected)
    found = {}
    for row in rows:
        found.setdefault(row["unit"], []).append(row)
    for done in units:
        for row, said in zip(done.rows, found[done.identity], strict=True):
            if done.evaluator == "another":  # its names are those of other columns
                assert (said["name"], said["label px_10"], said["value kind"]) == ("=1+1", "x", "0.1")
                continue
            assert said["model"] == done.model.name and said["kind"] == done.model.kind
            assert said["step"] == ("" if done.model.step is None else str(done.model.step))
            assert json.loads(said["setting"]) == done.setting and said["finished"] == done.finished
            for name, value in row.labels.items():
                assert said[name] == str(value)
            for name in ("px_ate", "px_10", "cm_ate", "cm_5", "mse", "pairs", "patches"):
                value = row.values.get(name)
                assert (float(said[name]) == value) if value is not None else said[name] == ""


def test_the_comparison_has_a_line_for_each_model_by_its_default_predictor(written):
    paths, _ = written
    tables = markdown_tables(paths["markdown"].read_text())
    head, *rows = tables["Correspondence: navi, 8 views of 512x512", "Protocol targets"]
    assert head == ["model", "predictor", "px ATE", "@5 px", "@10 px", "cm ATE", "@2 cm", "@5 cm"]
    late = f"{SHOWN} at 400"
    assert rows == [
        ["did not move *(trivial baseline)*", MISSING, "100.00", "5.00", "10.00", "50.00", "0.40", "1.00"],
        ["untrained (small)", "attention, all layers",
         "80.00", "6.25", "12.50", "30.00", "0.67", "1.67"],
        ["DINOv2", "feature, layer 2", "**20.00**", "**25.00**", "**50.00**", MISSING, MISSING, MISSING],
        [late, "attention, all layers",
         "**20.00**", "**25.00**", "**50.00**", "**6.00**", "**3.33**", "**8.33**"],
    ]  # fmt: skip


def test_published_numbers_stand_beside_ours_of_their_dataset_and_protocol_alone(written):
    paths, _ = written
    tables = markdown_tables(paths["markdown"].read_text())
    papers = {key: [row for row in rows if "(paper)" in row[0]] for key, rows in tables.items()}
    assert {key for key, rows in papers.items() if rows} == {
        ("Correspondence: navi, 8 views of 512x512", "Protocol published")
    }
    (rows,) = filter(None, papers.values())
    assert rows == [
        [f"{name} *(paper)*", MISSING, *(f"{value:.2f}" for value in values)]
        for name, values in PUBLISHED["navi"].models.items()
    ]
    _, *ours = tables["Correspondence: navi, 8 views of 512x512", "Protocol published"][: -len(rows)]
    assert ours[-1][2] == "**17.50**" and "**2.38**" not in str(rows)  # theirs is better, and not compared


def test_only_ours_are_compared_and_only_what_differs_in_print():
    lines = [Line(("a",), (1.004, None)), Line(("b",), (1.001, 3.0)), Line(("c",), (2.0, None))]
    paper = Line(("theirs",), (1.0, 4.0), tag="paper")
    table = Table("", ("model",), (Column("x"), Column("y", better="more")), tuple(lines), (paper,))
    best = [
        (line.heads[0], number)
        for line in (*lines, paper)
        for number in (0, 1)
        if table.is_best(line, number)
    ]
    assert best == [("a", 0), ("b", 0)]  # nothing else has a y


def test_what_differs_too_little_is_not_bold():
    lines = [Line((name,), (error, gained)) for name, error, gained in (("a", 1.0, 5.0), ("b", 1.009, 4.2))]
    clear = lambda *lines: [
        table.is_best(lines[0], number)
        for table in [Table("", ("model",), (Column("x", 3, share=0.01), GAIN), lines)]
        for number in (0, 1)
    ]
    assert clear(*lines) == [False, False]
    assert clear(lines[0], lines[1], lines[0]) == [False, False]
    assert clear(lines[0], Line(("b",), (1.011, 3.9))) == [True, True]
    assert clear(Line(("a",), (1.0, 0.9)), Line(("b",), (1.1, -9.0))) == [True, False]  # no gain


def correspondence_of(model, second, px, **setting):
    rows = [correspondence(NAVI, "attention", "all", px)]
    return unit(second, model, "correspondence", rows, setting=setting)


def report_of(folder, *units):
    """(tables, text of the page) of these units."""
    for done in units:
        append(folder / "results.jsonl", done)
    paths = write_report(folder)
    return markdown_tables(paths["markdown"].read_text()), paths["html"].read_text()


def test_answers_to_several_questions_are_not_in_one_table(tmp_path):
    tables, page = report_of(
        tmp_path,
        correspondence_of(LATE, 1, 20.0),  # before there were questions
        correspondence_of(LATE, 2, 30.0, question="b", groups=4, points=100),
        correspondence_of(DINO, 3, 40.0, question="a", groups=9, points=50),
        correspondence_of(LATE, 4, 50.0, question="a", groups=9, points=50),
        correspondence_of(DINO, 5, 60.0, question="a", groups=9, points=50),
    )
    place, other = "navi, 8 views of 512x512", ", measured on other groups or points"
    late = f"{SHOWN} at 400"
    found = {key[0]: [(row[0], row[2]) for row in rows[1:]] for key, rows in tables.items()}
    assert list(found.items()) == [
        (f"Correspondence: {place} (9 groups, 50 points each)", [("DINOv2", "60.00"), (late, "**50.00**")]),
        (f"Correspondence: {place}{other} (4 groups, 100 points each, on 2026-11-22 at 20:00)",
         [(late, "30.00")]),
        (f"Correspondence: {place}{other} (12 groups, 60 points each, on 2026-11-22 at 20:00)",
         [(late, "20.00")]),
    ]  # fmt: skip
    for text in found:
        assert page.count(text.partition(": ")[2]) == 2  # its title, and in the summary


def test_reconstruction_asked_in_several_ways(tmp_path):
    rows = lambda *errors: [
        reconstruction(error, 2, context) for error, context in zip(errors, ("own", "distractor"))
    ]
    of = lambda second, question, rows: unit(
        second, LATE, "reconstruction", rows, setting={"question": question}
    )
    tables, _ = report_of(
        tmp_path,
        of(1, "a", rows(0.1, 0.2)),
        of(2, "b", rows(0.2, 0.3)),
        of(3, "b", [reconstruction(0.4, 1, "none", whole=0)]),
    )
    assert [rows[1][3:6] for rows in tables.values()] == [
        ["0.4000", "0.2000", "0.3000"],
        [MISSING, "0.1000", "0.2000"],
    ]


def test_a_target_that_was_only_measured_alone_has_a_line(tmp_path):
    alone = [reconstruction(0.4, 1, "none", whole=0)]
    tables, _ = report_of(tmp_path, unit(1, LATE, "reconstruction", alone))
    ((_, row),) = tables.values()
    assert row[1:] == ["1", "0", "0.4000", MISSING, MISSING, MISSING, "0.0800", "1000"]


@pytest.mark.parametrize("reader, named", [("scannet", "CroCo v2"), ("files", None), (None, None)])
def test_the_papers_numbers_are_those_of_the_reader(tmp_path, reader, named):
    """Whatever the dataset is called."""
    rows = [correspondence(NAVI, "attention", "all", 20.0, protocol="published")]
    done = unit(1, LATE, "correspondence", rows, setting={"reader": reader} if reader else {})
    _, page = report_of(tmp_path, done)
    assert ("Muskie-L" in page) == (named is not None)
    assert named is None or (named in page and "8 views of 480x640, which is not how ours" in page)


def test_a_layer_is_explained_where_one_is_named(tmp_path):
    patches = ModelInfo("patches", "patches")
    rows = [correspondence(NAVI, "feature", 1, 20.0)]
    note = "A layer is the one with the least mean error"
    assert note not in report_of(tmp_path, unit(1, patches, "correspondence", rows))[1]
    assert note in report_of(tmp_path, unit(2, DINO, "correspondence", rows))[1]


def test_a_report_is_written_again_if_results_came_meanwhile(tmp_path, monkeypatch):
    append(tmp_path / "results.jsonl", correspondence_of(LATE, 1, 20.0))
    late = iter([correspondence_of(DINO, 2, 77.0)])

    def page(*args):
        for done in late:
            append(tmp_path / "results.1.jsonl", done)
        calls.append(args)
        return report_page(*args)

    calls = []
    monkeypatch.setattr(write, "report_page", page)
    assert "77.0" in write_report(tmp_path)["html"].read_text() and len(calls) == 2


def test_markdown_has_no_tags_of_others(written):
    assert "<" not in written[0]["markdown"].read_text()


def test_layers_and_our_extras(written):
    paths, _ = written
    tables = markdown_tables(paths["markdown"].read_text())
    place, ours = "Correspondence: kitchen, 4 views of 96x128", "Ours, beyond the paper: "
    head, *rows = tables[place, "Mean error by layer, px"]
    assert head == ["model", "predictor", "1", "2", "3"]
    late = f"{SHOWN} at 400"
    assert rows[-2:] == [
        [late, "attention", "40.00", "**25.00**", "30.00"],
        [late, "feature", "40.00", "**25.00**", "30.00"],
    ]
    head, *rows = tables[place, f"{ours}Refined, and points that are consistent"]
    assert rows[-2:] == [
        ["DINOv2", "feature, layer 2", "**20.00**", "**10.00**", "**5.00**",
         "**50.00**", "**100.00**", "**100.00**", "50.0"],
        [late, "attention, all layers", "**20.00**", "**10.00**", "**5.00**",
         "**50.00**", "**100.00**", "**100.00**", "50.0"],
    ]  # fmt: skip
    assert rows[0][2:] == ["80.00", "40.00", "20.00", "12.50", "25.00", "50.00", "50.0"]
    head, *rows = tables[place, f"{ours}Points within 10 px, %, by rotation between the two views"]
    assert head == ["model", "0-10°", "10-20°"]
    assert rows[0] == ["untrained (small)", "25.00", "6.25"]


def test_reconstruction_with_the_own_scene_and_a_distractors(written):
    paths, _ = written
    tables = markdown_tables(paths["markdown"].read_text())
    place, ours = "Reconstruction: kitchen, 96x128, hidden: random 0.9", "Ours, beyond the paper: "
    _, *rows = tables[place, f"{ours}Error on hidden patches by number of views"]
    late = f"{SHOWN} at 400"
    assert rows == [
        ["untrained (small)", "2", "1", "0.2000", "0.0800", "0.0600", "-33.3", "0.0800", "1000"],
        ["untrained (small)", "4", "1", "0.2000", "0.0400", "0.0600", "33.3", "0.0800", "1000"],
        [late, "2", "1", "**0.0750**", "**0.0300**", "0.0600", "**50.0**", "0.0800", "1000"],
        [late, "4", "1", "**0.0750**", "**0.0150**", "0.0600", "**75.0**", "0.0800", "1000"],
    ]  # and not those without a whole view
    head, *rows = tables[
        place, f"{ours}Gain from views of the own scene, %, by their overlap with the hidden view"
    ]
    assert head[3:] == ["0.3-0.6"] and rows[-1] == [late, "4", "1", "20.0"]  # both


def latex_rows(text):
    """Cells of all rows of all tables."""
    return [row[:-3].split(" & ") for row in text.splitlines() if row.endswith(r" \\")]


def test_latex_has_the_same_numbers_and_survives_names(written):
    paths, _ = written
    text = paths["latex"].read_text()
    rows = latex_rows(text)
    assert ["DINOv2", "feature, layer 2", r"\textbf{20.00}", r"\textbf{25.00}", r"\textbf{50.00}",
            "--", "--", "--"] in rows  # fmt: skip
    assert [r"Muskie-L (paper)", "--", "29.42", "22.29", "39.21", "2.38", "82.74", "91.87"] in rows
    (first, *_) = [row[0] for row in rows if "nope" in row[0]]
    assert r"\textless{}script\textgreater{}nope()" in first and r"\& " in first
    assert r" {*}b{*} \$x\_1\$ \textbackslash{}y\{\%\} ü \textbackslash{}u202e" in first
    untrained = [row for row in rows if row[0] == "untrained (small)"]
    assert any("$-$33.3" in row for row in untrained)
    # Nothing that LaTeX would take for a command of its own, and as many cells as columns.
    bare = re.sub(r"\\[\\&%$#_{}]", "", text)
    assert bare.count("{") == bare.count("}") and not re.search(r"(?<!\\)%", text.split("\n", 1)[1])
    for table in re.findall(r"\\begin{tabular}{(\w+)}\n(.*?)\\end{tabular}", text, re.DOTALL):
        assert {len(row) for row in latex_rows(table[1])} == {len(table[0])}
    assert text.isprintable() or set(filter(lambda c: not c.isprintable(), text)) == {"\n"}


def test_of_a_runs_checkpoints_the_latest_is_shown_and_the_untrained_one():
    start = LATE._replace(name="start", step=0)
    assert shown([EARLY, LATE, start, STILL, UNTRAINED, DINO]) == [STILL, start, UNTRAINED, DINO, LATE]
    assert shown([EARLY, DINO]) == [DINO, EARLY]


def test_models_of_one_name_are_told_apart():
    same = [ModelInfo("a", "muskie", step, "runs/a", digest=f"{step}" * 64) for step in (0, 3)]
    same += [same[1]._replace(digest="b" * 64), ModelInfo("b", "mae")]
    assert sorted(titles(same).values()) == ["a, step 0", "a, step 3, 33333333", "a, step 3, bbbbbbbb", "b"]
    assert HOSTILE in titles([LATE])[LATE]
