"""Before training, a run checks that it will be able to save."""

import collections
import os
import shutil

import jax
import jax.numpy as jnp
import pytest

from muskie_jax.checkpoint import Checkpointer
from muskie_jax.checkpoints.disk import check_disk
from muskie_jax.checkpoints.saved_steps import saved_steps
from muskie_jax.config import default_config
from muskie_jax.errors import UserError
from muskie_jax.train_step import TrainState

STATE = {"kernel": jax.ShapeDtypeStruct((500, 1000, 1000), jnp.float32)}  # 2 GB
Usage = collections.namedtuple("Usage", "free")


@pytest.mark.parametrize("existing, needed", [(0, 4), (2, 2), (9, 1)])
def test_a_disk_without_room_is_named(tmp_path, monkeypatch, capsys, existing, needed):
    keeping = default_config().checkpoint
    assert keeping.keep == 3
    for step in range(existing):
        (tmp_path / "checkpoints" / str(step)).mkdir(parents=True)
    (tmp_path / "checkpoints/7.orbax-checkpoint-tmp").mkdir(parents=True)
    for free, warns in ((2e9 * needed, False), (2e9 * needed - 1, True)):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: Usage(free))
        check_disk(tmp_path, STATE, keeping, list)
        log = capsys.readouterr().err
        assert (f"needs {needed} more checkpoints of 2.0 GB" in log) == warns


def test_a_folder_that_may_not_be_written_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(UserError, match=f"{tmp_path}/checkpoints is not writable: change its permissions"):
        check_disk(tmp_path, STATE, default_config().checkpoint, list)


def state_at(step):
    return TrainState(jnp.int32(step), {"kernel": jax.random.normal(jax.random.key(step), (8, 4))}, ())


@pytest.mark.parametrize("free", [0, 1e9])
def test_a_full_disk_gets_room_by_checkpoints_that_are_no_longer_kept(tmp_path, monkeypatch, capsys, free):
    """The run continues with a lower `keep`, although its next save could not be written."""
    before = Checkpointer(tmp_path, keep=4)
    for step in (1, 2, 3, 4):
        before.save(state_at(step), default_config())
    before.close()
    keeping = default_config().checkpoint
    keeping.keep = 1
    checkpoints = Checkpointer(tmp_path, keep=1, keep_every=2)
    checkpoints.spike = 2
    small = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_at(0))
    restored = checkpoints.restore(small, default_config())
    assert restored and int(restored[0].step) == 4
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free))
    check_disk(tmp_path, small, keeping, checkpoints.delete_old)
    log = capsys.readouterr().err
    assert ("no room for a checkpoint: deleted 3, which config.checkpoint no longer keeps" in log) == (
        not free
    )
    assert saved_steps(tmp_path) == ([1, 2, 3, 4] if free else [1, 2, 4])
    checkpoints.save(state_at(5), default_config())
    checkpoints.close()
    assert saved_steps(tmp_path) == [1, 2, 4, 5] and "WARNING: the old" not in capsys.readouterr().err


def test_what_interrupted_saves_left_is_deleted(tmp_path, capsys):
    folder = tmp_path / "checkpoints"
    for name in ("5", "7.orbax-checkpoint-tmp", "8.orbax-checkpoint-tmp-123", "notes"):
        (folder / name / "state").mkdir(parents=True)
    check_disk(tmp_path, {}, default_config().checkpoint, list)
    assert sorted(path.name for path in folder.iterdir()) == ["5", "notes"]
    assert capsys.readouterr().err.count("which an interrupted save left") == 2


def test_what_cannot_be_deleted_is_refused_before_training(tmp_path, monkeypatch, capsys):
    """The save of that step would fail, after each start."""
    left = tmp_path / "checkpoints/7.orbax-checkpoint-tmp"
    (left / "state").mkdir(parents=True)

    def refuse(path, *_, **__):
        raise PermissionError(1, "Operation not permitted", str(path))

    for name in ("rmdir", "unlink"):  # as of files with the attribute "immutable"
        monkeypatch.setattr(os, name, refuse)
    match = rf"{left}, which an interrupted save left, could not be deleted \(Operation not permitted\): "
    with pytest.raises(UserError, match=match) as refused:
        check_disk(tmp_path, {}, default_config().checkpoint, list)
    assert left.is_dir() and "\n" not in str(refused.value)
    (tmp_path / "checkpoints/8").mkdir()
    check_disk(tmp_path, {}, default_config().checkpoint, list)  # step 7 is not saved again
    assert f"WARNING: {left}, which an interrupted save left, could not be" in capsys.readouterr().err
