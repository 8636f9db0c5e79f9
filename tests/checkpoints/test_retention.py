"""Old checkpoints that cannot be deleted do not end a run whose saves are good."""

import os
import shutil

import jax
import jax.numpy as jnp
import pytest

from muskie_jax.checkpoint import Checkpointer
from muskie_jax.checkpoints.newest import remembered
from muskie_jax.checkpoints.saved_steps import saved_steps
from muskie_jax.config import default_config
from muskie_jax.train_step import TrainState


def state_at(step):
    return TrainState(jnp.int32(step), {"kernel": jax.random.normal(jax.random.key(step), (8, 4))}, ())


def save(checkpoints, *steps):
    for step in steps:
        checkpoints.save(state_at(step), default_config())
        checkpoints._manager.wait_until_finished()
        checkpoints.check()


@pytest.mark.parametrize("cores", [1, 16])  # Orbax deletes in another way on many
@pytest.mark.parametrize("fault", ["link", "refused"])
def test_a_checkpoint_that_cannot_be_deleted_is_one_warning(fault, cores, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    checkpoints = Checkpointer(tmp_path / "run", keep=1)
    save(checkpoints, 1)
    if fault == "link":
        away = shutil.move(checkpoints.folder / "1", tmp_path / "away")
        (checkpoints.folder / "1").symlink_to(away)
        files = sorted(tmp_path.joinpath("away").rglob("*"))
    else:
        rmdir = os.rmdir

        def refused(path, *arguments, **options):
            if str(path).endswith(("1", "2")):
                raise PermissionError(13, "Permission denied", str(path))
            return rmdir(path, *arguments, **options)

        monkeypatch.setattr(os, "rmdir", refused)
    save(checkpoints, 2, 3, 4)
    checkpoints.close()
    log = capfd.readouterr().err
    reason = "it is a symbolic link" if fault == "link" else "Permission denied"
    assert log.count("WARNING") == 1 and f"checkpoints/1 could not be deleted ({reason})" in log, log
    assert remembered(tmp_path / "run") == 4
    assert saved_steps(tmp_path / "run") == ([1, 4] if fault == "link" else [1, 2, 4])
    if fault == "link":
        assert sorted(tmp_path.joinpath("away").rglob("*")) == files
