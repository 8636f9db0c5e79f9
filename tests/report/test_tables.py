"""Tables: the right numbers in the right cells, best values in bold, and names escaped."""

import csv
import json
import re

import pytest

from muskie_jax.report import write
from muskie_jax.report.page import report_page
from muskie_jax.report.published import PUBLISHED
from muskie_jax.report.results_file import ModelInfo, append
from muskie_jax.report.selection import MISSING, EvalSet, shown_models, unique_titles
from muskie_jax.report.tables import Column, Row, Table
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

MEAN_COLOUR = "mean colour *(trivial baseline)*"
GAIN = Column("y", 1, "higher", margin=1)


@pytest.fixture
def written(tmp_path):
    """Returns (paths of a report, units)."""
    units = make_results(tmp_path / "evaluation")
    return write_report(tmp_path / "evaluation"), units


def markdown_tables(text):
    """Returns (section, title) -> rows of cells as a reader sees them, header first, ** kept."""
    tables, section, title = {}, "", ""
    for line in text.splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("### "):
            title = line[4:]
        elif line.startswith("|") and not line.startswith("| ---"):
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            tables.setdefault((section, title), []).append([plain(cell.strip()) for cell in cells])
    return tables


def test_titles_say_that_views_were_enlarged():
    assert str(EvalSet("desk", 128, 96, 4)) == "desk, 4 views of 128x96"
    assert str(EvalSet("desk", 128, 96, 4, enlarge=2)) == "desk, 4 views of 128x96, enlarged to 256x192"
    eight = EvalSet("desk", 128, 96, 4, orientations=8)
    assert str(eight) == "desk, 4 views of 128x96, 8 orientations"


