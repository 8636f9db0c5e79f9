"""A save that fails is one line, ends the run at once, and leaves the last good checkpoint."""

import contextlib
import os
import pathlib
import resource
import time
import types

import jax
import jax.numpy as jnp
import pytest

from muskie_jax.checkpoint import Checkpointer
from muskie_jax.checkpoints.orbax_messages import OrbaxMessages
from muskie_jax.checkpoints.schedule import SaveSchedule
from muskie_jax.config import default_config
from muskie_jax.errors import SaveFailed
from muskie_jax.files import write_traceback
from muskie_jax.train import train
from muskie_jax.train_step import TrainState
from muskie_tests.runs import nano_config

TEMPORARY = "orbax-checkpoint-tmp"  # in the names of folders that a save writes to


def state_at(step, width=2048):
    params = {"kernel": jax.random.normal(jax.random.key(step), (width, 32))}
    return TrainState(jnp.int32(step), params, ())


@contextlib.contextmanager
def files_of_at_most(size):
    """Lets writes beyond a size fail, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def failing(monkeypatch, owner, name, number):
    """Lets a function of the operating system fail for the temporary folders of a save."""
    works = getattr(owner, name)

    def fails(path, *arguments, **options):
        if TEMPORARY in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return works(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fails)
        yield


FAULTS = {
    "no space for the folder": (lambda patch: failing(patch, os, "mkdir", 28), "No space left"),
    "no permission": (lambda patch: failing(patch, os, "mkdir", 13), "Permission denied"),
    "full disk": (lambda _: files_of_at_most(100_000), "File too large"),
    "rename fails": (lambda patch: failing(patch, os, "rename", 5), "Input/output error"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_failed_save_is_one_line_and_the_last_good_step_stays(
    fault, tmp_path, monkeypatch, capfd, caplog
):
    inject, reason = FAULTS[fault]
    checkpoints = Checkpointer(tmp_path, keep=1)
    checkpoints.save(state_at(1), default_config())
    checkpoints._manager.wait_until_finished()
    start = time.monotonic()
    with inject(monkeypatch), pytest.raises(SaveFailed) as raised:
        checkpoints.save(state_at(2), default_config())
        while time.monotonic() < start + 30:
            checkpoints.check()  # as the training loop does after each step
            time.sleep(0.01)
    message = str(raised.value)
    assert reason in message and "the newest checkpoint is 1" in message and "\n" not in message
    assert f"details: {tmp_path}/errors.txt" in message
    assert "Traceback" in (tmp_path / "errors.txt").read_text()
    checkpoints.close()  # does not wait or raise again
    assert time.monotonic() < start + 30
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err, printed.err
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    again = Checkpointer(tmp_path, keep=1)
    state, _ = again.restore(jax.tree.map(_shape, state_at(0)), default_config())
    again.close()
    assert int(state.step) == 1
    assert not (tmp_path / "checkpoints_damaged").exists()


def _shape(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def test_a_save_that_fails_at_the_end_is_not_lost(tmp_path):
    checkpoints = Checkpointer(tmp_path, keep=1)
    with files_of_at_most(100_000), pytest.raises(SaveFailed, match="there is no earlier checkpoint"):
        checkpoints.save(state_at(1), default_config())
        checkpoints.close()


def test_a_store_that_has_gone_does_not_replace_the_reason(tmp_path, monkeypatch):
    """Its own errors, which are not OSErrors, come up while the message is written."""
    monkeypatch.setattr("muskie_jax.checkpoint.saved_steps", lambda workdir: 1 / 0)
    checkpoints = Checkpointer(tmp_path, keep=1)
    expected = "could not be saved in .*; earlier checkpoints cannot be listed either: fix the cause"
    with files_of_at_most(100_000), pytest.raises(SaveFailed, match=expected):
        checkpoints.save(state_at(1), default_config())
        checkpoints.close()


def test_a_file_of_errors_that_cannot_be_written_goes_elsewhere(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(elsewhere))
    checkpoints = Checkpointer(tmp_path / "run", keep=1)
    (tmp_path / "run" / "errors.txt").mkdir()
    with failing(monkeypatch, os, "mkdir", 28), pytest.raises(SaveFailed) as raised:
        checkpoints.save(state_at(1), default_config())
    assert f"details: {elsewhere}/muskie_run_errors.txt" in str(raised.value)


def test_without_a_folder_of_temporary_files_a_failed_save_is_one_line(tmp_path, monkeypatch):
    def no_folder():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr("tempfile.gettempdir", no_folder)
    checkpoints = Checkpointer(tmp_path / "run", keep=1)
    with failing(monkeypatch, os, "mkdir", 28), pytest.raises(SaveFailed, match="No space left") as raised:
        checkpoints.save(state_at(1), default_config())
    assert f"details: {tmp_path}/run/errors.txt" in str(raised.value)
    assert write_traceback(OSError(5, "of a disk"), tmp_path).parent == tmp_path
    assert write_traceback(OSError(5, "of a disk"), tmp_path / "missing") == pathlib.Path(os.devnull)


def test_coroutines_that_orbax_abandons_are_not_printed():
    """Their representations do not always name Orbax."""
    printed = []
    for file in ("/x/orbax/checkpoint/read.py", "/x/other.py"):
        names: dict = {}
        exec(compile("async def read(): pass", file, "exec"), names)
        coroutine = names["read"]()
        abandoned = types.SimpleNamespace(err_msg=None, object=coroutine, exc_value=ValueError("cut"))
        OrbaxMessages()._ignored(printed.append, abandoned)
        coroutine.close()
    assert [each.object.cr_code.co_filename for each in printed] == ["/x/other.py"]


@pytest.fixture
def no_compiled_programs_on_disk():
    """Under the limit of files, JAX would leave cut ones in the cache, which later tests read."""
    name = "jax_persistent_cache_min_compile_time_secs"
    before = jax.config.values[name]
    jax.config.update(name, 1e9)
    yield
    jax.config.update(name, before)


@pytest.mark.usefixtures("no_compiled_programs_on_disk")
def test_a_failure_in_the_background_ends_the_run_before_the_next_save(photo_folder, tmp_path, monkeypatch):
    config = nano_config(photo_folder)
    config.buckets.update({"resolutions": (((32, 32),),), "views": (4,)})
    config.evaluation.pictures, config.duration = 0, "5_000 steps"
    monkeypatch.setattr(SaveSchedule, "is_due", lambda self, step: step == 3)
    # Orbax splits the state into files of various sizes. It may first notice what a failed write left.
    reasons = "File too large|a file is too short"
    with files_of_at_most(200_000), pytest.raises(SaveFailed, match=reasons):
        train(config, tmp_path, jax.devices()[:1])
    steps = len((tmp_path / "metrics.jsonl").read_text().splitlines())
    assert 3 <= steps < 500, steps
