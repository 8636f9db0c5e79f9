"""Which evaluated scenes a model was trained on, and the default for a folder of photographs."""

import json
import pathlib
import shutil

import jax
import jax.numpy as jnp
import pytest

from conftest import ROOT
from muskie_jax import evaluate as job
from muskie_jax.checkpoint import Checkpointer
from muskie_jax.config import default_config, folder, posed, validate
from muskie_jax.config_file import load_config
from muskie_jax.errors import UserError
from muskie_jax.evaluate import evaluate
from muskie_jax.evaluators.model_specs import find_models
from muskie_jax.evaluators.training_scenes import choose_holdouts, trained_folders
from muskie_jax.interop.load import ORIGIN, open_weights, training_configs
from muskie_jax.interop.weights import write_weights
from muskie_jax.models.muskie import build_model
from muskie_jax.optim import make_optimizer
from muskie_jax.train_step import TrainState
from muskie_tests import posed_trees
from muskie_tests.runs import nano_config


def save_run(workdir: pathlib.Path, config, step=3) -> str:
    """Writes a work directory with the checkpoint that a run of this config would save at a step."""
    image = jnp.zeros((1, 1, 16, 16, 3))
    params = jax.jit(build_model("nano").init)(jax.random.key(0), image, jnp.zeros((1, 1, 1), bool))[
        "params"
    ]
    checkpoints = Checkpointer(workdir, keep=1)
    checkpoints.save(TrainState(jnp.int32(step), params, make_optimizer(config).init(params)), config)
    checkpoints.close()
    return str(workdir)


@pytest.fixture(scope="module")
def run(photo_folder, tmp_path_factory):
    """A run on half of the photographs' scenes."""
    return save_run(tmp_path_factory.mktemp("runs") / "trained", nano_config(photo_folder, holdout=0.5))


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The run's weights in a file, whose metadata have no full paths."""
    path = tmp_path_factory.mktemp("weights") / "trained.safetensors"
    write_weights(path, open_weights(run))
    return str(path)


def config_for(root, *models, **sources):
    config = load_config(ROOT / "configs/evaluate.py:photos")
    config.sources.photos.root = str(root)
    config.sources.update(sources)
    config.evaluate.update({"models": models, "sizes": ((32, 48),), "pictures": 0})
    config.evaluate.reconstruction.update({"views": (1, 2), "references": (1,), "groups": 4})
    config.evaluate.reconstruction.modes = (("random", 0.5),)
    return config


def holdout_of(config):
    validate(config)
    models = find_models(config.evaluate.models, "last", "float32")
    return choose_holdouts(config, models).sources.photos.holdout


def test_scenes_that_were_held_out_in_training_are_the_default(
    photo_folder, run, exported, tmp_path, capsys
):
    shutil.copytree(photo_folder, tmp_path / "elsewhere")
    for models in ((run,), ("untrained:nano", run), (exported,)):
        assert holdout_of(config_for(photo_folder, *models)) == 0.5
    assert "photos: trained was trained on this folder, with holdout=0.5" in capsys.readouterr().err
    assert holdout_of(config_for(photo_folder, "untrained:nano")) == 0
    assert holdout_of(config_for(tmp_path / "elsewhere", run)) == 0
    config = config_for(photo_folder, run)
    config.sources.photos.holdout = 0.25
    assert holdout_of(config) == 0.25, "as the user wrote"
    config = config_for(photo_folder, run)
    models = find_models(config.evaluate.models, "last", "float32")
    config = choose_holdouts(config, models)
    units = list(job.plan_units(models, job.make_evaluators(config, tmp_path), config))
    assert units and not job.count_training_groups(units, None)


def test_scenes_of_training_are_reported(photo_folder, run, tmp_path, capsys):
    config = config_for(photo_folder, run, "untrained:nano")
    config.sources.photos.holdout = 0.0
    result = evaluate(config, tmp_path)
    assert not result["held_out"]
    warnings = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert warnings == ["WARNING: photos: 2 of 4 groups show scenes that trained was trained on"]
    settings = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text().splitlines()]
    counts = {line["model"]["name"]: line["setting"].get("training_groups") for line in settings}
    assert counts == {"trained": 2, "untrained (nano)": None}
    sentence = "Evaluated on scenes of their own training: trained (2 of 4 groups)."
    assert sentence in pathlib.Path(result["html"]).read_text()


