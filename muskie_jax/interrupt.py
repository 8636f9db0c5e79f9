"""Ends a run early without losing work: Ctrl-C, SIGTERM and preemption notices."""

import contextlib
import os
import signal
from typing import Any

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STANDARD_ERROR = 2


class StopSignal:
    """A context in which the first SIGINT or SIGTERM asks the training loop to save and stop.

    A second signal ends the process at once. With several processes, JAX's preemption service makes all
    of them stop after the same step.

    Attributes:
      name: the signal's name, or "preemption"; empty until a stop is requested.
    """

    def __init__(self):
        self.name = ""
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if jax.process_count() == 1:
            for number in SIGNALS:
                try:
                    self._previous[number] = signal.signal(number, self._handle)
                except ValueError:  # only the main thread may set signal handlers
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
            # Uses os.write, since the signal may interrupt a write to Python's buffered stderr.
            message = f"{self.name}: saving after this step, then stopping (again to stop at once)\n"
            with contextlib.suppress(OSError):
                os.write(STANDARD_ERROR, message.encode())

    def requested(self, step: int) -> bool:
        """Returns whether to stop after update `step`; every process gets the same answer."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self.name = "preemption"
        return bool(self.name)
