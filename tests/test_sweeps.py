"""Sweeps: the runs of a config file, what is said of wrong ones, and how long they count as waiting."""

import json
import textwrap

import pytest

from conftest import ROOT
from muskie_jax.config import default_config, validate
from muskie_jax.config_file import load_config
from muskie_jax.errors import UserError
from muskie_jax.evaluators.models import find_models
from muskie_jax.sharding import check_batch, make_mesh
from muskie_jax.sweeps import choose, is_complete, override, sweep_configs
from muskie_tests.commands import call_module, complaint_of, run_module

ABLATIONS = ROOT / "configs/ablations.py"
RUNS = {"base": {}, "lone": {"buckets.views": (1,)}}
PHOTOS = {"sources.photos.root": "/photographs"}


def flat(settings, above=""):
    """Settings by path."""
    found = {}
    for key, value in settings.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def load(argument):
    return load_config(f"{ABLATIONS}{argument}")


# --- The ablations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["", "photos"])
def test_every_ablation_can_be_trained_and_differs_from_the_base_in_one_thing(variant):
    common = PHOTOS if variant else {}
    configs = sweep_configs(f"{ABLATIONS}:{variant}" if variant else str(ABLATIONS), common)
    base = flat(configs["base"].to_dict())
    assert base["mask.modes"] == default_config().mask.modes, "the paper's"
    assert [source.kind for source in configs["base"].sources.values()] == (
        ["folder"] if variant else ["synthetic"]
    )
    changed = {}
    for name, config in configs.items():
        check_batch(config, make_mesh(config.mesh))
        found = flat(config.to_dict())
        changed[name] = {key: value for key, value in found.items() if base[key] != value}
        assert found.keys() == base.keys()
        given = override(load(f":{variant},{name}" if variant else f":{name}"), common)
        assert given.to_dict() == config.to_dict()
    assert changed.pop("base") == {}
    assert all(len(settings) == 1 for settings in changed.values()), changed
    assert {key for settings in changed.values() for key in settings} == {
        "mask.modes",
        "mask.num_reference",
        "buckets.views",
    }
    assert changed["views_1"] == {"buckets.views": (1,)}
    assert changed["references_0"] == {"mask.num_reference": 0}
    assert changed["ratio_50"] == {
        "mask.modes": (("random", 0.5), ("rectangle", 0.5), ("ellipse", 0.5)),
    }
    assert {len(config.mask.modes) for config in configs.values()} == {1, 3}


def test_the_file_alone_is_the_base():
    assert load("").to_dict() == load(":base").to_dict()
    assert "photos" in load(":photos").sources
    validate(load(""))


def test_the_script_says_how_many_runs_there_are():
    count = len(sweep_configs(str(ABLATIONS), {}))
    for path in (ROOT / "launch/sweep.sh", ROOT / "docs/launch.md"):
        assert f"sbatch --array=1-{count} " in path.read_text(), path
    assert f"{count} trainings" in ABLATIONS.read_text()


# --- What a config file needs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arg, variant, run",
    [
        (None, None, "base"),
        ("", None, "base"),
        ("lone", None, "lone"),
        ("photos", "photos", "base"),
        ("photos,lone", "photos", "lone"),
    ],
)
def test_an_argument_chooses_a_variant_and_a_run(arg, variant, run):
    assert choose(arg, RUNS, ("photos", "packed")) == (variant, RUNS[run])


@pytest.mark.parametrize("arg", ["loan", "photos,loan", "lone,photos", "photo,lone"])
def test_an_unknown_run_is_one_line_with_those_there_are(arg):
    with pytest.raises(UserError, match=r"^no run '.*' of this config.*\(there is: base, lone, photos\)$"):
        choose(arg, RUNS, ("photos",))


def test_overrides_are_set_and_wrong_ones_named():
    config = override(default_config(), {"mask.num_reference": 2, "optim.learning_rate": 1e-3})
    assert config.mask.num_reference == 2 and config.optim.learning_rate == 1e-3
    assert config.model == default_config().model
    with pytest.raises(
        UserError, match=r"^optim.learning_rat: no setting 'learning_rat'; did you mean 'learning_rate'"
    ):
        override(config, {"optim.learning_rat": 1.0})
    with pytest.raises(UserError, match="^duration.steps: no setting 'steps'"):
        override(config, {"duration.steps": 1})
    with pytest.raises(UserError, match=r"^buckets.views: 'two' is of the wrong type: "):
        override(config, {"buckets.views": "two"})


# --- All runs of a file ------------------------------------------------------------------------------

FILE = """
from muskie_jax.config import default_config, synthetic
from muskie_jax.sweeps import choose, override


def get_config(arg=None):
    _, overrides = choose(arg, sweep())
    config = default_config()
    config.sources.rooms = synthetic()
    config.optim.warmup = "0 steps"
    return override(config, overrides)


"""


def write(tmp_path, body):
    path = tmp_path / "mine.py"
    path.write_text(FILE + textwrap.dedent(body))
    return str(path)


