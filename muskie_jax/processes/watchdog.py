"""Ends a run that hangs, so that a launcher can start it again.

Three things can hang for ever: the loading of data, a device, and the disk of the checkpoints. Each has a
limit. Without data, the training loop itself still saves the state and stops (`wait_for_batch`). A device
or a disk that hangs blocks the loop, so a thread ends the process (`Watchdog`).
"""

import collections
import contextlib
import dataclasses
import faulthandler
import math
import os
import pathlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
from ml_collections import ConfigDict

from muskie_jax.checks import at_least
from muskie_jax.errors import TRY_AGAIN, Hung, fail_at_once

if TYPE_CHECKING:  # configs contain the settings below, and must not import all of the data pipeline
    from muskie_jax.data.pipeline import Pipeline
    from muskie_jax.data.prefetch import Prefetched

POLL_SECONDS = 1.0
SUSPENDED_SECONDS = 5.0  # without a poll, after which this process must have been stopped


@dataclasses.dataclass(frozen=True)
class WatchdogSettings:
    """Limits after which a run that hangs is ended: `config.watchdog`. Compilation has no limit.

    Attributes:
      batch_minutes: longest wait for a batch, and on average for a batch of the evaluation, which is loaded
        before training. During training the state is saved then. 0: no limit.
      step_minutes: longest time that the devices may take for an update, and on average for a batch of the
        evaluation. The run ends without saving, since the devices have the state. 0: no limit.
      save_minutes: longest time to save a checkpoint, also in the background. 0: no limit.
    """

    batch_minutes: float = 10.0
    step_minutes: float = 20.0
    save_minutes: float = 30.0


def check_watchdog(watchdog: ConfigDict) -> None:
    """Raises UserError for an invalid value of `config.watchdog`."""
    at_least(0, watchdog, "config.watchdog", *watchdog)


@dataclasses.dataclass
class _Watched:
    """Something that must finish.

    Attributes:
      name: what it is, in messages.
      setting: the setting that limits it.
      seconds: its limit.
      finished: whether it has finished; None while the main thread is busy with it.
      start: time at which it started.
    """

    name: str
    setting: str
    seconds: float
    finished: Callable[[], bool] | None = None
    start: float = dataclasses.field(default_factory=time.monotonic)


