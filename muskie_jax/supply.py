"""Gives the training loop its batches, and stops a run whose data fail so that no update is lost.

If the data of one process fail, others may have begun updates that it has no batches for, and updates need
all processes. So each of several processes holds some batches back: when one has an error, it asks for a
stop, and all go on to the same update, save, and raise the error together.
"""

import contextlib
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from muskie_jax.data.pipeline import Pipeline
from muskie_jax.data.prefetch import Prefetched, hold_back, prefetch
from muskie_jax.errors import Hung, UserError
from muskie_jax.processes.interrupt import StopSignal
from muskie_jax.processes.watchdog import wait_for_batch

HELD_BACK_SECONDS = 30.0  # for the batches that are held back to arrive, after the others do not


class Supply:
    """The batches of the training loop, which a thread copies to the devices ahead of time.

    Args:
      pipeline: the batches on the host.
      copy: function that copies the batches of an update to the devices.
      stop: the stop signal of the run.
      in_flight: number of updates that the loop starts before it waits for the oldest.
      config: the config of the run.
      workdir: folder for stacks, if no batch arrives.

    Attributes:
      failure: the error for which this one of several processes has asked all to stop; None without one.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        copy: Callable[[Any], Any],
        stop: StopSignal,
        in_flight: int,
        config: ConfigDict,
        workdir: pathlib.Path,
    ):
        self.failure: Exception | None = None
        self._pipeline, self._copy, self._stop = pipeline, copy, stop
        self._config, self._workdir = config, workdir
        self._alone = jax.process_count() == 1
        # When one process has an error, others may have begun `in_flight` updates more, and are about to
        # begin another. All stop after the update that follows.
        self._held_back = in_flight + 2
        self._batches: Prefetched[Any] | None = None
        self._closed = False  # errors of batches that nobody takes do not matter

    @contextlib.contextmanager
    def open(self, first: int, last: int) -> Iterator[None]:
        """Loads the updates from `first` to before `last` while the context is open."""
        updates = self._pipeline.updates(first, last)
        if not self._alone:
            updates = hold_back(updates, self._held_back, self._settle)
        ahead, abandon = self._config.data.prefetch, self._pipeline.abandon
        with prefetch(updates, self._copy, ahead, abandon) as self._batches:
            try:
                yield
            finally:
                self._closed = True

    def take(self, step: int) -> Any | None:
        """Returns the batches of update `step` + 1; None if the run is to stop before it.

        Raises:
          UserError: if the data are at fault.
          Hung: if there is no batch within `config.watchdog.batch_minutes`.
        """
        assert self._batches is not None, "the supply is open"
        asked_to_stop = lambda: self._stop.requested(step) if self._alone else self._stop.settled()
        try:
            arrived = wait_for_batch(
                self._batches, self._pipeline, self._config.watchdog, self._workdir, asked_to_stop
            )
        except Hung as error:
            if self._alone:
                raise
            self.failure, arrived = error, False
        if not arrived and self._alone:
            return None
        # The pipeline was abandoned, and the batches that are held back suffice until the run stops.
        if not arrived and not self._batches.arrives(HELD_BACK_SECONDS):
            raise self.failure or UserError("no batch arrived for the last updates before a stop")
        return next(self._batches)

    @contextlib.contextmanager
    def stops_all(self) -> Iterator[None]:
        """A context that handles errors of files, such as a full disk, by `fail`."""
        try:
            yield
        except (OSError, UserError) as error:
            self.fail(error)

    def fail(self, error: Exception) -> None:
        """Raises an error of the data or of reports; one of several processes asks all to stop instead."""
        if self._alone:
            raise error
        self.failure = self.failure or error
        self._stop.request_for_failure()

    def _settle(self, error: Exception) -> None:
        """Called by the thread before it gives out the batches that were held back."""
        if self._closed:
            return
        if not self._pipeline.is_abandoned:
            self.failure = self.failure or error
        self._stop.request_for_failure()
        self._stop.wait_until_settled()