def folders_of(model, *folders):
    (spec,) = find_models([model], "last", "float32")
    found = trained_folders(spec, [path.resolve() for path in folders], None)
    return {path.name for path in found}


def test_trained_folders(photo_folder, run, exported, tmp_path):
    scenes = [photo_folder / name for name in ("attic", "barn", "cave", "dome")]
    seen = folders_of(run, *scenes)
    assert len(seen) == 2 and folders_of(exported, *scenes) == seen
    assert folders_of(run, tmp_path / "attic") == set()
    # Sources that contain the evaluated folder, or are contained in it.
    above = nano_config(photo_folder.parent, glob=f"{photo_folder.name}/*/*", holdout=0.0)
    assert folders_of(save_run(tmp_path / "above", above), *scenes) == {path.name for path in scenes}
    single = nano_config(photo_folder / "attic", glob="*.jpg", holdout=0.0)
    assert folders_of(save_run(tmp_path / "single", single), *scenes) == {"attic"}
    assert folders_of("untrained:nano", *scenes) == set()


def test_weights_that_were_trained_further_count_with_their_origin(photo_folder, exported, tmp_path):
    other = default_config()
    other.model.variant = "nano"
    other.sources.others = folder(root=str(tmp_path))
    workdir = tmp_path / "run"
    for step in (0, 5):  # imported, and trained further
        save_run(workdir, other, step)
        (workdir / ORIGIN).write_text(json.dumps(open_weights(exported).metadata()))
        assert folders_of(str(workdir), photo_folder / "attic", photo_folder / "dome") != set()
        configs = training_configs(workdir / "checkpoints" / str(step))
        assert [list(config["sources"]) for config in configs] == [["others"]] * (step > 0) + [["photos"]]


def test_untrusted_metadata_is_ignored(exported, photo_folder, tmp_path):
    weights, root = open_weights(exported), photo_folder.name
    for number, sources in enumerate(
        (
            "text",
            {"a": 1},
            {"a": {"kind": "folder", "root": root, "holdout": "half"}},
            {"a": {"kind": "folder"}},
        )
    ):
        weights.provenance["training"] = {"sources": sources}
        path = tmp_path / f"{number}.safetensors"
        write_weights(path, weights)
        assert folders_of(str(path), photo_folder / "attic") == set()


def test_recordings_of_training_are_reported(tmp_path, capsys):
    posed_trees.cameras(tmp_path / "recordings" / "desk")
    trained = nano_config(tmp_path / "recordings", glob="**/*", holdout=0.0)
    config = default_config()
    config.job = "evaluate"
    config.posed.desk = posed(
        "cameras", str(tmp_path / "recordings" / "desk"), select="consecutive", groups=2
    )
    config.evaluate.update({"sizes": ((32, 48),), "views": (3,), "points": 20, "pictures": 0})
    config.evaluate.update({"models": (save_run(tmp_path / "run", trained),), "layers": (1,)})
    config.evaluate.reconstruction.views = (1, 3)
    models = find_models(config.evaluate.models, "last", "float32")
    units = list(job.plan_units(models, job.make_evaluators(config, tmp_path), config))
    assert {unit.evaluator.name for unit in units} == {"correspondence", "reconstruction"}
    assert set(job.count_training_groups(units, None)) == {unit.identity for unit in units}
    warnings = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert warnings == ["WARNING: desk: 2 of 2 groups show scenes that run was trained on"]


def test_only_the_job_evaluate_chooses_a_holdout(photo_folder):
    config = nano_config(photo_folder, holdout=None)
    message = (
        "config.sources.photos.holdout=None is only for the job evaluate: set a fraction from 0 to below 1"
    )
    with pytest.raises(UserError, match=message):
        validate(config)
