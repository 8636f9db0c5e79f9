"""Progress lines of a training run: loss, speed, arithmetic rate, and time left."""

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from clu import parameter_overview
from ml_collections import ConfigDict

from muskie_jax.buckets import Bucket
from muskie_jax.checks import MISSING, as_saved, changed_settings
from muskie_jax.models import flash
from muskie_jax.models.muskie import Muskie
from muskie_jax.models.reconstruction import Reconstruction
from muskie_jax.perf.flops import peak_flops, training_flops
from muskie_jax.writers import duration, log_main

SMOOTHING = 0.2  # weight of the latest interval in the moving average that estimates the time left


class Progress:
    """Measures speed between progress lines and over the run.

    Args:
      model: the network, which determines the FLOPs.
      device: one of the devices, which determines the peak FLOP/s.
      num_devices: number of devices.
      first_step: step at which this run starts.
      total_steps: last step of the training run.
    """

    def __init__(
        self,
        model: Muskie | Reconstruction,
        device: jax.Device,
        num_devices: int,
        first_step: int,
        total_steps: int,
    ):
        self.model, self.step, self.total_steps = model, first_step, total_steps
        peak = peak_flops(device)
        self.peak = peak * num_devices if peak else None
        self.mark = time.perf_counter()  # start of the interval; pauses shift it forward
        self.views = self.flops = self.waited = 0.0
        self.total_views = self.total_seconds = 0.0
        self.seconds_per_step, self.intervals = 0.0, 0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time spent inside the context as waiting for data."""
        start = time.perf_counter()
        yield
        self.waited += time.perf_counter() - start

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time spent inside the context (evaluation, saving) out of all speeds."""
        start = time.perf_counter()
        yield
        self.mark += time.perf_counter() - start

    def count(self, update: Iterable[tuple[Bucket, Mapping[str, Any]]]) -> None:
        """Adds the views and FLOPs of an update's batches."""
        for bucket, batch in update:
            groups = batch["source"].shape[0]
            self.views += groups * bucket.views
            self.flops += groups * training_flops(self.model, bucket)

    def interval(self, step: int) -> dict[str, float]:
        """Returns the speeds since the last call, and starts a new interval.

        `flops_per_second` counts the model's FLOPs. `mfu` is its fraction of the devices' peak, absent if
        the peak is unknown. `data_wait` is the fraction of time spent waiting for data.
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
        # The first interval includes one-time costs, so the second replaces its estimate.
        self.intervals += 1
        weight = 1.0 if self.intervals <= 2 else SMOOTHING
        self.seconds_per_step += weight * (values["seconds_per_step"] - self.seconds_per_step)
        self.total_views += self.views
        self.total_seconds += seconds
        self.mark, self.step = now, step
        self.views = self.flops = self.waited = 0.0
        return values

    def line(self, values: Mapping[str, float], shown: Sequence[str] = ("mse",)) -> str:
        """Formats the progress line; `shown` names metrics to show beside the loss."""
        seconds_left = (self.total_steps - self.step) * self.seconds_per_step
        arithmetic = f"{values['flops_per_second'] / 1e12:.3g} TFLOP/s"
        if "mfu" in values:
            arithmetic += f" (MFU {values['mfu']:.0%})"
        metrics = "".join(f"{name} {values[name]:.4f}  " for name in ("loss", *shown))
        return (
            f"step {self.step}/{self.total_steps}  {metrics}"
            f"{values['views_per_second']:.0f} views/s  {arithmetic}  "
            f"data wait {values['data_wait']:.0%}  {duration(seconds_left)} left"
        )

    def views_per_second(self) -> float:
        """Returns the average speed over the run, without pauses; 0 if no update ran."""
        return self.total_views / self.total_seconds if self.total_seconds else 0.0


def describe_attention(model: Muskie, buckets: Iterable[Bucket]) -> None:
    """Logs the attention kernels of a run, and which package has a faster one that is not installed."""
    within, across = set(), set()
    misses_flash = False
    for bucket in buckets:
        rows, columns = bucket.grid(model.patch)
        tokens = rows * columns + model.registers
        for kernels, keys in ((within, tokens), (across, bucket.views * tokens)):
            sequence = (model.dtype, model.width // model.heads, keys)
            kernels.add(model.attention.kernel(*sequence))
            misses_flash |= model.attention.misses_flash(*sequence)
    names = lambda kernels: " and ".join(sorted(kernels))
    if within == across:
        log_main(f"Attention: {names(within)}")
    else:
        log_main(f"Attention: {names(within)} within views, {names(across)} across views")
    if misses_flash:
        log_main(f"FlashAttention-3 would be faster: {flash.INSTALL}")


def describe_parameters(params) -> None:
    """Logs the number of parameters, in total and for each part of the network."""
    total = parameter_overview.count_parameters(params)
    parts: dict[str, int] = {}
    for name, part in params.items():
        key = "blocks" if name.startswith("block_") else "decoder" if name.startswith("decoder_") else name
        parts[key] = parts.get(key, 0) + sum(leaf.size for leaf in jax.tree.leaves(part))
    listed = ", ".join(f"{name} {count:,}" for name, count in parts.items())
    log_main(f"Parameters: {total:,} ({listed})")


def describe_changes(old: Mapping[str, Any], config: ConfigDict) -> None:
    """Logs the settings that differ from the config a checkpoint was trained with."""
    for name, (before, value) in changed_settings(old, as_saved(config)).items():
        if before is MISSING:
            log_main(f"  config.{name} is new: {value!r}")
        else:
            log_main(f"  config.{name} was {before!r} and is now {None if value is MISSING else value!r}")
