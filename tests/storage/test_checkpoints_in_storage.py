"""Checkpoints in object storage are complete or ignored; failing requests lose none."""

import gc
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.checkpoint import Checkpointer
from muskie_jax.checkpoints import disk, object_storage
from muskie_jax.checkpoints.contents import read_params
from muskie_jax.checkpoints.object_storage import MARKER
from muskie_jax.checkpoints.saved_steps import saved_steps
from muskie_jax.config import default_config
from muskie_jax.errors import SaveFailed, UserError
from muskie_jax.storage.address import filesystem
from muskie_jax.train_step import TrainState
from muskie_tests.commands import run_in_process
from muskie_tests.object_storage import CUT

pytestmark = [
    pytest.mark.extras,
    # Orbax abandons the other coroutines of a failed read; collecting them warns.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


def state_at(step):
    key = jax.random.key(step)
    params = {"kernel": jax.random.normal(key, (64, 32)), "bias": jnp.arange(32.0)}
    return TrainState(jnp.int32(step), params, (jax.random.normal(key, (64, 32)),))


def like(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


def saved(workdir, *steps):
    checkpoints = Checkpointer(workdir, keep=3)
    for step in steps:
        checkpoints.save(state_at(step), default_config())
    checkpoints.close()


def restored(workdir):
    checkpoints = Checkpointer(workdir, keep=3)
    try:
        return checkpoints.restore(like(state_at(0)), default_config())
    finally:
        checkpoints.close()
        gc.collect()  # those coroutines now, not in a test of another file


def objects(workdir):
    files = filesystem(workdir)
    base = files._strip_protocol(str(workdir))
    return {path[len(base) + 1 :] for path in files.find(base)}


def damage(checkpoint):
    """Flips a bit in the largest object of a checkpoint."""
    files = filesystem(checkpoint)
    largest = max(files.find(str(checkpoint)), key=files.size)
    data = bytearray(files.cat_file(largest))
    data[len(data) // 2] ^= 4
    files.pipe_file(largest, bytes(data))


def steps_of(workdir, folder):
    found = {name.split("/")[1] for name in objects(workdir) if name.startswith(f"{folder}/")}
    return sorted(found)


def test_restoring_returns_what_was_saved(workdir):
    assert restored(workdir) is None
    saved(workdir, 1, 2, 3, 4)
    state, config = restored(workdir)
    jax.tree.map(np.testing.assert_array_equal, state, state_at(4))
    assert config["optim"]["b2"] == 0.95
    assert saved_steps(workdir) == [2, 3, 4] and steps_of(workdir, "checkpoints") == ["2", "3", "4"]
    params, step, _ = read_params(workdir / "checkpoints" / "3")
    np.testing.assert_array_equal(params["kernel"], state_at(3).params["kernel"])
    assert step == 3


def test_checkpoints_that_are_not_listed_are_missed(workdir):
    saved(workdir, 1, 2)
    object_storage.move(workdir / "checkpoints" / "1", workdir / "1")
    object_storage.move(workdir / "checkpoints" / "2", workdir / "2")
    with pytest.raises(UserError, match="but this run has saved step 2"):
        restored(workdir)
    object_storage.move(workdir / "2", workdir / "checkpoints" / "2")
    assert int(restored(workdir)[0].step) == 2


def test_a_step_without_its_marker_is_neither_restored_nor_kept(workdir):
    saved(workdir, 1, 2)
    (workdir / "checkpoints" / "2" / MARKER).unlink()
    assert saved_steps(workdir) == [1]
    assert int(restored(workdir)[0].step) == 1
    assert steps_of(workdir, "checkpoints") == ["1"]
    assert not (workdir / "checkpoints_damaged").exists()
    saved(workdir, 2)
    assert int(restored(workdir)[0].step) == 2


def test_an_incomplete_step_that_cannot_be_deleted_is_refused_before_training(
    store, workdir, monkeypatch, capsys
):
    monkeypatch.setattr(disk, "SECONDS_BETWEEN", 0.1)
    saved(workdir, 1, 2)
    (workdir / "checkpoints" / "2" / MARKER).unlink()
    keeping = default_config().checkpoint
    store.fault = lambda method, path: 403 if method in ("DELETE", "POST") else None
    try:
        assert int(restored(workdir)[0].step) == 1
        with pytest.raises(UserError, match="checkpoints/2, which an interrupted save left, could not be"):
            disk.check_disk(workdir, {}, keeping, list)
    finally:
        store.fault = lambda method, path: None
    assert steps_of(workdir, "checkpoints") == ["1", "2"]
    assert int(restored(workdir)[0].step) == 1  # deletes it
    disk.check_disk(workdir, {}, keeping, list)
    assert capsys.readouterr().err.count("Waiting until") <= 2 and saved_steps(workdir) == [1]


def test_a_damaged_checkpoint_is_moved_aside_and_an_intact_one_taken_back(workdir):
    saved(workdir, 1, 2, 3)
    damage(workdir / "checkpoints" / "3")
    object_storage.move(workdir / "checkpoints" / "2", workdir / "checkpoints_damaged" / "2")
    assert int(restored(workdir)[0].step) == 1
    assert steps_of(workdir, "checkpoints_damaged") == ["2", "3"]
    done = run_in_process("muskie_jax", "checkpoints", "--workdir", workdir, "--restore")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["intact"], result["restored"]) == ([1], [2])
    assert saved_steps(workdir) == [1, 2]


@pytest.mark.parametrize("requests", [1, 4, 9, 12])
def test_a_move_that_is_interrupted_leaves_a_complete_checkpoint(store, workdir, requests):
    saved(workdir, 1)
    source, target = workdir / "checkpoints" / "1", workdir / "checkpoints_damaged" / "1"
    changes = []

    def fault(method, path):
        changes.extend([path] * (method in ("PUT", "POST", "DELETE")))
        return 403 if len(changes) > requests else None

    store.fault = fault
    with pytest.raises(OSError):
        object_storage.move(source, target)
    store.fault = lambda method, path: None
    complete = [folder for folder in (source, target) if object_storage.is_complete(folder)]
    assert complete
    for folder in complete:
        assert read_params(folder)[1] == 1


@pytest.mark.slow
def test_requests_that_fail_for_a_while_change_nothing(store, workdir):
    count = 0

    def fault(method, path):
        nonlocal count
        count += 1
        return {0: 503, 7: CUT if method in ("PUT", "POST") else 503, 14: 0.3}.get(count % 23)

    store.fault = fault
    saved(workdir, 1, 2)
    state, _ = restored(workdir)
    jax.tree.map(np.testing.assert_array_equal, state, state_at(2))
    assert count > 50 and not (workdir / "checkpoints_damaged").exists()


@pytest.mark.slow
def test_a_store_that_refuses_to_be_read_moves_nothing(store, workdir):
    saved(workdir, 1, 2)
    store.fault = lambda method, path: 403 if "checkpoints/2/" in path and "/d/" in path else None
    with pytest.raises(UserError, match="checkpoint 2 in .* could not be read") as error:
        restored(workdir)
    assert "\n" not in str(error.value)
    store.fault = lambda method, path: None
    assert saved_steps(workdir) == [1, 2]


@pytest.mark.slow
def test_a_refused_save_is_one_line_and_the_last_good_step_stays(store, workdir):
    saved(workdir, 1)
    store.fault = lambda method, path: (
        403 if "checkpoints/2/" in path and method in ("PUT", "POST") else None
    )
    with pytest.raises(SaveFailed, match="the newest checkpoint is 1: .* details: ") as error:
        saved(workdir, 2)
    assert "\n" not in str(error.value)
    store.fault = lambda method, path: None
    assert "Traceback" in (workdir / "errors.txt").read_text()
    assert int(restored(workdir)[0].step) == 1


@pytest.mark.slow
def test_a_connection_that_breaks_during_a_save_is_one_line(store, workdir, capfd, caplog):
    saved(workdir, 1)
    caplog.clear()
    store.fault = lambda method, path: CUT if "checkpoints/2" in path else None
    with pytest.raises(SaveFailed, match="the newest checkpoint is 1: .* details: "):
        saved(workdir, 2)
    store.fault = lambda method, path: None
    assert "Traceback" in (workdir / "errors.txt").read_text()
    assert "Traceback" not in capfd.readouterr().err
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_store_that_refuses_deletes_is_one_warning(store, workdir, capfd):
    deletes = lambda path: path.startswith("/batch") or path.endswith("?delete")
    store.fault = lambda method, path: 403 if method == "DELETE" or deletes(path) else None
    saved(workdir, 1, 2, 3, 4, 5)
    log = capfd.readouterr().err
    assert log.count("WARNING") == 1 and "checkpoints/1 could not be deleted (" in log, log
    assert saved_steps(workdir) == [1, 2, 3, 4, 5]
    store.fault = lambda method, path: None
    saved(workdir, 6)
    assert saved_steps(workdir) == [4, 5, 6]
