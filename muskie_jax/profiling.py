"""A trace of some updates, to be opened with XProf, TensorBoard's profiler, or Perfetto."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from muskie_jax.writers import log_main


class StepProfile:
    """Traces the updates from the first to the last of `steps`, both counted, as far as they are run.

    Args:
      steps: two numbers of updates, from 1 on; empty for no trace.
      folder: where the trace is written.
    """

    def __init__(self, steps: Sequence[int], folder: pathlib.Path):
        self.steps = range(steps[0], steps[1] + 1) if steps else range(0)
        self.folder = folder
        self.traced: list[int] = []
        self.running = False

    def before(self, step: int) -> None:
        """To be called before update `step` is started."""
        if step in self.steps:
            if not self.running:
                jax.profiler.start_trace(self.folder)
            self.running = True
            self.traced.append(step)

    def after(self, step: int, result: Any) -> None:
        """To be called after update `step` was started; waits for its `result` if it is the last."""
        if self.running and step == self.steps[-1]:
            jax.block_until_ready(result)
            self._stop()

    def close(self) -> None:
        """Writes what was traced, also of a run that ends early, and says if nothing was."""
        if self.running:
            self._stop()
        elif self.steps and not self.traced:
            log_main(f"Traced nothing: no update from {self.steps[0]} to {self.steps[-1]} was run")

    def _stop(self) -> None:
        jax.profiler.stop_trace()
        self.running = False
        log_main(f"Traced updates {self.traced[0]} to {self.traced[-1]}: xprof --logdir {self.folder}")