class Watchdog:
    """A context in which a thread ends the process if an update, an evaluation or a save hangs.

    Args:
      limits: `config.watchdog`.
      workdir: folder for the stacks of all threads.
      describe_restart: describes where a new start would continue; see `Checkpointer.describe_restart`.
      end: function that ends the process, given a message and an exit status.
    """

    def __init__(
        self,
        limits: ConfigDict,
        workdir: pathlib.Path,
        describe_restart: Callable[[], str],
        end: Callable[[str, int], Any] = fail_at_once,
    ):
        self._limits, self._workdir = limits, workdir
        self._describe_restart, self._end = describe_restart, end
        self._watched: collections.deque[_Watched] = collections.deque()
        self._saves: list[_Watched] = []
        self._lock = threading.Lock()
        self._done = threading.Event()

    def __enter__(self) -> "Watchdog":
        self._done.clear()
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._done.set()

    @contextlib.contextmanager
    def update(self, step: int) -> Iterator[Callable[[Any], None]]:
        """Limits the time from the start of update `step` until the devices finish it.

        Yields a function to call with the update's results. Updates run one after the other, so the time of
        an update that waits for earlier ones on the devices starts when they have finished.
        """
        watched = self._add(f"update {step}", "step_minutes")
        results: list[Any] = []
        try:
            yield results.append
        finally:
            leaves = jax.tree.leaves(results)
            watched.finished = lambda: all(leaf.is_ready() for leaf in leaves)

    @contextlib.contextmanager
    def batches(self, name: str, setting: str, count: int) -> Iterator[None]:
        """Limits the time inside the context to `count` times the limit `setting`.

        Args:
          name: what is done there, in the message.
          setting: name of a setting of `config.watchdog`.
          count: number of batches that are loaded or computed there.
        """
        watched = self._add(name, setting, count)
        try:
            yield
        finally:
            watched.finished = lambda: True

    @contextlib.contextmanager
    def save(self, step: int, in_progress: Callable[[], bool]) -> Iterator[None]:
        """Limits the time of a save that starts inside the context, and goes on while `in_progress()`."""
        watched = self._add(f"saving the state of step {step}", "save_minutes", queue=self._saves)
        try:
            yield
        finally:
            watched.finished = lambda: not in_progress()

    def _add(self, name: str, setting: str, times: int = 1, queue: Any = None) -> _Watched:
        seconds = 60 * times * self._limits[setting] or math.inf
        watched = _Watched(name, f"config.watchdog.{setting}", seconds)
        with self._lock:
            (self._watched if queue is None else queue).append(watched)
        return watched

    def _run(self) -> None:
        free = 0.0  # time at which the devices finished the latest update
        polled = time.monotonic()
        while not self._done.wait(POLL_SECONDS):
            before, polled = polled, time.monotonic()
            with self._lock:
                if polled - before > SUSPENDED_SECONDS:  # this process was stopped, such as by Ctrl-Z
                    for watched in (*self._watched, *self._saves):
                        watched.start = min(polled, watched.start + polled - before)
                    free = polled
                while self._watched and _is_finished(self._watched[0]):
                    self._watched.popleft()
                    free = time.monotonic()
                self._saves[:] = [save for save in self._saves if not _is_finished(save)]
                oldest = list(self._watched)[:1]
            now = time.monotonic()
            for watched in (*oldest, *self._saves):
                since = watched.start if watched in self._saves else max(watched.start, free)
                if now - since > watched.seconds:
                    return self._report(watched)

    def _report(self, hung: _Watched) -> None:
        stacks = write_stacks(self._workdir)
        if hung not in self._saves:  # a save in progress does not need the devices any more
            deadline = time.monotonic() + 60 * self._limits.save_minutes
            while self._saves and not _is_finished(self._saves[0]) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        self._end(
            f"{hung.name} has not finished within {hung.seconds / 60:g} minutes: the run is ended, and the "
            f"same command continues from {self._describe_restart()} (stacks of all threads: {stacks}; "
            f"limit: {hung.setting})",
            TRY_AGAIN,
        )


def _is_finished(watched: _Watched) -> bool:
    if watched.finished is None:
        return False
    try:
        return watched.finished()
    except Exception:  # the results are deleted, or are errors, which the training loop reports
        return True


def wait_for_batch(
    batches: "Prefetched[Any]",
    pipeline: "Pipeline",
    limits: ConfigDict,
    workdir: pathlib.Path,
    cancelled: Callable[[], bool],
) -> bool:
    """Waits until a batch, or an error of the pipeline, is ready; returns False if `cancelled()` before.

    The pipeline yields no further batches after this returned False or raised an error.

    Args:
      batches: the batches.
      pipeline: the pipeline that they come from.
      limits: `config.watchdog`.
      workdir: folder for the stacks of all threads.
      cancelled: whether to stop waiting; called several times a second.

    Raises:
      Hung: if there is no batch within the limit.
    """
    minutes = limits.batch_minutes
    try:
        if batches.wait(60 * minutes or math.inf, cancelled):
            return True
        pipeline.abandon()
        return False
    except TimeoutError:
        cause = pipeline.describe_wait() or "the copy of a batch to the devices"
        stacks = write_stacks(workdir, pipeline.worker_stacks())
        pipeline.abandon()
        raise Hung(
            f"no batch within {minutes:g} minutes, because of {cause}: repair the cause, then run the same "
            f"command to continue (stacks of all threads: {stacks}; limit: config.watchdog.batch_minutes)"
        ) from None


def write_stacks(workdir: pathlib.Path, of_workers: str = "") -> pathlib.Path | str:
    """Writes the stacks of all threads of this process to a file; returns its path, or why there is none.

    Args:
      workdir: the folder of the file.
      of_workers: stacks of worker processes, to be appended.
    """
    path = workdir / f"stacks_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}.txt"
    try:
        with path.open("w") as file:
            file.write(f"Process {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
            file.flush()
            faulthandler.dump_traceback(file)
            file.write(f"\n{of_workers}")
    except OSError as error:
        return f"none, {path} cannot be written: {error.strerror}"
    return path