@pytest.mark.parametrize(
    "body, expected",
    [
        ("", "mine.py has no sweep(): write one"),
        ("def sweep(): return {}", "sweep() gives no runs"),
        ("def sweep(): return ['base']", "sweep() gives no runs"),
        ("def sweep(): return {'a/b': {}}", "can be called 'a/b': write letters"),
        ("def sweep(): return {'..': {}}", "can be called '..': write letters"),
        ("def sweep(): return {'two words': {}}", "can be called 'two words': write letters"),
        ("def sweep(): return {'evaluation': {}}", "can be called 'evaluation'"),
        ("def sweep(): return {1: {}}", "run 1: "),
        ("def sweep(): return {'a': {}, 'b': {'seed': 0}}", "runs 'a' and 'b' are the same"),
        ("def sweep(): return {'a': {}, 'b': {'sed': 1}}", "run 'b': sed: no setting 'sed'; did you"),
        ("def sweep(): return {'a': {}, 'b': {'seed': -1}}", "run 'b': config.seed=-1: write 0 or more"),
        ("def sweep(): return {'a': {}}\ndef get_config(arg): return 1 / 0", "run 'a': ZeroDivisionError"),
    ],
)
def test_a_sweep_that_cannot_be_is_one_line(tmp_path, body, expected):
    with pytest.raises(UserError) as caught:
        sweep_configs(write(tmp_path, body), {})
    assert expected in str(caught.value)


def test_settings_of_all_runs_are_set_in_each_and_must_leave_them_different(tmp_path):
    path = write(tmp_path, "def sweep(): return {'base': {}, 'other': {'seed': 1}}")
    configs = sweep_configs(path, {"duration": "9_000 steps"})
    assert [(c.duration, c.seed) for c in configs.values()] == [("9_000 steps", 0), ("9_000 steps", 1)]
    with pytest.raises(UserError, match="runs 'base' and 'other' are the same: leave one out, or set less"):
        sweep_configs(path, {"seed": 5})
    with pytest.raises(UserError, match="mine.py:other is one run of a sweep: write .*mine.py for all"):
        sweep_configs(f"{path}:other", {})


def test_a_run_is_complete_when_its_last_step_is_saved_and_evaluated(tmp_path):
    config = default_config()
    config.duration = "30 steps"
    metrics = tmp_path / "metrics.jsonl"
    assert not is_complete(config, tmp_path)
    (tmp_path / "checkpoints/30").mkdir(parents=True)
    metrics.write_text(json.dumps({"step": 30, "train/loss": 0.1}) + "\n")
    assert not is_complete(config, tmp_path), "killed in its last evaluation"
    with metrics.open("a") as file:
        file.write(json.dumps({"step": 30, "evaluation/mse": 0.1}) + "\n")
    assert is_complete(config, tmp_path)
    (tmp_path / "checkpoints/30").rename(tmp_path / "checkpoints/20")
    assert not is_complete(config, tmp_path), "not saved, or found damaged"
    (tmp_path / "checkpoints/20").rename(tmp_path / "checkpoints/30")
    config.duration = "40 steps"
    assert not is_complete(config, tmp_path), "it is to be longer now"
    config.duration, config.job = "30 steps", "plan"
    assert not is_complete(config, tmp_path), "not a training"


def test_the_command_names_runs_and_what_waits(tmp_path):
    path = write(tmp_path, "def sweep(): return {'base': {}, 'other': {'seed': 1}}")
    (tmp_path / "runs/other/checkpoints/7").mkdir(parents=True)
    (tmp_path / "runs/other/metrics.jsonl").write_text('{"step": 7, "evaluation/mse": 0.1}\n')
    seven = "--config.duration=7 steps"
    done = run_module("muskie_jax.sweeps", "--config", path, "--workdir", tmp_path / "runs", seven)
    assert done.returncode == 0 and done.stdout == "base waiting\nother complete\n", done.stderr
    wrong = call_module("muskie_jax.sweeps", "--config", path, "--config.optim.b1=2.0")
    assert complaint_of(wrong) == "error: run 'base': config.optim.b1=2.0: write from 0 to below 1"


def test_commands_name_the_runs_there_are():
    wrong = call_module("muskie_jax.sweeps", "--config", f"{ABLATIONS}:view_1")
    assert "no run 'view_1' of this config; did you mean 'views_1'? (there is: base, " in complaint_of(
        wrong
    )


# --- What comes of them ------------------------------------------------------------------------------


def test_a_pattern_means_the_runs_of_a_sweep_and_nothing_else_in_its_folder(tmp_path):
    others = ("unsaved/checkpoints", "evaluation/figures", "scene_index")
    for path in ("b/checkpoints/30", "a/checkpoints/9", *others):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "notes.json").touch()
    (tmp_path / "published.pth").touch()
    found = find_models([f"{tmp_path}/*"], "last", "float32")
    assert [(model.name, model.step) for model in found] == [("a", 9), ("b", 30), ("published.pth", None)]
    for path in ("exported", "packed/b"):
        (tmp_path / path).mkdir(parents=True)
    (tmp_path / "exported/model.safetensors").touch()
    assert "exported" in [model.name for model in find_models([f"{tmp_path}/*"], "last", "float32")]
    with pytest.raises(UserError, match="no weights are there like '.*/packed/\\*'"):
        find_models([f"{tmp_path}/packed/*"], "last", "float32")
