"""An error of the data in one of several processes stops all of them after the same update."""

import itertools
import random
import threading
import time

import pytest

from muskie_jax.config import default_config
from muskie_jax.data.prefetch import hold_back
from muskie_jax.errors import Hung, UserError
from muskie_jax.processes import interrupt
from muskie_jax.processes.coordination import Coordination
from muskie_jax.processes.interrupt import SignalHandler, StopSignal
from muskie_jax.supply import Supply
from muskie_tests.processes import Store

LAG = 2  # of `MetricsQueue`
PATIENCE = 20.0  # seconds


def test_items_are_held_back_and_all_precede_the_error():
    events = []

    def items():
        for number in range(6):
            events.append(number)
            yield number
        raise UserError("broken")

    held = hold_back(items(), 3, lambda error: events.append(str(error)))
    assert next(held) == 0 and events == [0, 1, 2, 3]
    assert [next(held) for _ in range(2)] == [1, 2] and events[-1] == 5
    assert next(held) == 3 and events[-1] == "broken"
    assert [next(held) for _ in range(2)] == [4, 5]
    with pytest.raises(UserError, match="broken"):
        next(held)


def test_an_error_before_enough_items_is_raised_at_once():
    calls = []
    with pytest.raises(ZeroDivisionError):
        next(hold_back((1 // (3 - number) for number in range(9)), 4, calls.append))
    assert not calls


def test_a_finite_source_is_yielded_whole_and_closed():
    closed = []

    def items():
        try:
            yield from range(5)
            yield from itertools.count(5)
        finally:
            closed.append(True)

    assert list(hold_back(iter(range(3)), 4, print)) == [0, 1, 2]
    held = hold_back(items(), 2, print)
    assert [next(held) for _ in range(4)] == [0, 1, 2, 3]
    held.close()
    assert closed == [True]


class Devices:
    """Updates that need all processes: each finishes when every process has begun it."""

    def __init__(self, processes):
        self.begun, self.changed = [0] * processes, threading.Condition()

    def update(self, process, step):
        with self.changed:
            self.begun[process] = step
            self.changed.notify_all()
            finished = lambda: min(self.begun) >= step - LAG
            assert self.changed.wait_for(finished, PATIENCE), f"update {step - LAG} hangs"


class FakePipeline:
    """Batches that are the numbers of updates, with an error before number `fails_at`."""

    def __init__(self, fails_at, seconds, fault):
        self.fails_at, self.seconds, self.fault = fails_at, seconds, fault
        self._abandoned = threading.Event()

    def updates(self, first, last):
        for number in range(first + 1, last + 1):
            time.sleep(random.uniform(0, self.seconds))
            if number == self.fails_at:
                if self.fault == "hangs":
                    self._abandoned.wait()
                raise UserError("broken")
            yield number

    @property
    def is_abandoned(self):
        return self._abandoned.is_set()

    def abandon(self):
        self._abandoned.set()

    def describe_wait(self):
        return "data worker 1"

    def worker_stacks(self):
        return ""


class Process:
    """The training loop of one process, in a thread."""

    def __init__(self, index, store, processes, devices, pipeline, workdir, seconds):
        self.handler = SignalHandler(exit_code=75)
        coordination = Coordination(store, index, processes)
        coordination._prefix = ""
        self.handler.join(coordination)
        stop = StopSignal()
        stop._handler = self.handler
        config = default_config()
        config.watchdog.batch_minutes = 0.01
        self.supply = Supply(pipeline, lambda batch: batch, stop, LAG, config, workdir)
        self.step, self.error = 0, None
        self.arguments = index, devices, seconds
        self.thread = threading.Thread(target=self.train)
        self.thread.start()

    def train(self):
        index, devices, seconds = self.arguments
        self.handler.begin_training()
        try:
            with self.supply.open(0, 1000):
                while True:
                    assert self.supply.take(self.step) == self.step + 1
                    self.step += 1
                    devices.update(index, self.step)
                    time.sleep(random.uniform(0, seconds))
                    if self.handler.requested(self.step):
                        break
            self.handler.end_training()
        except BaseException as error:
            self.error = error


@pytest.mark.parametrize("fault", ["error", "hangs"])
@pytest.mark.parametrize("fails_at", [5, 6, 30])
@pytest.mark.parametrize("data, steps", [(0.02, 0.0), (0.0, 0.02), (0.01, 0.01)])
def test_all_processes_stop_after_one_update(monkeypatch, tmp_path, fault, fails_at, data, steps):
    """Slow data, slow steps, or both; of three processes, only the last has the fault."""
    monkeypatch.setattr("jax.process_count", lambda: 3)
    monkeypatch.setattr(interrupt, "_program", None)
    random.seed(fails_at)
    store, devices = Store(3), Devices(3)
    pipelines = [FakePipeline(fails_at if index == 2 else None, data, fault) for index in range(3)]
    processes = [
        Process(index, store, 3, devices, pipeline, tmp_path, steps)
        for index, pipeline in enumerate(pipelines)
    ]
    for process in processes:
        process.thread.join(PATIENCE)
        process.handler.part()
    assert [process.error for process in processes] == [None] * 3
    assert len({process.step for process in processes}) == 1 and 1 <= processes[0].step < fails_at
    kinds = [type(process.supply.failure) for process in processes]
    assert kinds == [type(None), type(None), Hung if fault == "hangs" else UserError]


@pytest.mark.parametrize("processes, hangs_at", [(1, 2), (3, LAG + 4)])
def test_data_that_hang_after_the_last_update_are_abandoned_and_stop_nothing(
    monkeypatch, tmp_path, processes, hangs_at
):
    monkeypatch.setattr("jax.process_count", lambda: processes)
    monkeypatch.setattr("muskie_jax.data.prefetch.CLOSE_SECONDS", 0.3)
    pipeline, stop = FakePipeline(hangs_at, 0.0, "hangs"), StopSignal()
    supply = Supply(pipeline, lambda batch: batch, stop, LAG, default_config(), tmp_path)
    with supply.open(0, 1000):
        assert supply.take(0) == 1
    assert pipeline.is_abandoned and not stop.name and supply.failure is None
    assert not any(thread.name == "prefetch" for thread in threading.enumerate())
