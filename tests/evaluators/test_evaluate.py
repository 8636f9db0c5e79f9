"""The job `evaluate`: units of work that are done once, by one host or several, and a report."""

import json
import pathlib

import pytest

import muskie_jax.evaluators.models
from conftest import ROOT
from muskie_jax import evaluate as job
from muskie_jax.config import default_config, posed, validate
from muskie_jax.config_file import load_config
from muskie_jax.data.posed.settings import PROTOCOLS
from muskie_jax.errors import UserError
from muskie_jax.evaluate import evaluate
from muskie_jax.evaluators.results import ResultRow
from muskie_tests import posed_trees
from muskie_tests.commands import call_module, complaint_of

READERS = list(PROTOCOLS)


def shipped(path):
    return load_config(ROOT / path)


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Six views of a desk, with depth and cameras."""
    root = tmp_path_factory.mktemp("recordings")
    posed_trees.cameras(root)
    return root


def config_for(root, *models, **sweep):
    config = default_config()
    config.job = "evaluate"
    config.posed.desk = posed("cameras", str(root), select="consecutive", groups=2)
    config.evaluate.update({"models": models, "sizes": ((32, 48),), "views": (3,), "points": 20} | sweep)
    config.evaluate.reconstruction.update({"views": (1, 2), "modes": (("random", 0.5),), "groups": 2})
    return config


def lines_of(folder):
    return [json.loads(line) for path in sorted(folder.glob("results*.jsonl")) for line in path.open()]


def figures_of(lines):
    """What was measured, by what it is about, without times."""
    return {line["unit"]: (line["model"], line["rows"]) for line in lines}


MODELS = ("untrained:nano", "still", "patches")


@pytest.fixture(scope="module")
def whole(desk, tmp_path_factory):
    """A sweep that was not disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, evaluate(config_for(desk, *MODELS), folder)


def test_every_model_by_every_evaluator_that_can(whole):
    folder, result = whole
    lines = lines_of(folder)
    units = [(line["model"]["name"], line["evaluator"], line["setting"]["views"]) for line in lines]
    assert units == [
        ("untrained (nano)", "correspondence", 3),
        ("untrained (nano)", "reconstruction", 1),
        ("untrained (nano)", "reconstruction", 2),
        ("still", "correspondence", 3),
        ("patches", "correspondence", 3),
    ]
    assert result["units"] == result["done"] == len(lines)
    assert lines[0]["model"]["step"] == 0 and lines[0]["model"]["parameters"] > 1e5
    assert len(lines[0]["model"]["digest"]) == 16
    for line in lines:
        for figure in line["figures"]:
            assert (folder / figure["file"]).stat().st_size > 1000
    assert {figure["kind"] for line in lines for figure in line["figures"]} == {
        *("tracks", "features", "reconstruction")
    }
    for name in ("csv", "markdown", "latex", "html"):
        assert pathlib.Path(result[name]).stat().st_size > 100
    assert "untrained (nano)" in pathlib.Path(result["html"]).read_text()


def test_what_is_done_is_not_done_again(whole, desk, monkeypatch):
    folder, _ = whole
    before = (folder / "results.jsonl").read_text()
    monkeypatch.setattr(muskie_jax.evaluators.models, "build_model", None)  # nothing is loaded
    result = evaluate(config_for(desk, *MODELS), folder)
    assert (result["units"], result["done"]) == (5, 0)
    assert (folder / "results.jsonl").read_text() == before


def test_a_killed_sweep_goes_on(whole, desk, tmp_path):
    folder, _ = whole
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "results.jsonl").write_text("".join(lines[:3]) + lines[3][:50])
    result = evaluate(config_for(desk, *MODELS), tmp_path)
    assert result["done"] == 2
    assert figures_of(lines_of(tmp_path)) == figures_of(lines_of(folder))


def test_other_settings_and_other_data_are_other_work(whole, desk):
    folder, _ = whole
    known = {line["unit"] for line in lines_of(folder)}
    for change in ({"points": 21}, {"views": (2,)}, {"dtype": "bfloat16"}, {"sizes": ((32, 32),)}):
        assert not known & set(planned(config_for(desk, "still", **change), folder))
    config = config_for(desk, "still")
    assert known & set(planned(config, folder))
    config.posed.desk.groups = 1
    assert not known & set(planned(config, folder))


def planned(config, folder):
    """The identities of a config's units."""
    models = job.find_models(config.evaluate.models, "last", config.evaluate.dtype)
    evaluators = job.make_evaluators(config, folder)
    return {
        job.plan_unit(model, evaluator, setting, config).identity
        for model in models
        for evaluator in evaluators
        if evaluator.accepts(model.kind)
        for setting in evaluator.settings()
    }


def test_distractors_are_part_of_the_question(desk, tmp_path):
    """The views of another set, which targets of a single scene are compared with, are other work."""
    alone = config_for(desk, "untrained:nano", evaluators=("reconstruction",))
    before = planned(alone, tmp_path)
    posed_trees.cameras(tmp_path / "more")
    alone.posed.more = posed("cameras", str(tmp_path / "more"), select="consecutive", groups=2)
    both = planned(alone, tmp_path)
    assert len(both) == 2 * len(before) and not both & before


