"""Weights & Biases gets what TensorBoard gets, once, from the first process, and only if asked."""

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from conftest import ROOT
from muskie_jax.config import default_config, validate
from muskie_jax.errors import UserError
from muskie_jax.wandb_run import RUN_FILE, check_wandb
from muskie_jax.writers import Writers
from muskie_tests.commands import complaint_of, run_in_process
from muskie_tests.fake_wandb import FakeWandb
from muskie_tests.runs import nano_config

PICTURE = np.zeros((4, 6, 3), np.uint8)


@pytest.fixture
def wandb(monkeypatch):
    """A module in place of the package, which records what it gets."""
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def config(project="team/views"):
    settings = default_config()
    settings.log.wandb, settings.log.tensorboard = project, False
    return settings


def train(workdir, first, last, project="team/views"):
    """Writes what a training from step `first` to `last` writes, with an evaluation every two steps."""
    writers = Writers(workdir, first, config(project))
    for step in range(first + 1, last + 1):
        writers.scalars(step, "train", {"loss": step / 10})
        if step % 2 == 0:
            writers.scalars(step, "evaluation", {"mse": step / 100})
            writers.picture(step, "reconstruction", PICTURE)
    return writers


def test_metrics_and_pictures_are_sent(tmp_path, wandb):
    train(tmp_path / "", 0, 2).close()
    (run,) = wandb.runs
    assert run.options["project"] == "views" and run.options["entity"] == "team"
    assert run.options["name"] == tmp_path.name and run.options["dir"] == tmp_path
    assert run.options["config"]["model"]["variant"] == "base"
    assert run.metrics == [("*", "step")]
    assert run.rows == [
        {"step": 1, "train/loss": 0.1},
        {"step": 2, "train/loss": 0.2},
        {"step": 2, "evaluation/mse": 0.02},
        {"step": 2, "reconstruction": ("picture", (4, 6, 3))},
    ]
    assert run.finished


def test_a_resumed_run_has_the_same_id_and_repeats_nothing(tmp_path, wandb):
    train(tmp_path, 0, 5)  # killed, with a checkpoint at step 2
    train(tmp_path, 2, 2)  # killed before its first step
    train(tmp_path, 2, 8).close()
    assert len({run.options["id"] for run in wandb.runs}) == 1
    assert all(run.options["resume"] == "allow" for run in wandb.runs)
    keys = [(row["step"], *sorted(row)) for run in wandb.runs for row in run.rows]
    assert len(keys) == len(set(keys)) == 8 + 4 + 4, "8 records of training, 4 evaluations and pictures"
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 8 + 4, "metrics.jsonl is as before"


def test_a_kill_between_training_and_evaluation_of_a_step_loses_nothing(tmp_path, wandb):
    writers = Writers(tmp_path, 0, config())
    writers.scalars(2, "train", {"loss": 0.2})
    train(tmp_path, 0, 2)
    parts = [sorted(row)[0] for run in wandb.runs for row in run.rows if row["step"] == 2]
    assert parts == ["step", "evaluation/mse", "reconstruction"]


def test_another_work_directory_is_another_run(tmp_path, wandb):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        train(tmp_path / name, 0, 1)
    first, second = wandb.runs
    assert first.options["id"] != second.options["id"] and len(second.rows) == 1


def test_it_is_off_by_default(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)  # an import would raise
    assert default_config().log.wandb == ""
    train(tmp_path, 0, 2, project="").close()
    assert not (tmp_path / RUN_FILE).exists()


def test_only_the_first_process_sends(tmp_path, wandb, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    train(tmp_path, 0, 2).close()
    assert wandb.runs == [] and list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_start_is_one_line(tmp_path, wandb, monkeypatch):
    def refuse(**options):
        raise RuntimeError("api_key not configured (no-tty).\nmore lines")

    monkeypatch.setattr(wandb, "init", refuse)
    with pytest.raises(UserError, match="'team/views': api_key not configured .* set WANDB_MODE=offline"):
        Writers(tmp_path, 0, config())
    assert list(tmp_path.iterdir()) == [], "nothing changes, so that the next try continues"


def without_package(monkeypatch, spec=None):
    find = importlib.util.find_spec
    replaced = lambda name, *rest: spec if name == "wandb" else find(name, *rest)
    monkeypatch.setattr(importlib.util, "find_spec", replaced)


def test_a_missing_package_is_one_line_before_device_work(tmp_path, monkeypatch):
    without_package(monkeypatch)
    done = run_in_process(
        "muskie_jax.main", "--config", "configs/quickstart.py", "--config.log.wandb=views",
        "--workdir", tmp_path / "run",
    )  # fmt: skip
    assert '-e ".[wandb]"' in complaint_of(done)
    assert not (tmp_path / "run").exists()


def test_a_folder_of_runs_is_no_package(monkeypatch):
    without_package(monkeypatch, importlib.machinery.ModuleSpec("wandb", None, origin=None))
    with pytest.raises(UserError, match="needs the package wandb"):
        check_wandb("views")


@pytest.mark.parametrize("value", ["True", "false"])
def test_a_truth_value_is_refused(photo_folder, value):
    settings = nano_config(photo_folder)
    settings.log.wandb = value
    with pytest.raises(UserError, match=f"config.log.wandb='{value}' must be the name of a project"):
        validate(settings)


PROGRAM = """
import pathlib, sys
import numpy as np
from muskie_jax.config import default_config
from muskie_jax.writers import Writers
config = default_config()
config.log.wandb, config.log.tensorboard = "views", False
first, last = map(int, sys.argv[2:])
writers = Writers(pathlib.Path(sys.argv[1]), first, config)
for step in range(first + 1, last + 1):
    writers.scalars(step, "train", {"loss": step / 10})
writers.picture(last, "reconstruction", np.zeros((4, 6, 3), np.uint8))
writers.close()
"""


@pytest.mark.extras
@pytest.mark.slow
def test_the_real_package_offline(tmp_path):
    pytest.importorskip("wandb")
    for first, last in ((0, 5), (3, 8)):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(first), str(last)]
        environment = os.environ | {"WANDB_MODE": "offline"}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 and done.stdout == "", done.stderr
    sent = json.loads((tmp_path / RUN_FILE).read_text())
    assert (sent["step"], sent["parts"]) == (8, ["train", "reconstruction"])
    folders = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert len(folders) == 2 and all(folder.name.endswith(sent["id"]) for folder in folders)
    assert all(list(folder.glob("*.wandb")) for folder in folders)
    assert list(folders[1].rglob("*.png"))
