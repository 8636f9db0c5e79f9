"""`muskie checkpoints` tells intact from damaged checkpoints, and takes back intact ones."""

import json
import os
import shutil
import threading

import jax
import jax.numpy as jnp
import pytest

from muskie_jax.checkpoint import Checkpointer
from muskie_jax.checkpoints import command
from muskie_jax.checkpoints.command import inspect_checkpoints
from muskie_jax.checkpoints.contents import read_params
from muskie_jax.checkpoints.saved_steps import saved_steps
from muskie_jax.config import default_config
from muskie_jax.errors import UserError
from muskie_jax.train_step import TrainState
from muskie_tests.commands import complaint_of, run_in_process
from muskie_tests.runs import forbid_reading

NOTHING = {condition: [] for condition in ("intact", "damaged", "unreadable", "aside", "restored")}


def state_at(step):
    return TrainState(jnp.int32(step), {"kernel": jax.random.normal(jax.random.key(step), (64, 32))}, ())


@pytest.fixture
def workdir(tmp_path):
    """A work directory with checkpoints of steps 1, 2 and 3, and the error of step 2."""
    checkpoints = Checkpointer(tmp_path, keep=9)
    for step in (1, 2, 3):
        checkpoints.save(state_at(step), default_config())
    checkpoints.close()
    (tmp_path / "metrics.jsonl").write_text('{"step": 2, "evaluation/mse": 0.25}\n')
    return tmp_path


def run(workdir, *flags):
    """Returns the result of the command, and its log."""
    done = run_in_process("muskie_jax", "checkpoints", "--workdir", workdir, *flags)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    result = json.loads(done.stdout)
    assert result.pop("job") == "checkpoints" and result.pop("goodput") is None  # nothing is recorded
    return result, done.stderr