def test_figures_of_one_question_are_compared_whatever_the_number_of_views(whole):
    folder, _ = whole
    asked = {}
    for line in lines_of(folder):
        asked.setdefault(line["evaluator"], set()).add(line["setting"]["question"])
        assert line["setting"]["reader"] == "cameras"
    assert {name: len(questions) for name, questions in asked.items()} == {
        "correspondence": 1, "reconstruction": 1
    }  # fmt: skip


def test_what_fails_does_not_end_the_others(desk, tmp_path):
    damaged = tmp_path / "weights" / "damaged.safetensors"
    damaged.parent.mkdir()
    damaged.write_bytes(b"nothing of the kind")
    config = config_for(desk, str(damaged), "still", evaluators=("correspondence",))
    with pytest.raises(
        UserError, match="damaged.safetensors.*the other 1 units are done and in the report"
    ):
        evaluate(config, tmp_path / "out")
    assert [line["model"]["name"] for line in lines_of(tmp_path / "out")] == ["still"]
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000


def test_nothing_to_do_is_an_error(desk, tmp_path):
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate(config_for(desk, "still", evaluators=("reconstruction",)), tmp_path)


def test_the_headline_is_of_a_plain_predictor_with_our_protocol(whole):
    folder, _ = whole
    for line in lines_of(folder):
        rows = [ResultRow(row["labels"], row["values"]) for row in line["rows"]]
        said = job.headline(rows)
        if line["evaluator"] == "reconstruction":
            assert said.startswith("masked error ")
            continue
        predictor = {"still": "still", "patches": "feature"}.get(line["model"]["name"], "attention")
        layer = 1 if predictor == "feature" else "all"
        labels = {
            "predictor": predictor,
            "layer": layer,
            "protocol": "targets",
            "angle": "all",
            "points": "all",
        }
        (row,) = [row for row in rows if labels.items() <= row.labels.items()]
        assert said.startswith(predictor) and f"{row.values['px_10']:.1f}% within 10 px (targets)" in said


def test_two_hosts_share_the_work(whole, desk, tmp_path):
    folder, _ = whole
    for number in (2, 1):
        result = evaluate(config_for(desk, *MODELS, shard=f"{number}/2"), tmp_path)
        assert result["units"] == 5
    files = sorted(path.name for path in tmp_path.glob("results*.jsonl"))
    assert files == ["results.1.jsonl", "results.jsonl"]
    assert figures_of(lines_of(tmp_path)) == figures_of(lines_of(folder))


def test_a_model_is_loaded_once_and_the_one_before_is_let_go(desk, tmp_path, monkeypatch):
    loads = []
    real = muskie_jax.evaluators.models.build_model
    monkeypatch.setattr(
        muskie_jax.evaluators.models, "build_model", lambda *a, **k: loads.append(a) or real(*a, **k)
    )
    sizes = ((32, 48), (32, 32))
    config = config_for(desk, "untrained:nano", sizes=sizes, evaluators=("correspondence",), pictures=0)
    assert evaluate(config, tmp_path)["done"] == 2 and len(loads) == 1


@pytest.mark.parametrize(
    "key, value, said",
    [
        ("models", (), "write for example"),
        ("evaluators", ("correspondance",), "did you mean 'correspondence'"),
        ("protocols", ("paper",), "no 'paper'"),
        ("sizes", ((512,),), "write (height, width)"),
        ("views", (1,), "write 2 or more"),
        ("layers", (0,), "write 1 or more"),
        ("points", 0, "write 1 or more"),
        ("checkpoints", "each", "such as 'every 3'"),
        ("shard", "3/2", "write for example '2/4'"),
        ("dtype", "float16", "no 'float16'"),
    ],
)
def test_settings_that_cannot_be(desk, key, value, said):
    config = config_for(desk, "still", **{key: value})
    with pytest.raises(UserError) as caught:
        validate(config)
    assert f"config.evaluate.{key}" in str(caught.value) and said in str(caught.value)


def test_the_command_says_what_is_wrong_before_anything_starts(desk, tmp_path):
    flags = ["--config", "configs/evaluate.py:cameras", "--workdir", tmp_path / "out"]
    missing = complaint_of(call_module("muskie_jax.main", *flags, "--config.posed.yours.root=/nowhere"))
    assert "config.posed.yours" in missing and "/nowhere" in missing
    flags += [f"--config.posed.yours.root={desk}", "--config.evaluate.models=('runs/nothing/x',)"]
    assert "there is no 'runs/nothing/x'" in complaint_of(call_module("muskie_jax.main", *flags))


@pytest.mark.parametrize("arg", [None, "photos", *READERS])
def test_the_shipped_config_evaluates_every_kind_of_data(arg, desk):
    config = shipped("configs/evaluate.py" + (f":{arg}" if arg else ""))
    for dataset in config.posed.values():
        if "root" in dataset:
            dataset.root = str(desk)
    if arg == "photos":
        config.sources.photos.root = str(desk)
    validate(config)
    assert config.job == "evaluate"
    assert bool(config.posed) != bool(config.sources)


def test_the_shipped_config_names_what_there_is():
    with pytest.raises(Exception, match="there is photos, cameras"):
        shipped("configs/evaluate.py:camera")
