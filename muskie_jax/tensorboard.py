"""TensorBoard's files, whose errors end nothing: `metrics.jsonl` has the same figures."""

import pathlib
from collections.abc import Callable
from typing import Any

from tensorboardX import SummaryWriter, event_file_writer

from muskie_jax.writers import log_main


class _EventsWriter(event_file_writer.EventsWriter):
    """Writes events until a file cannot be written; then it warns, and drops them.

    An error would end the thread that writes. Its queue would then fill, and block the training loop.
    """

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
    event_file_writer.EventsWriter = _EventsWriter  # there is no option
    try:
        return SummaryWriter(str(folder), purge_step=first_step + 1)
    except OSError as error:
        _warn("there are no curves of this start for TensorBoard", error)
        return None
