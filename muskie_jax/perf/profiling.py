"""Traces updates with JAX's profiler, for XProf, TensorBoard or Perfetto."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from muskie_jax.writers import log_main


class StepProfile:
    """Traces a range of updates, or the part of the range that the run covers.

    Args:
      steps: first and last update of the trace, both inclusive and counted from 1; empty for no trace.
      folder: folder that the trace is written to.
    """

    def __init__(self, steps: Sequence[int], folder: pathlib.Path):
        self.steps = range(steps[0], steps[1] + 1) if steps else range(0)
        self.folder = folder
        self.traced: list[int] = []
        self.running = False

    def before(self, step: int) -> None:
        """Starts the trace if it includes `step`; call it before the update."""
        if step in self.steps:
            if not self.running:
                jax.profiler.start_trace(self.folder)
            self.running = True
            self.traced.append(step)

    def after(self, step: int, result: Any) -> None:
        """Waits for `result` and ends the trace if `step` is its last update; call it after the update."""
        if self.running and step == self.steps[-1]:
            jax.block_until_ready(result)
            self._stop()

    def close(self) -> None:
        """Ends a trace that is still running; logs a line if the range had no update of this run."""
        if self.running:
            self._stop()
        elif self.steps and not self.traced:
            log_main(f"Traced nothing: this run had no update from {self.steps[0]} to {self.steps[-1]}")

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self.running = False
        log_main(f"Traced updates {self.traced[0]} to {self.traced[-1]}: xprof --logdir {self.folder}")
