"""Old checkpoints that cannot be deleted do not end a run whose saves are good."""

import json
import os
import shutil

import jax
import jax.numpy as jnp
import pytest

from muskie_jax.checkpoint import Checkpointer
from muskie_jax.checkpoints.newest import remembered
from muskie_jax.checkpoints.saved_steps import best_step, checkpoint_errors, saved_steps
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


def test_the_best_checkpoints_are_known_without_the_metrics(tmp_path):
    """Someone who deletes `metrics.jsonl` must not lose them."""
    checkpoints = Checkpointer(tmp_path, keep=1, keep_best=1)
    for step, error in enumerate([0.9, 0.2, float("nan"), 0.5], start=1):
        checkpoints.errors[step] = error
        save(checkpoints, step)
    checkpoints.close()
    assert saved_steps(tmp_path) == [2, 4] and best_step(tmp_path) == 2
    continued = Checkpointer(tmp_path, keep=1, keep_best=1)
    save(continued, 5, 6)
    continued.close()
    assert saved_steps(tmp_path) == [2, 6]
    shutil.rmtree(tmp_path / "checkpoints")  # the run starts again, and its step 2 is not yet evaluated
    assert Checkpointer(tmp_path, keep=1, keep_best=1).errors == {}


@pytest.mark.parametrize("lost", ["4", "checkpoints"])
def test_the_error_of_a_lost_checkpoint_is_forgotten(tmp_path, lost):
    """Its step is trained again, maybe worse, and must not push out what is now the best."""
    checkpoints = Checkpointer(tmp_path, keep=2, keep_best=1)
    for step, error in ((2, 0.2), (4, 0.1)):
        checkpoints.errors[step] = error
        save(checkpoints, step)
    checkpoints.close()
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 2, "evaluation/mse": 0.2}\n{"step": 4, "evaluation/mse": 0.1}\n'
    )
    shutil.rmtree(tmp_path / ("checkpoints/4" if lost == "4" else lost))
    continued = Checkpointer(tmp_path, keep=1, keep_best=1)
    describe = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
    continued.restore(jax.tree.map(describe, state_at(0)), default_config())
    assert continued.errors == ({2: 0.2} if lost == "4" else {})
    continued.close()


def test_errors_that_were_measured_on_something_else_are_not_compared(tmp_path):
    """A later evaluation may be harder. The best of both are kept, and that of the later one is best."""

    def run(measured, *errors, since):
        checkpoints = Checkpointer(tmp_path, keep=1, keep_best=1)
        checkpoints.measure_on(measured, since)
        with (tmp_path / "metrics.jsonl").open("a") as metrics:
            for step, error in enumerate(errors, start=since + 1):
                metrics.write(json.dumps({"step": step, "evaluation/mse": error}) + "\n")
                metrics.flush()
                checkpoints.errors[step] = error
                save(checkpoints, step)
        checkpoints.close()
        return saved_steps(tmp_path), best_step(tmp_path)

    assert run("easy", 0.3, 0.1, 0.2, since=0) == ([2, 3], 2)
    assert run("hard", since=3) == ([2, 3], 2)  # none is evaluated yet
    assert run("hard", 0.9, 0.7, 0.8, since=3) == ([2, 5, 6], 5)
    assert run("hard", 0.6, 0.65, since=6) == ([2, 7, 8], 7)
    assert checkpoint_errors(tmp_path) == {4: 0.9, 5: 0.7, 6: 0.8, 7: 0.6, 8: 0.65}
    (tmp_path / "metrics.jsonl").unlink()
    assert checkpoint_errors(tmp_path) == {7: 0.6, 8: 0.65} and best_step(tmp_path) == 7
    assert run("another", 0.5, 0.55, since=8) == ([7, 9, 10], 9)


def test_errors_in_the_metrics_are_newer(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=1, keep_best=1)
    checkpoints.errors[1] = 0.5
    save(checkpoints, 1)
    checkpoints.close()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "evaluation/mse": 0.25}\n')
    assert Checkpointer(tmp_path, keep=1).errors == checkpoint_errors(tmp_path) == {1: 0.25}
