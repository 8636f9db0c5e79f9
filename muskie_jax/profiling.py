"""A trace of some updates, to be opened with XProf, TensorBoard's profiler, or Perfetto."""

import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from muskie_jax.writers import tell


class StepProfile:
    """Traces the updates from the first to the last of `steps`, both counted.

    Args:
      steps: two numbers of updates, from 1 on; empty for no trace.
      folder: where the trace is written.
    """

    def __init__(self, steps: Sequence[int], folder: pathlib.Path):
        self.first, self.last = steps or (0, 0)
        self.folder = folder
        self.running = False

    def before(self, step: int) -> None:
        """To be called before update `step` is started."""
        if step == self.first:
            jax.profiler.start_trace(self.folder)
            self.running = True

    def after(self, step: int, result: Any) -> None:
        """To be called after update `step` was started; waits for its `result` if it is the last."""
        if self.running and step >= self.last:
            jax.block_until_ready(result)
            self.close()
            tell(f"Traced updates {self.first} to {step}: xprof --logdir {self.folder}")

    def close(self) -> None:
        """Writes what was traced, also of a run that ends early."""
        if self.running:
            jax.profiler.stop_trace()
            self.running = False