def plain(markdown):
    """Returns what Markdown shows for a text whose only emphasis is bold."""
    unescaped = re.sub(r"\\([\\`*_\[\]|#~$])", r"\1", markdown)
    return unescaped.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def test_csv_has_every_row(written):
    paths, units = written
    with open(paths["csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [(unit, row) for unit in units for row in unit.rows]
    assert len(rows) == len(expected)
    found = {}
    for row in rows:
        found.setdefault(row["unit"], []).append(row)
    for done in units:
        for row, cells in zip(done.rows, found[done.identity], strict=True):
            if done.evaluator == "another":  # its labels and values are named like other columns
                assert (cells["name"], cells["label px_10"], cells["value kind"]) == ("=1+1", "x", "0.1")
                continue
            assert cells["model"] == done.model.name and cells["kind"] == done.model.kind
            assert cells["step"] == ("" if done.model.step is None else str(done.model.step))
            assert json.loads(cells["setting"]) == done.setting and cells["finished"] == done.finished
            for name, value in row.labels.items():
                assert cells[name] == str(value)
            for name in ("px_ate", "px_10", "cm_ate", "cm_5", "mse", "pairs", "patches"):
                value = row.values.get(name)
                assert (float(cells[name]) == value) if value is not None else cells[name] == ""


def test_comparison_has_one_row_per_model(written):
    paths, _ = written
    tables = markdown_tables(paths["markdown"].read_text())
    head, *rows = tables["Correspondence: navi, 8 views of 512x512", "Protocol: targets"]
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


def test_published_numbers_stand_only_beside_the_same_dataset_and_protocol(written):
    paths, _ = written
    tables = markdown_tables(paths["markdown"].read_text())
    papers = {key: [row for row in rows if "(paper)" in row[0]] for key, rows in tables.items()}
    assert {key for key, rows in papers.items() if rows} == {
        ("Correspondence: navi, 8 views of 512x512", "Protocol: published")
    }
    (rows,) = filter(None, papers.values())
    assert rows == [
        [f"{name} *(paper)*", MISSING, *(f"{value:.2f}" for value in values)]
        for name, values in PUBLISHED["navi"].models.items()
    ]
    _, *ours = tables["Correspondence: navi, 8 views of 512x512", "Protocol: published"][: -len(rows)]
    assert ours[-1][2] == "**17.50**" and "**2.38**" not in str(rows)  # better, but not compared


def test_best_is_chosen_among_our_rows_as_printed():
    rows = [Row(("a",), (1.004, None)), Row(("b",), (1.001, 3.0)), Row(("c",), (2.0, None))]
    paper = Row(("theirs",), (1.0, 4.0), badge="paper")
    table = Table("", ("model",), (Column("x"), Column("y", better="higher")), tuple(rows), (paper,))
    best = [
        (row.labels[0], column) for row in (*rows, paper) for column in (0, 1) if table.is_best(row, column)
    ]
    assert best == [("a", 0), ("b", 0)]  # the only y of ours has no competitor


def test_small_differences_are_not_bold():
    columns = (Column("x", 3, relative_margin=0.01), GAIN)

    def first_is_best(*rows):
        table = Table("", ("model",), columns, rows)
        return [table.is_best(rows[0], column) for column in (0, 1)]

    a, b = Row(("a",), (1.0, 5.0)), Row(("b",), (1.009, 4.2))
    assert first_is_best(a, b) == [False, False]
    assert first_is_best(a, b, a) == [False, False]
    assert first_is_best(a, Row(("b",), (1.011, 3.9))) == [True, True]
    assert first_is_best(Row(("a",), (1.0, 0.9)), Row(("b",), (1.1, -9.0))) == [True, False]  # no gain


def correspondence_of(model, second, px, **setting):
    rows = [correspondence(NAVI, "attention", "all", px)]
    return unit(second, model, "correspondence", rows, setting=setting)


def report_of(folder, *units):
    """Returns (tables, text of the page) of these units."""
    for done in units:
        append(folder / "results.jsonl", done)
    paths = write_report(folder)
    return markdown_tables(paths["markdown"].read_text()), paths["html"].read_text()


def test_results_on_other_groups_or_points_are_in_other_tables(tmp_path):
    tables, page = report_of(
        tmp_path,
        correspondence_of(LATE, 1, 20.0),  # an old result, without a question
        correspondence_of(LATE, 2, 30.0, question="b", groups=4, points=100),
        correspondence_of(DINO, 3, 40.0, question="a", groups=9, points=50),
        correspondence_of(LATE, 4, 50.0, question="a", groups=9, points=50),
        correspondence_of(DINO, 5, 60.0, question="a", groups=9, points=50),
    )
    title, other = "navi, 8 views of 512x512", ", measured earlier on other groups or points"
    late = f"{SHOWN} at 400"
    found = {key[0]: [(row[0], row[2]) for row in rows[1:]] for key, rows in tables.items()}
    assert list(found.items()) == [
        (f"Correspondence: {title} (9 groups, 50 points each)", [("DINOv2", "60.00"), (late, "**50.00**")]),
        (f"Correspondence: {title}{other} (4 groups, 100 points each, on 2026-11-22 at 20:00)",
         [(late, "30.00")]),
        (f"Correspondence: {title}{other} (12 groups, 60 points each, on 2026-11-22 at 20:00)",
         [(late, "20.00")]),
    ]  # fmt: skip
    for text in found:
        assert page.count(text.partition(": ")[2]) == 2  # its heading, and in the summary


def test_reconstruction_on_other_targets_is_in_another_table(tmp_path):
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
        of(3, "b", [reconstruction(0.4, 1, "none", references=0)]),
    )
    assert [rows[-1][3:6] for rows in tables.values()] == [
        ["0.4000", "0.2000", "0.3000"],
        [MISSING, "0.1000", "0.2000"],
    ]


def test_target_measured_only_alone_has_a_row(tmp_path):
    alone = [reconstruction(0.4, 1, "none", references=0)]
    tables, _ = report_of(tmp_path, unit(1, LATE, "reconstruction", alone))
    ((_, baseline, row),) = tables.values()
    assert row[1:] == ["1", "0", "0.4000", MISSING, MISSING, MISSING, "1000"]
    assert baseline == [MEAN_COLOUR, "1", "0", "0.0800", MISSING, MISSING, MISSING, "1000"]


@pytest.mark.parametrize("reader, named", [("scannet", "CroCo v2"), ("files", None), (None, None)])
def test_published_numbers_are_selected_by_reader(tmp_path, reader, named):
    """The name of the dataset does not matter."""
    rows = [correspondence(NAVI, "attention", "all", 20.0, protocol="published")]
    done = unit(1, LATE, "correspondence", rows, setting={"reader": reader} if reader else {})
    _, page = report_of(tmp_path, done)
    assert ("Muskie-L" in page) == (named is not None)
    assert named is None or (named in page and "8 views of 480x640, unlike ours." in page)


def test_note_explains_layers_if_a_row_has_one(tmp_path):
    patches = ModelInfo("patches", "patches")
    rows = [correspondence(NAVI, "feature", 1, 20.0)]
    note = "The layer is the one with the lowest mean error"
    assert note not in report_of(tmp_path, unit(1, patches, "correspondence", rows))[1]
    assert note in report_of(tmp_path, unit(2, DINO, "correspondence", rows))[1]


def test_report_is_rewritten_if_results_arrive_meanwhile(tmp_path, monkeypatch):
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


def test_markdown_escapes_tags(written):
    assert "<" not in written[0]["markdown"].read_text()


def test_layer_and_extra_tables(written):
    paths, _ = written
    tables = markdown_tables(paths["markdown"].read_text())
    section, beyond = "Correspondence: kitchen, 4 views of 96x128", "Not in the paper: "
    head, *rows = tables[section, "Mean error by layer (px)"]
    assert head == ["model", "predictor", "1", "2", "3"]
    late = f"{SHOWN} at 400"
    assert rows[0] == ["did not move *(trivial baseline)*", MISSING, *["100.00"] * 3]
    assert rows[-2:] == [
        [late, "attention", "40.00", "**25.00**", "30.00"],
        [late, "feature", "40.00", "**25.00**", "30.00"],
    ]
    head, *rows = tables[section, f"{beyond}Refined predictions and cycle-consistent points"]
    assert rows[-2:] == [
        ["DINOv2", "feature, layer 2", "**20.00**", "**10.00**", "**5.00**",
         "**50.00**", "**100.00**", "**100.00**", "50.0"],
        [late, "attention, all layers", "**20.00**", "**10.00**", "**5.00**",
         "**50.00**", "**100.00**", "**100.00**", "50.0"],
    ]  # fmt: skip
    assert rows[0][1:] == [MISSING, *["100.00"] * 3, *["10.00"] * 3, "100.0"], "nothing to refine or reject"
    assert rows[1][2:] == ["80.00", "40.00", "20.00", "12.50", "25.00", "50.00", "50.0"]
    head, *rows = tables[section, f"{beyond}Points within 10 px (%) by rotation between the two views"]
    assert head == ["model", "0-10°", "10-20°"]
    assert rows[0] == ["untrained (small)", "25.00", "6.25"]


def test_reconstruction_tables(written):
    paths, _ = written
    tables = markdown_tables(paths["markdown"].read_text())
    section, beyond = "Reconstruction: kitchen, 96x128, mask random 0.9", "Not in the paper: "
    _, *rows = tables[section, f"{beyond}Error on masked patches by number of views"]
    late = f"{SHOWN} at 400"
    assert rows == [
        [MEAN_COLOUR, "2", "1", "0.0800", "0.0800", "0.0800", "0.0", "1000"],
        [MEAN_COLOUR, "4", "1", "0.0800", "0.0800", "0.0800", "0.0", "1000"],
        ["untrained (small)", "2", "1", "0.2000", "0.0800", "0.0600", "-33.3", "1000"],
        ["untrained (small)", "4", "1", "0.2000", "0.0400", "0.0600", "33.3", "1000"],
        [late, "2", "1", "**0.0750**", "**0.0300**", "0.0600", "**50.0**", "1000"],
        [late, "4", "1", "**0.0750**", "**0.0150**", "0.0600", "**75.0**", "1000"],
    ]  # those without a reference view are only on the page
    head, *rows = tables[
        section, f"{beyond}Gain from views of the same scene (%) by overlap with the target"
    ]
    assert head[3:] == ["0.3-0.6"] and rows[-1] == [late, "4", "1", "20.0"]


def latex_rows(text):
    """Returns the cells of all rows of all tables."""
    return [row[:-3].split(" & ") for row in text.splitlines() if row.endswith(r" \\")]


def test_latex_has_the_same_numbers_and_escapes_names(written):
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
    # Braces balance, no stray comment, and as many cells as columns.
    bare = re.sub(r"\\[\\&%$#_{}]", "", text)
    assert bare.count("{") == bare.count("}") and not re.search(r"(?<!\\)%", text.split("\n", 1)[1])
    for table in re.findall(r"\\begin{tabular}{(\w+)}\n(.*?)\\end{tabular}", text, re.DOTALL):
        assert {len(row) for row in latex_rows(table[1])} == {len(table[0])}
    assert text.isprintable() or set(filter(lambda c: not c.isprintable(), text)) == {"\n"}


def test_shown_models_are_the_latest_checkpoint_and_the_untrained_one():
    start = LATE._replace(name="start", step=0)
    assert shown_models([EARLY, LATE, start, STILL, UNTRAINED, DINO]) == [
        STILL,
        start,
        UNTRAINED,
        DINO,
        LATE,
    ]
    assert shown_models([EARLY, DINO]) == [DINO, EARLY]


def test_models_of_one_name_get_unique_titles():
    same = [ModelInfo("a", "muskie", step, "runs/a", digest=f"{step}" * 64) for step in (0, 3)]
    same += [same[1]._replace(digest="b" * 64), ModelInfo("b", "mae")]
    assert sorted(unique_titles(same).values()) == [
        "a, step 0",
        "a, step 3, 33333333",
        "a, step 3, bbbbbbbb",
        "b",
    ]
    assert HOSTILE in unique_titles([LATE])[LATE]
