"""Metrics that can be merged: every one is a sum and a count, never a mean of means."""

import collections
from collections.abc import Iterable, Mapping

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from muskie_jax.errors import NotFinite


@flax.struct.dataclass
class Mean:
    """A weighted mean in the making. Arrays of equal shape hold several means side by side."""

    total: Array | np.ndarray | float
    count: Array | np.ndarray | float

    @classmethod
    def of(cls, value: Array) -> "Mean":
        """The mean of one number."""
        return cls(value, jnp.ones_like(value))

    def merge(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    def compute(self) -> np.ndarray:
        """float64; nan where nothing was counted."""
        total, count = np.asarray(self.total, np.float64), np.asarray(self.count, np.float64)
        return np.where(count > 0, total / np.where(count > 0, count, 1), np.nan)


def merge_all(metrics: Iterable[Mapping[str, Mean]]) -> dict[str, Mean]:
    """Merges metrics by name, in float64."""
    merged: dict[str, Mean] = {}
    for entry in metrics:
        for name, mean in entry.items():
            wide = Mean(np.asarray(mean.total, np.float64), np.asarray(mean.count, np.float64))
            merged[name] = merged[name].merge(wide) if name in merged else wide
    return merged


class MetricsQueue:
    """Reads the metrics of updates some updates late, so that devices wait for the host at reports only.

    Args:
      lag: updates in flight before the metrics of the oldest are read.
    """

    def __init__(self, lag: int = 2):
        self.lag = lag
        self._flying: collections.deque = collections.deque()
        self._landed: list[dict[str, Mean]] = []

    def add(self, step: int, metrics: list[dict[str, Mean]]) -> None:
        """Queues the metrics of an update's programs.

        Raises:
          NotFinite: if the loss of an earlier update is.
        """
        self._flying.append((step, metrics))
        while len(self._flying) > self.lag:
            self._read()

    def settle(self) -> None:
        """Reads all that is queued: returns when the devices have done every update."""
        while self._flying:
            self._read()

    def drain(self) -> dict[str, Mean]:
        """All metrics since the last call, merged."""
        self.settle()
        landed, self._landed = self._landed, []
        return merge_all(landed)

    def _read(self) -> None:
        step, metrics = self._flying.popleft()
        metrics = jax.device_get(metrics)
        if not all(np.isfinite(m["loss"].total) for m in metrics if "loss" in m):
            raise NotFinite(
                f"the loss is not a finite number at step {step}: continue from the latest checkpoint "
                "with a lower config.optim.learning_rate"
            )
        self._landed += metrics
