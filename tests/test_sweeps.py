"""Sweeps: the runs of a config file, messages about wrong ones, and when a run is complete."""

import json
import textwrap

import pytest

from conftest import ROOT
from muskie_jax.config import default_config, total_steps, validate
from muskie_jax.config_file import load_config, load_module
from muskie_jax.errors import UserError
from muskie_jax.evaluators.model_specs import find_models
from muskie_jax.sharding import check_batch, make_mesh
from muskie_jax.sweeps import choose, is_complete, override, sweep_configs
from muskie_tests.commands import run_module

ABLATIONS = ROOT / "configs/ablations.py"
RUNS = {"base": {}, "lone": {"buckets.views": (1,)}}
PHOTOS = {"sources.photos.root": "/photographs"}


def flat(settings, above=""):
    """Returns path -> value of all settings."""
    found = {}
    for key, value in settings.items():
        found |= flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return found


def load(argument):
    return load_config(f"{ABLATIONS}{argument}")


# --- The ablations -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["", "photos"])
def test_every_ablation_is_valid_and_changes_one_setting_of_the_base(variant):
    common = PHOTOS if variant else {}
    configs = sweep_configs(f"{ABLATIONS}:{variant}" if variant else str(ABLATIONS), common)
    base = flat(configs["base"].to_dict())
    assert base["mask.modes"] == default_config().mask.modes, "not the paper's"
    assert [source.kind for source in configs["base"].sources.values()] == (
        ["folder"] if variant else ["synthetic"]
    )
    changed = {}
    for name, config in configs.items():
        check_batch(config, make_mesh(config.mesh))
        found = flat(config.to_dict())
        changed[name] = {key: value for key, value in found.items() if base[key] != value}
        assert found.keys() == base.keys()
        loaded = override(load(f":{variant},{name}" if variant else f":{name}"), common)
        assert loaded.to_dict() == config.to_dict()
    assert changed.pop("base") == {}
    assert all(len(settings) == 1 for settings in changed.values()), changed
    assert {key for settings in changed.values() for key in settings} == {
        "mask.modes",
        "mask.num_reference",
        "buckets.views",
        "loss.confidence",
        "model.registers",
        "model.rope_base",
    }
    assert changed["views_1"] == {"buckets.views": (1,)}
    assert changed["references_0"] == {"mask.num_reference": 0}
    assert changed["ratio_50"] == {
        "mask.modes": (("random", 0.5), ("rectangle", 0.5), ("ellipse", 0.5)),
    }
    assert {len(config.mask.modes) for config in configs.values()} == {1, 3}


def test_questions_of_the_figure_cover_all_ablations():
    module = load_module(ABLATIONS)
    asked = [run for _, _, runs in module.QUESTIONS for run in runs]
    assert sorted(asked) == sorted(module.sweep().keys() - {"base"})


def test_backbones_differ_in_nothing_else_and_all_are_drawn():
    file = ROOT / "configs/reconstruct_backbones.py"
    configs = sweep_configs(str(file), {})
    for config in configs.values():
        config.reconstruct.update(backbone="", freeze_backbone=False)
    assert len({str(config) for config in configs.values()}) == 1
    asked = [run for _, _, runs in load_module(file).QUESTIONS for run in runs]
    assert sorted(asked) == sorted(configs.keys() - {"untrained"} | {"did not move"})
    controls = load_module(ROOT / "configs/controls.py").sweep()
    trained = {path for path in load_module(file).BACKBONES.values() if "/" in path}
    assert trained <= {f"runs/controls/{run}-seed{{seed}}" for run in controls} and len(trained) == 2


@pytest.mark.parametrize("name", ["recipe", "controls"])
def test_steps_of_the_recipe_and_controls_are_valid(name):
    configs = sweep_configs(str(ROOT / f"configs/{name}.py"), {})
    images = {run: _images(config) for run, config in configs.items()}
    others = {run: images[run] for run in images if run.startswith(("size_", "updates_"))}
    same = {count for run, count in images.items() if run not in others}
    assert same == {images["recipe"]}, "as many images"
    if name == "recipe":
        assert set(others) == {
            "size_nano", "size_tiny", "size_base", "updates_10500", "updates_42000",
        }  # fmt: skip
        assert 2 * others["updates_10500"] == images["recipe"]
        for size in ("nano", "tiny", "base"):
            assert configs[f"size_{size}"].model.variant == size
        assert configs["recipe"].model.variant == "small"
    else:
        recipe = load_config(ROOT / "configs/recipe.py")
        assert configs["recipe"].to_dict() == recipe.to_dict()


def test_short_runs_of_the_recipe_take_a_seventh_of_the_updates():
    file = str(ROOT / "configs/recipe.py")
    runs, short = sweep_configs(file, {}), sweep_configs(f"{file}:short", {})
    assert runs.keys() == short.keys()
    for name, config in runs.items():
        assert total_steps(short[name]) == total_steps(config) // 7, name
        config.duration = short[name].duration
        assert short[name].to_dict() == config.to_dict(), name


def _images(config):
    return total_steps(config) * config.batch.groups * config.batch.views


def test_file_without_an_argument_is_the_base():
    assert load("").to_dict() == load(":base").to_dict()
    assert "photos" in load(":photos").sources
    validate(load(""))


def test_documents_state_the_number_of_runs():
    count = len(sweep_configs(str(ABLATIONS), {}))
    for path in (ROOT / "launch/sweep.sh", ROOT / "docs/launch.md"):
        assert f"sbatch --array=1-{count} " in path.read_text(), path
    assert f"{count} training runs" in ABLATIONS.read_text()


