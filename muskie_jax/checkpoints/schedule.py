"""Decides after which updates to save, every few steps or minutes, and whether to evaluate at the start."""

import time
from collections.abc import Collection

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict


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
        return of_process_0(late)  # whose clock decides


def evaluates_first(first_step: int, settings: ConfigDict, errors: Collection[int]) -> bool:
    """Returns whether to evaluate before the first update; every process gets the same answer.

    Args:
      first_step: number of updates before this start.
      settings: the settings `config.evaluation`.
      errors: the evaluated steps. A run that a signal stopped at `first_step` did not evaluate it.
    """
    if first_step == 0:
        return settings.first
    return of_process_0(is_multiple(first_step, settings.every) and first_step not in errors)


def of_process_0(answer: bool) -> bool:
    """Returns the answer of the first process of the run. Every process must call this."""
    with jax.transfer_guard("allow"):
        return bool(multihost_utils.broadcast_one_to_all(np.array(answer)))


def is_multiple(step: int, *intervals: int) -> bool:
    """Returns whether `step` is a multiple of one of the intervals; 0 stands for no interval."""
    return any(every > 0 and step % every == 0 for every in intervals)
