"""Metrics that merge exactly: each is a sum and a count, so no mean of means is needed."""

import collections
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from muskie_jax.errors import NotFinite


@struct.dataclass
class Mean:
    """A weighted mean, stored as sum and count. Arrays of equal shape represent several means."""

    total: Array | np.ndarray | float
    count: Array | np.ndarray | float

    @classmethod
    def of(cls, value: Array) -> "Mean":
        """Returns a mean over one value."""
        return cls(value, jnp.ones_like(value))

    def merge(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    def compute(self) -> np.ndarray:
        """Returns the means in float64; NaN where the count is 0."""
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
    """Reads metrics a few updates late, so that the host does not wait for the devices after each update.

    Args:
      lag: number of updates in flight before the metrics of the oldest update are read.
    """

    def __init__(self, lag: int = 2):
        self.lag = lag
        self._in_flight: collections.deque[tuple[int, list[dict[str, Mean]]]] = collections.deque()
        self._on_host: list[dict[str, Mean]] = []

    def add(self, step: int, metrics: list[dict[str, Mean]]) -> None:
        """Queues the metrics of update `step`, one dictionary per program.

        Raises:
          NotFinite: if the loss of an earlier update, read now, is not finite.
        """
        self._in_flight.append((step, metrics))
        while len(self._in_flight) > self.lag:
            self._read()

    def wait(self) -> None:
        """Reads all queued metrics; returns when the devices have finished every update."""
        while self._in_flight:
            self._read()

    def drain(self) -> dict[str, Mean]:
        """Returns all metrics since the last call, merged by name."""
        self.wait()
        metrics, self._on_host = self._on_host, []
        return merge_all(metrics)

    def _read(self) -> None:
        step, on_device = self._in_flight.popleft()
        metrics = jax.device_get(on_device)
        if not all(np.isfinite(m["loss"].total) for m in metrics if "loss" in m):
            raise NotFinite(
                f"the loss is not finite at step {step}: lower config.optim.learning_rate and rerun; "
                "training resumes from the latest checkpoint"
            )
        self._on_host += metrics
