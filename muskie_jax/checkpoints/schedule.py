"""Decides after which updates to save: every few steps, every few minutes, or both."""

import time

import jax
import numpy as np
from jax.experimental import multihost_utils


class SaveSchedule:
    """Decides after which updates to save.

    Args:
      every, keep_every: steps whose multiples are saved; 0 for none.
      minutes: minutes after the last save at which the next one is due; 0 for none.
      agree_every: number of steps between the steps at which several processes agree that the minutes are
        over, since each agreement waits for the devices. One process alone decides after every step.
    """

    def __init__(self, every: int, keep_every: int, minutes: float, agree_every: int):
        self._intervals = (every, keep_every)
        self._seconds = 60 * minutes
        self._agree_every = agree_every
        self.saved()

    def saved(self) -> None:
        """Starts the minutes anew."""
        self._last = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Returns whether to save after update `step`; every process gets the same answer."""
        if is_multiple(step, *self._intervals):
            return True
        if not self._seconds:
            return False
        late = time.monotonic() - self._last >= self._seconds
        if jax.process_count() == 1:
            return late
        if step % self._agree_every:
            return False
        with jax.transfer_guard("allow"):
            return bool(multihost_utils.broadcast_one_to_all(np.array(late)))  # process 0's clock decides


def is_multiple(step: int, *intervals: int) -> bool:
    """Returns whether `step` is a multiple of one of the intervals; 0 stands for no interval."""
    return any(every > 0 and step % every == 0 for every in intervals)
