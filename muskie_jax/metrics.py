"""Metrics that merge exactly: each is a sum and a count, so no mean of means is needed."""

import collections
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import Array

from muskie_jax.errors import NotFinite

ADVICE = "lower config.optim.learning_rate and rerun; training resumes from the latest checkpoint, if any"


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


def check_final_error(error: float, step: int) -> None:
    """Raises NotFinite if a finished run, saved at `step`, has no finite error on held-out scenes."""
    if not math.isfinite(error):
        raise NotFinite(
            f"all is saved, but the evaluation of the last step, {step}, is not finite: lower "
            "config.optim.learning_rate and rerun with another --workdir, or without the checkpoints of "
            "ruined steps"
        )


class Skipped(NamedTuple):
    """An update that the optimizer skipped: its step, and what its batches were."""

    step: int
    batches: str


def describe_skipped(updates: Sequence[Skipped]) -> str:
    """Returns a line about the updates that were skipped in an interval."""
    count, last = len(updates), updates[-1]
    words = f"{count} update{'s' * (count != 1)} skipped for bad gradients"
    return f"  {words}, the last at step {last.step}: {last.batches}"


class MetricsQueue:
    """Reads metrics a few updates late, so that the host does not wait for the devices after each update.

    Updates that the optimizer skipped count separately: their other metrics are left out.

    Args:
      lag: number of updates in flight before the metrics of the oldest update are read.
      sources: names of the data sources, in the order of the metric `source_loss`.
      max_skipped: number of updates in a row that may be skipped.

    Attributes:
      skipped: the skipped updates among those that the last `drain` returned.
      streak: the skipped updates since the last one that was not.
      spike: first step of the newest streak; None before any.
    """

    def __init__(self, lag: int = 2, sources: Sequence[str] = (), max_skipped: int = 0):
        self.lag, self.sources, self.max_skipped = lag, sources, max_skipped
        self.skipped: list[Skipped] = []
        self.streak: list[Skipped] = []
        self.spike: int | None = None
        self._in_flight: collections.deque[tuple[int, list[dict[str, Mean]], str]] = collections.deque()
        self._on_host: list[dict[str, Mean]] = []
        self._skipped: list[Skipped] = []

    def add(self, step: int, metrics: list[dict[str, Mean]], buckets: str = "") -> None:
        """Queues the metrics of update `step`, one dictionary per program.

        Args:
          step: number of the update.
          metrics: its metrics, on the device.
          buckets: the update's buckets, for messages.

        Raises:
          NotFinite: if the loss of an earlier update, read now, is not finite although it was not skipped,
            or more updates in a row than `max_skipped` were skipped.
        """
        self._in_flight.append((step, metrics, buckets))
        while len(self._in_flight) > self.lag:
            self._read()

    def wait(self) -> None:
        """Reads all queued metrics; returns when the devices have finished every update."""
        while self._in_flight:
            self._read()

    def drain(self) -> dict[str, Mean]:
        """Returns all metrics since the last call, merged by name; none if every update was skipped."""
        self.wait()
        metrics, self._on_host = self._on_host, []
        self.skipped, self._skipped = self._skipped, []
        return merge_all(metrics)

    def _read(self) -> None:
        step, on_device, buckets = self._in_flight.popleft()
        metrics = jax.device_get(on_device)
        flags = [each.pop("skipped").total for each in metrics if "skipped" in each]
        if any(flags):
            self._skip(Skipped(step, f"{buckets} of {self._suspects(metrics)}"))
            return
        if not all(np.isfinite(m["loss"].total) for m in metrics if "loss" in m):
            raise NotFinite(f"the loss is not finite at step {step}: {ADVICE}")
        self.streak = []
        self._on_host += metrics

    def _skip(self, update: Skipped) -> None:
        self._skipped.append(update)
        self.streak.append(update)
        self.spike = self.streak[0].step
        if len(self.streak) > self.max_skipped:
            first = self.streak[0].step
            raise NotFinite(
                f"bad gradients in {len(self.streak)} updates in a row, {first} to {update.step} "
                f"(the last: {update.batches}): {ADVICE}"
            )

    def _suspects(self, metrics: list[dict[str, Mean]]) -> str:
        """Names the sources whose loss is not finite; if there is none, all sources of the update."""
        by_source = merge_all(m for m in metrics if "source_loss" in m).get("source_loss")
        if by_source is None:
            return "unknown data"
        bad = ~np.isfinite(by_source.total)
        chosen = bad if bad.any() else np.asarray(by_source.count) > 0
        return " and ".join(name for name, use in zip(self.sources, chosen) if use)


def scalars(
    metrics: dict[str, Mean], sources: Sequence[str], shown: Sequence[str] = ("mse",)
) -> dict[str, float]:
    """Returns an interval's metrics as floats, with `error/<source>` for each source that occurred.

    The loss and the metrics `shown` are NaN if the interval has no metrics, because all its updates were
    skipped.
    """
    means = {name: mean.compute() for name, mean in metrics.items()}
    by_source = zip(sources, means.pop("source_loss", ()))
    values = dict.fromkeys(("loss", *shown), math.nan) | {
        name: float(value) for name, value in means.items()
    }
    return values | {f"error/{name}": float(error) for name, error in by_source if np.isfinite(error)}
