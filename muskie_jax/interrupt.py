"""Ending a run early without losing anything: Ctrl-C, SIGTERM, and preemption notices."""

import contextlib
import os
import signal

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STANDARD_ERROR = 2


class StopSignal:
    """Within its context, the first SIGINT or SIGTERM asks the loop to save and end.

    A second one ends the process at once. With several processes, JAX's preemption service sees to it
    that all of them stop at the same step.
    """

    def __init__(self):
        self.name = ""
        self._previous = {}

    def __enter__(self) -> "StopSignal":
        if jax.process_count() == 1:
            for number in SIGNALS:
                try:
                    self._previous[number] = signal.signal(number, self._handle)
                except ValueError:  # signals reach only the main thread
                    break
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number, frame) -> None:
        if self.name:
            self.__exit__()
            signal.raise_signal(number)
        self.name = signal.Signals(number).name
        if jax.process_index() == 0:
            # Past Python's buffers: the loop may be in the middle of writing to them.
            said = f"{self.name}: saving after this step, then stopping (again to stop at once)\n"
            with contextlib.suppress(OSError):
                os.write(STANDARD_ERROR, said.encode())

    def requested(self, step: int) -> bool:
        """Whether to end after update `step`; the same answer in every process."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.name = "preemption"
        return bool(self.name)
