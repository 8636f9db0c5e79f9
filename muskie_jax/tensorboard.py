"""TensorBoard's files, whose errors end nothing: `metrics.jsonl` has the same figures."""

import os
import pathlib
import time
from collections.abc import Callable
from typing import Any

import tensorboardX.writer
from tensorboardX import SummaryWriter
from tensorboardX.event_file_writer import EventFileWriter, EventsWriter, directory_check

from muskie_jax.writers import log_main


class _EventsWriter(EventsWriter):
    """Writes events until a file cannot be written; then it warns, and drops them."""

    _failed = False

    def write_event(self, event: Any) -> None:
        self._or_warn(lambda: super(_EventsWriter, self).write_event(event))

    def flush(self) -> None:
        self._or_warn(super().flush)

    def close(self) -> None:
        self._or_warn(super().close)

    def _or_warn(self, act: Callable[[], object]) -> None:
        if self._failed:
            return
        try:
            act()
        except OSError as error:
            self._failed = True
            _warn("TensorBoard's curves end here", error)


class _DirectWriter(EventFileWriter):
    """Writes events at once. There are few, and `metrics.jsonl` is written in the same way.

    The original passes them to a thread, which ends if the clock of the machine is set back by weeks. Its
    queue would then fill, and block the training loop for ever.
    """

    def __init__(self, logdir: str, max_queue_size: int, flush_secs: float, filename_suffix: str):
        self._logdir, self._flush_secs, self._closed = logdir, flush_secs, False
        directory_check(logdir)
        self._ev_writer = _EventsWriter(os.path.join(logdir, "events"), filename_suffix)
        self._flushed = time.monotonic()

    def add_event(self, event: Any) -> None:
        if not self._closed:
            self._ev_writer.write_event(event)
            if time.monotonic() - self._flushed > self._flush_secs:
                self.flush()

    def flush(self) -> None:
        super().flush()
        self._flushed = time.monotonic()

    def close(self) -> None:
        if not self._closed:
            self._ev_writer.close()
        self._closed = True


def _warn(what: str, error: OSError) -> None:
    log_main(f"WARNING: {what}, since they cannot be written ({error}): metrics.jsonl has the figures")


def open_board(folder: pathlib.Path, first_step: int) -> SummaryWriter | None:
    """Returns a writer of curves, in which TensorBoard hides earlier events of steps that are repeated.

    Args:
      folder: folder of TensorBoard's files.
      first_step: the step that the run continues from.

    Returns:
      The writer; None, after a warning, if files cannot be written to the folder.
    """
    tensorboardX.writer.EventFileWriter = _DirectWriter  # there is no option
    try:
        return SummaryWriter(str(folder), purge_step=first_step + 1)
    except OSError as error:
        _warn("there are no curves of this start for TensorBoard", error)
        return None