def damage(folder):
    """Flips a bit in the largest file of a checkpoint."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    largest = max(files, key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 4
    largest.write_bytes(data)


def aside(workdir, step, name=None):
    (workdir / "checkpoints_damaged").mkdir(exist_ok=True)
    target = workdir / "checkpoints_damaged" / (name or str(step))
    return shutil.move(workdir / "checkpoints" / str(step), target)


def test_intact_checkpoints_are_taken_back_and_damaged_ones_are_not(workdir):
    aside(workdir, 2)
    damage(aside(workdir, 3))
    result, log = run(workdir)
    assert result == {
        "intact": [1],
        "damaged": [],
        "unreadable": [],
        "aside": [2],
        "restored": [],
        "best": None,
    }
    assert "checkpoints_damaged/2: intact, error 0.2500, moved aside\n" in log
    assert "checkpoints_damaged/3: damaged (" in log
    assert "--restore takes back" in log and saved_steps(workdir) == [1]
    result, log = run(workdir, "--restore")
    assert result == {
        "intact": [1],
        "damaged": [],
        "unreadable": [],
        "aside": [],
        "restored": [2],
        "best": 2,
    }
    assert saved_steps(workdir) == [1, 2]
    assert [path.name for path in (workdir / "checkpoints_damaged").iterdir()] == ["3"]
    assert run(workdir, "--restore")[0]["intact"] == [1, 2]


def test_a_checkpoint_that_may_not_be_read_is_not_called_damaged(workdir, monkeypatch):
    """Orbax does not find what is in a folder that it may not read."""
    shutil.rmtree(workdir / "checkpoints" / "3" / "meta")
    assert inspect_checkpoints(workdir, restore=False)["damaged"] == [3]
    monkeypatch.setattr(os, "access", lambda path, mode: "checkpoints/3/" not in str(path))
    found = inspect_checkpoints(workdir, restore=False)
    assert found["intact"] == [1, 2] and found["damaged"] == [] and found["unreadable"] == [3]
    with pytest.raises(UserError, match="checkpoints/3 could not be read .*Permission denied.*: fix"):
        read_params(workdir / "checkpoints" / "3")


def test_a_checkpoint_that_its_run_deletes_is_not_called_damaged(workdir, monkeypatch):
    """A running training deletes its older checkpoints, perhaps just when this one is read."""
    verify = command.verify

    def verify_late(folder):
        if folder.name == "2":
            shutil.rmtree(folder / "meta")
            threading.Timer(0.3, shutil.rmtree, (folder,)).start()
        return verify(folder)

    monkeypatch.setattr(command, "verify", verify_late)
    found = inspect_checkpoints(workdir, restore=False)
    assert 2 not in found["damaged"] + found["intact"] and len(found["intact"]) == 2


@pytest.mark.parametrize("name", ["metrics.jsonl", "newest_checkpoint.json"])
def test_figures_that_may_not_be_read_are_one_line(workdir, monkeypatch, name):
    forbid_reading(monkeypatch, name)
    expected = f"{workdir / name} cannot be read: Permission denied: change its permissions or move it away"
    with pytest.raises(UserError) as refused:
        inspect_checkpoints(workdir, restore=False)
    assert str(refused.value) == expected


def test_taking_back_replaces_nothing(workdir):
    copy = shutil.copytree(workdir / "checkpoints" / "3", workdir / "copy")
    aside(workdir, 3, "3.1")
    shutil.move(copy, workdir / "checkpoints" / "3")
    damage(workdir / "checkpoints" / "3")
    result, log = run(workdir, "--restore")
    assert result["damaged"] == [3] and result["aside"] == [3] and result["restored"] == []
    assert "checkpoints_damaged/3.1: intact, moved aside; checkpoints/3 exists" in log
    shutil.rmtree(workdir / "checkpoints" / "3")
    assert run(workdir, "--restore")[0]["restored"] == [3]


def test_checkpoints_that_training_ignores_because_of_their_names_are_named_and_renamed(workdir):
    run_folder = workdir / "checkpoints"
    shutil.copytree(run_folder / "3", run_folder / "3.1")
    (run_folder / "2").rename(run_folder / "2.")
    damage(shutil.copytree(run_folder / "1", run_folder / "1.1"))
    (run_folder / "²").mkdir()  # a digit, but no number
    aside(workdir, 3, "3.")
    result, log = run(workdir)
    assert result == NOTHING | {"intact": [1], "aside": [2, 3, 3], "best": None}
    assert "checkpoints/2.: intact, error 0.2500, ignored by training because of its name\n" in log
    assert "checkpoints/1.1: damaged (" in log and "checkpoints_damaged/3.: intact, moved aside\n" in log
    assert "--restore takes back intact checkpoints as checkpoints/<step>, if that does not exist" in log
    result, log = run(workdir, "--restore")
    assert result == NOTHING | {"intact": [1], "restored": [2, 3], "aside": [3], "best": 2}
    assert "checkpoints/3.1: intact, taken back as checkpoints/3\n" in log
    assert "checkpoints_damaged/3.: intact, moved aside; checkpoints/3 exists\n" in log
    assert saved_steps(workdir) == [1, 2, 3]


def test_a_renamed_checkpoint_is_not_intact(workdir):
    (workdir / "checkpoints" / "3").rename(workdir / "checkpoints" / "4")
    result, log = run(workdir)
    assert result["damaged"] == [4] and "its contents belong to step 3" in log


def test_a_run_without_checkpoints_names_the_command_that_takes_them_back(workdir):
    for step in (1, 2, 3):
        aside(workdir, step)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_at(0))
    checkpoints = Checkpointer(workdir, keep=3)
    with pytest.raises(UserError, match=f"`muskie checkpoints --workdir {workdir} --restore` takes back"):
        checkpoints.restore(like, default_config())
    checkpoints.close()
    assert run(workdir, "--restore")[0]["restored"] == [1, 2, 3]
    checkpoints = Checkpointer(workdir, keep=3)
    assert int(checkpoints.restore(like, default_config())[0].step) == 3
    checkpoints.close()


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    done = run_in_process("muskie_jax", "checkpoints", "--workdir", tmp_path)
    assert "has no folder checkpoints: use the --workdir of a training" in complaint_of(done)
