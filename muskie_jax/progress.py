"""What a person at the terminal sees while a network trains."""

import contextlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from muskie_jax.buckets import Bucket
from muskie_jax.checks import current_path
from muskie_jax.perf.flops import peak_flops, training_flops
from muskie_jax.train_step import Task
from muskie_jax.writers import duration, log_main

SMOOTHING = 0.2  # weight of the latest interval in the speed that the time left is reckoned from


class Progress:
    """Speeds between two progress lines, and over the whole run.

    Args:
      task, device, num_devices: whose arithmetic, and on what.
      first_step, total_steps: where this run starts, and where training ends.
    """

    def __init__(
        self,
        task: Task,
        device: jax.Device,
        num_devices: int,
        first_step: int,
        total_steps: int,
    ):
        self.task, self.step, self.total_steps = task, first_step, total_steps
        peak = peak_flops(device)
        self.peak = peak * num_devices if peak else None
        self.mark = time.perf_counter()  # start of the interval, moved on by every pause
        self.views = self.flops = self.waited = 0.0
        self.total_views = self.total_seconds = 0.0
        self.seconds_per_step, self.intervals = 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Measures time in which the devices might run out of data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what is not training, evaluation and saving, out of all speeds."""
        start = time.perf_counter()
        yield
        self.mark += time.perf_counter() - start

    def count(self, update: Iterable[tuple[Bucket, Mapping[str, Any]]]) -> None:
        """Counts the batches of an update."""
        for bucket, batch in update:
            groups = batch["mask"].shape[0]
            self.views += groups * bucket.views
            self.flops += groups * training_flops(self.task.model, bucket, self.task.slots(bucket))

    def interval(self, step: int) -> dict[str, float]:
        """Speeds since the last call.

        `flops_per_second` counts the model's arithmetic; `mfu` is its share of the devices' peak,
        if that is known; `data_wait` the share of time spent waiting for data.
        """
        now = time.perf_counter()
        seconds, steps = now - self.mark, step - self.step
        values = {
            "views_per_second": self.views / seconds,
            "flops_per_second": self.flops / seconds,
            "data_wait": min(1.0, self.waited / seconds),
            "seconds_per_step": seconds / steps,
        }
        if self.peak:
            values["mfu"] = values["flops_per_second"] / self.peak
        # The first interval has what only happens once in it, and says little of the time left.
        self.intervals += 1
        weight = 1.0 if self.intervals <= 2 else SMOOTHING
        self.seconds_per_step += weight * (values["seconds_per_step"] - self.seconds_per_step)
        self.total_views += self.views
        self.total_seconds += seconds
        self.mark, self.step = now, step
        self.views = self.flops = self.waited = 0.0
        return values

    def line(self, values: Mapping[str, float]) -> str:
        """The progress line."""
        left = (self.total_steps - self.step) * self.seconds_per_step
        arithmetic = f"{values['flops_per_second'] / 1e12:.3g} TFLOP/s"
        if "mfu" in values:
            arithmetic += f" (MFU {values['mfu']:.0%})"
        return (
            f"step {self.step}/{self.total_steps}  loss {values['loss']:.4f}  "
            f"mse {values['mse']:.4f}  {values['views_per_second']:.0f} views/s  {arithmetic}  "
            f"data wait {values['data_wait']:.0%}  {duration(left)} left"
        )

    def views_per_second(self) -> float:
        """Over the whole run, without pauses; 0 if it did nothing."""
        return self.total_views / self.total_seconds if self.total_seconds else 0.0


def describe_parameters(params) -> None:
    """Prints the number of parameters, and of each part of the network."""
    total = parameter_overview.count_parameters(params)
    parts: dict[str, int] = {}
    for name, part in params.items():
        key = "blocks" if name.startswith("block_") else name
        parts[key] = parts.get(key, 0) + sum(leaf.size for leaf in jax.tree.leaves(part))
    listed = ", ".join(f"{name} {count:,}" for name, count in parts.items())
    log_main(f"Parameters: {total:,} ({listed})")


def describe_changes(old: Mapping[str, Any], config: ConfigDict) -> None:
    """Tells which settings differ from those a checkpoint was trained with."""
    before = {current_path(path): value for path, value in _flatten(old).items()}
    now = _flatten(json.loads(config.to_json_best_effort()))
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            log_main(f"  config.{name} was {before.get(name)!r} and is {now.get(name)!r} now")


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
