"""Ends a run early without losing work: Ctrl-C, SIGTERM, preemption notices and a time limit."""

import contextlib
import math
import os
import signal
import time
from typing import Any

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STANDARD_ERROR = 2
TIME_LIMIT = "config.max_minutes"


class StopSignal:
    """A context in which the first SIGINT or SIGTERM asks the training loop to save and stop.

    A second signal ends the process at once. With several processes, JAX's preemption service makes all
    of them stop after the same step.

    Args:
      max_minutes: minutes from now after which to stop; 0 for no limit.

    Attributes:
      name: the signal's name, "preemption" or "config.max_minutes"; empty until a stop is requested.
    """

    def __init__(self, max_minutes: float = 0.0):
        self.name = ""
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes else math.inf
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
        late = time.monotonic() > self._deadline
        if jax.process_count() == 1:
            self.name = self.name or (TIME_LIMIT if late else "")
            return bool(self.name)
        if late and jax.process_index() == 0:
            self._deadline = math.inf
            signal.raise_signal(signal.SIGTERM)  # the preemption service passes it on to all processes
        if multihost_utils.reached_preemption_sync_point(step):
            self.name = "preemption"
        return bool(self.name)
