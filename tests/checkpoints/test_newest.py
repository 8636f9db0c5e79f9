"""A run whose checkpoints seem to be gone does not start from the beginning."""

import json
import shutil

import jax
import jax.numpy as jnp
import pytest

from muskie_jax.checkpoint import Checkpointer
from muskie_jax.checkpoints.newest import FILE, remembered
from muskie_jax.checkpoints.saved_steps import checkpoint_errors
from muskie_jax.config import default_config
from muskie_jax.errors import UserError
from muskie_jax.train_step import TrainState


def state_at(step):
    return TrainState(jnp.int32(step), {"kernel": jax.random.normal(jax.random.key(step), (8, 4))}, ())


def save(workdir, *steps, spike=None):
    checkpoints = Checkpointer(workdir, keep=1)
    checkpoints.spike = spike
    for step in steps:
        checkpoints.save(state_at(step), default_config())
    checkpoints.close()


def restore(workdir):
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_at(0))
    checkpoints = Checkpointer(workdir, keep=1)
    try:
        found = checkpoints.restore(like, default_config())
    finally:
        checkpoints.close()
    return found and int(found[0].step), checkpoints.spike


def test_an_empty_folder_of_checkpoints_is_refused(tmp_path):
    assert restore(tmp_path) == (None, None) and remembered(tmp_path) is None
    save(tmp_path, 1, 2)
    assert remembered(tmp_path) == 2 and restore(tmp_path) == (2, None)
    away = shutil.move(tmp_path / "checkpoints", tmp_path / "away")
    (tmp_path / "checkpoints").mkdir()  # as a disk that is not mounted
    with pytest.raises(UserError, match="but this run has saved step 2: mount its disk") as refused:
        restore(tmp_path)
    assert str(tmp_path / FILE) in str(refused.value)
    shutil.rmtree(tmp_path / "checkpoints")
    shutil.move(away, tmp_path / "checkpoints")
    assert restore(tmp_path) == (2, None)


def test_a_newer_checkpoint_that_is_gone_is_named(tmp_path, capsys):
    save(tmp_path, 1)
    kept = shutil.copytree(tmp_path / "checkpoints/1", tmp_path / "1")
    save(tmp_path, 2)
    shutil.rmtree(tmp_path / "checkpoints/2")
    shutil.move(kept, tmp_path / "checkpoints/1")
    assert restore(tmp_path) == (1, None)
    assert "WARNING: step 2 was saved too, but is no longer in" in capsys.readouterr().err


@pytest.mark.parametrize("deleted", ["checkpoints", FILE])
def test_who_deletes_one_of_both_starts_from_the_beginning(tmp_path, deleted, capsys):
    save(tmp_path, 1)
    shutil.rmtree(tmp_path / "checkpoints")
    if deleted == FILE:
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / FILE).unlink()
    assert restore(tmp_path) == (None, None)
    log = capsys.readouterr().err
    assert ("WARNING: step 1 was saved, but" in log) == (deleted == "checkpoints")


def test_a_link_to_a_disk_that_is_not_mounted_is_named(tmp_path):
    (tmp_path / "checkpoints").symlink_to("/mnt/away")
    with pytest.raises(UserError, match="checkpoints is a link to /mnt/away, which does not exist: mount"):
        restore(tmp_path)


def test_a_save_that_is_not_complete_is_not_recorded(tmp_path, monkeypatch):
    checkpoints = Checkpointer(tmp_path, keep=1)
    checkpoints.save(state_at(1), default_config())
    with monkeypatch.context() as busy:
        busy.setattr(checkpoints._manager, "is_saving_in_progress", lambda: True)
        checkpoints.check()
        assert remembered(tmp_path) is None
    checkpoints.close()
    assert remembered(tmp_path) == 1


def test_a_damaged_record_ends_nothing(tmp_path):
    save(tmp_path, 1)
    damages = ["", "{", "[]", "\xff", '{"step": "x"}', json.dumps({"step": None}), '{"step": 1e400}']
    huge = '{"step": null, "errors": {"1": 1%s}}' % ("0" * 400)
    for text in (*damages, "[" * 100_000, huge):
        (tmp_path / FILE).write_text(text)
        assert remembered(tmp_path) is None and restore(tmp_path) == (1, None)


def test_damaged_lines_of_metrics_end_nothing(tmp_path):
    save(tmp_path, 1)
    huge = "1" + "0" * 400
    lines = [
        "[" * 100_000,
        f'{{"step": 1, "evaluation/mse": {huge}}}',
        f'{{"step": 1, "train/spike": {huge}}}',
    ]
    lines += ['{"step": 1, "train/spike": 1e400}', "{"]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert restore(tmp_path) == (1, None) and checkpoint_errors(tmp_path) == {}


def test_a_checkpoint_knows_the_spike_before_it(tmp_path):
    """A killed run may not have logged it."""
    save(tmp_path, 6, spike=5)
    assert restore(tmp_path) == (6, 5)
    rows = [{"step": 4, "train/spike": 3}, {"step": 8, "train/spike": 7}, {"step": 9, "train/spike": "x"}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert restore(tmp_path) == (6, 5), "update 7 is not made yet"