# --- Helpers for config files ------------------------------------------------------------------------


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
def test_choose_parses_variant_and_run(arg, variant, run):
    assert choose(arg, RUNS, ("photos", "packed")) == (variant, RUNS[run])


@pytest.mark.parametrize("arg", ["loan", "photos,loan", "lone,photos", "photo,lone"])
def test_unknown_run_is_reported_with_the_known_ones(arg):
    with pytest.raises(UserError, match=r"^this config has no run '.*base, lone, photos"):
        choose(arg, RUNS, ("photos",))


def test_overrides_are_set_and_wrong_ones_reported():
    config = override(default_config(), {"mask.num_reference": 2, "optim.learning_rate": 1e-3})
    assert config.mask.num_reference == 2 and config.optim.learning_rate == 1e-3
    assert config.model == default_config().model
    with pytest.raises(
        UserError,
        match=r"^optim.learning_rat: unknown setting 'learning_rat'; did you mean 'learning_rate'",
    ):
        override(config, {"optim.learning_rat": 1.0})
    with pytest.raises(UserError, match="^duration.steps: unknown setting 'steps'"):
        override(config, {"duration.steps": 1})
    with pytest.raises(UserError, match=r"^buckets.views: 'two' has the wrong type: "):
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
        ("", "mine.py has no sweep(): define one"),
        ("def sweep(): return {}", "sweep() returned no runs"),
        ("def sweep(): return 1 / 0", "the config could not be loaded: ZeroDivisionError"),
        ("import nowhere", "the config could not be loaded: ModuleNotFoundError: No module named"),
        ("def sweep(): return ['base']", "sweep() returned no runs"),
        ("def sweep(): return {'a/b': {}}", "'a/b' cannot be the name of a run's folder: use letters"),
        ("def sweep(): return {'..': {}}", "'..' cannot be the name of a run's folder: use letters"),
        ("def sweep(): return {'two words': {}}", "'two words' cannot be the name of a run's"),
        ("def sweep(): return {'evaluation': {}}", "'evaluation' cannot be the name of a run"),
        ("def sweep(): return {1: {}}", "run 1: "),
        ("def sweep(): return {'a': {}, 'b': {'seed': 0}}", "runs 'a' and 'b' have equal configs"),
        ("def sweep(): return {'a': {}, 'b': {'sed': 1}}", "run 'b': sed: unknown setting 'sed'; did you"),
        ("def sweep(): return {'a': {}, 'b': {'seed': -1}}", "run 'b': config.seed=-1 must be at least 0"),
        ("def sweep(): return {'a': {}}\ndef get_config(arg): return 1 / 0", "run 'a': ZeroDivisionError"),
    ],
)
def test_invalid_sweep_is_reported_in_one_line(tmp_path, body, expected):
    with pytest.raises(UserError) as caught:
        sweep_configs(write(tmp_path, body), {})
    assert expected in str(caught.value) and "\n" not in str(caught.value)


def test_common_overrides_apply_to_all_runs_and_must_keep_them_distinct(tmp_path):
    path = write(tmp_path, "def sweep(): return {'base': {}, 'other': {'seed': 1}}")
    configs = sweep_configs(path, {"duration": "9_000 steps"})
    assert [(c.duration, c.seed) for c in configs.values()] == [("9_000 steps", 0), ("9_000 steps", 1)]
    with pytest.raises(UserError, match="runs 'base' and 'other' have equal configs: remove one"):
        sweep_configs(path, {"seed": 5})
    assert list(sweep_configs(path, {"seed": 5}, ["other"])) == ["other"], "alone, it equals no other run"
    with pytest.raises(UserError, match="mine.py:other is one run of a sweep: use .*mine.py for all"):
        sweep_configs(f"{path}:other", {})


def test_run_is_complete_when_its_last_step_is_saved_and_evaluated(tmp_path):
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
    assert not is_complete(config, tmp_path), "made longer"
    config.duration, config.job = "30 steps", "plan"
    assert not is_complete(config, tmp_path), "not a training"


def test_command_lists_runs_and_their_state(tmp_path):
    path = write(tmp_path, "def sweep(): return {'base': {}, 'other': {'seed': 1}}")
    (tmp_path / "runs/other/checkpoints/7").mkdir(parents=True)
    (tmp_path / "runs/other/metrics.jsonl").write_text('{"step": 7, "evaluation/mse": 0.1}\n')
    seven = "--config.duration=7 steps"
    done = run_module("muskie_jax.sweeps", "--config", path, "--workdir", tmp_path / "runs", seven)
    assert done.returncode == 0 and done.stdout == "base waiting\nother complete\n", done.stderr


def test_wrong_common_override_is_reported_with_the_run(tmp_path):
    path = write(tmp_path, "def sweep(): return {'base': {}}")
    with pytest.raises(UserError, match=r"^run 'base': config.optim.b1=2.0 must be from 0 to below 1"):
        sweep_configs(path, {"optim.b1": 2.0})


def test_unknown_ablation_is_reported():
    with pytest.raises(UserError, match=r"this config has no run 'view_1'; did you mean 'views_1'"):
        load(":view_1")


# --- Evaluating the runs -----------------------------------------------------------------------------


def test_pattern_finds_the_runs_of_a_sweep_and_nothing_else_in_its_folder(tmp_path):
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
    with pytest.raises(UserError, match="no weights match '.*/packed/\\*'"):
        find_models([f"{tmp_path}/packed/*"], "last", "float32")
