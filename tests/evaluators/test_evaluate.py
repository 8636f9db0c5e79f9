"""The job `evaluate`: units of work that are done once, by one host or several, and a report."""

import json
import pathlib

import posed_trees
import pytest
from commands import complaint_of, run_module

import muskie_jax.evaluators.models
from muskie_jax.config import default_config, posed, validate
from muskie_jax.errors import UserError
from muskie_jax.evaluate import evaluate


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
    config.sweep.update({"models": models, "sizes": ((32, 48),), "views": (3,), "points": 20} | sweep)
    config.sweep.reconstruction.update({"views": (1, 2), "modes": (("random", 0.5),), "groups": 2})
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
    from muskie_jax import evaluate as job

    models = job.find_models(config.sweep.models, "last", config.sweep.dtype)
    evaluator = job.make_correspondence(config, folder)
    return [
        job.identity_of(model, evaluator, each, config) for model in models for each in evaluator.settings()
    ]


def test_two_hosts_share_the_work(whole, desk, tmp_path):
    folder, _ = whole
    for number in (2, 1):
        result = evaluate(config_for(desk, *MODELS, share=f"{number}/2"), tmp_path)
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
        ("share", "3/2", "write such as '2/4'"),
        ("dtype", "float16", "no 'float16'"),
    ],
)
def test_settings_that_cannot_be(desk, key, value, said):
    config = config_for(desk, "still", **{key: value})
    with pytest.raises(UserError) as caught:
        validate(config)
    assert f"config.sweep.{key}" in str(caught.value) and said in str(caught.value)


def test_the_command_says_what_is_wrong_before_anything_starts(desk, tmp_path):
    flags = ["--config", "configs/evaluate.py:cameras", "--workdir", tmp_path / "out"]
    missing = complaint_of(run_module("muskie_jax.main", *flags, "--config.posed.yours.root=/nowhere"))
    assert "config.posed.yours" in missing and "/nowhere" in missing
    flags += [f"--config.posed.yours.root={desk}", "--config.sweep.models=('runs/nothing/x',)"]
    assert "there is no 'runs/nothing/x'" in complaint_of(run_module("muskie_jax.main", *flags))
