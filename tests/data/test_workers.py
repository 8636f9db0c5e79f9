"""Worker processes that die are replaced without any change of the data; those that hang are named."""

import itertools
import math
import multiprocessing
import os
import signal
import threading
import time

import numpy as np
import pytest

from muskie_jax.config import default_config, folder
from muskie_jax.data import workers
from muskie_jax.data.images import BadImage
from muskie_jax.data.pipeline import Pipeline
from muskie_jax.data.prefetch import prefetch
from muskie_jax.errors import Hung, UserError
from muskie_jax.processes.watchdog import wait_for_batch
from muskie_tests.packs import sampler_of, write_scenes

GROUPS = 4
DEATH = RuntimeError(f"{workers.DIED} with exit code -9. Search the logs.")


def flat(updates):
    return [(bucket, key, batch[key]) for u in updates for bucket, batch in u for key in sorted(batch)]


def live_workers(pipeline):
    """Returns the process ids of the workers, in their order, once all have started."""
    deadline = time.time() + 60
    while True:
        found = [workers._process_of(pipeline._folder, index) for index in range(pipeline.workers)]
        if None not in found:
            return found
        assert time.time() < deadline
        time.sleep(0.05)


@pytest.fixture
def sampler(photo_folder):
    return sampler_of(folder(root=str(photo_folder)))


def hang(folder, index, count):
    """In place of `start_worker`: a worker that never gets as far as writing its process id."""
    time.sleep(600)


def test_workers_that_hang_while_they_start_can_be_abandoned(sampler, monkeypatch):
    monkeypatch.setattr("muskie_jax.data.pipeline.start_worker", hang)
    pipeline, errors = Pipeline(sampler, range(GROUPS), workers=2), []

    def read():
        try:
            next(pipeline.updates())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.1)
    pipeline.abandon()
    thread.join(30)
    assert not thread.is_alive() and workers.DIED in str(errors[0])


def test_a_killed_worker_is_replaced_and_the_batches_are_the_same(sampler, caplog):
    expected = flat(itertools.islice(Pipeline(sampler, range(GROUPS)).updates(), 12))
    pipeline = Pipeline(sampler, range(GROUPS), workers=2)
    updates, found = pipeline.updates(), []
    for step in range(12):
        if step == 1:
            os.kill(live_workers(pipeline)[1], signal.SIGKILL)
        found.append(next(updates))
    updates.close()
    assert not multiprocessing.active_children()
    for (*names, a), (*other_names, b) in zip(flat(found), expected, strict=True):
        assert names == other_names
        np.testing.assert_array_equal(a, b)
    assert caplog.text.count("A data worker died (exit code -9, killed") == 1


def test_workers_that_keep_dying_end_the_run_in_one_line(sampler, monkeypatch):
    monkeypatch.setattr(workers, "MAX_DEATHS", 1)
    pipeline = Pipeline(sampler, range(GROUPS), workers=1)
    updates = pipeline.updates()
    with pytest.raises(UserError, match="data workers died 2 times .*exit code -9.*lower config.data.work"):
        for _ in range(100):
            next(updates)
            os.kill(live_workers(pipeline)[0], signal.SIGKILL)


def test_deaths_long_ago_are_forgotten(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    deaths = workers.Deaths()
    for _ in range(10 * workers.MAX_DEATHS):
        now[0] += 60 * workers.DEATHS_MINUTES / workers.MAX_DEATHS + 1
        deaths.add(DEATH)
    with pytest.raises(UserError, match="died 6 times"):
        deaths.add(DEATH)


def wait(pipeline, batches, workdir, seconds, cancelled=lambda: False):
    limits = default_config().watchdog
    limits.batch_minutes = seconds / 60
    return wait_for_batch(batches, pipeline, limits, workdir, cancelled)


def test_a_stopped_worker_is_named_and_ended(sampler, tmp_path):
    pipeline = Pipeline(sampler, range(GROUPS), workers=2)
    with prefetch(pipeline.updates(), lambda update: update, 2) as batches:
        next(batches)
        stopped = live_workers(pipeline)[1]
        os.kill(stopped, signal.SIGSTOP)
        with pytest.raises(Hung) as caught:
            for _ in range(100):
                assert wait(pipeline, batches, tmp_path, 2.0)
                next(batches)
    message = str(caught.value)
    assert f"because of data worker 2 of 2, process {stopped} (stopped by a signal): repair" in message
    (stacks,) = tmp_path.glob("stacks_*.txt")
    assert str(stacks) in message
    text = stacks.read_text()
    assert "in wait_for_batch" in text and "data worker 1 of 2, process" in text
    assert "in _put_dataset_elements_in_buffer" in text, "the stacks of the other worker"
    assert not multiprocessing.active_children()


def test_a_file_whose_read_never_returns_hangs_a_worker_no_longer_than_the_limit(tmp_path):
    sampler = sampler_of(write_scenes(tmp_path / "photos", 1, 4))
    for path in (tmp_path / "photos" / "scene0").iterdir():
        path.unlink()
        os.mkfifo(path)  # waits for a writer, as a read waits for a file server that is gone
    pipeline = Pipeline(sampler, range(GROUPS), workers=1)
    with prefetch(pipeline.updates(), lambda update: update, 2) as batches:
        while not pipeline._folder:
            time.sleep(0.05)
        live_workers(pipeline)
        time.sleep(2.0)  # it starts to read
        with pytest.raises(
            Hung, match="no batch within .* minutes, because of data worker 1 of 1, process"
        ):
            wait(pipeline, batches, tmp_path, 1.0)
    (stacks,) = tmp_path.glob("stacks_*.txt")
    assert "in read_file" in stacks.read_text()


def test_threads_whose_reads_never_return_hang_no_longer_than_the_limit(sampler, tmp_path, monkeypatch):
    release = threading.Event()

    def read_for_ever(path):
        release.wait(60)
        raise BadImage("released")

    monkeypatch.setattr("muskie_jax.data.images.read_file", read_for_ever)
    pipeline = Pipeline(sampler, range(GROUPS))
    with prefetch(pipeline.updates(), lambda update: update, 2) as batches:
        try:
            with pytest.raises(
                Hung, match="because of the threads that load photographs: repair the cause"
            ):
                wait(pipeline, batches, tmp_path, 0.5)
        finally:
            release.set()
    (stacks,) = tmp_path.glob("stacks_*.txt")
    assert "in read_for_ever" in stacks.read_text()


def test_waiting_can_be_cancelled(sampler, tmp_path):
    pipeline = Pipeline(sampler, range(GROUPS), workers=1)
    with prefetch(pipeline.updates(), lambda update: update, 1) as batches:
        assert wait(pipeline, batches, tmp_path, math.inf)
        os.kill(live_workers(pipeline)[0], signal.SIGSTOP)
        start, asked = time.monotonic(), []

        def cancelled():
            asked.append(True)
            return len(asked) > 2

        while wait(pipeline, batches, tmp_path, math.inf, cancelled):
            next(batches)
    assert time.monotonic() - start < 20
    assert not multiprocessing.active_children() and not list(tmp_path.iterdir())
