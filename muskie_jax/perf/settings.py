"""Settings of benchmarks and plans: `config.benchmark`, `config.benchmark_data` and `config.plan`."""

import dataclasses

from ml_collections import ConfigDict

from muskie_jax.checks import at_least, check_fraction, check_size, is_pair, one_of, require
from muskie_jax.errors import UserError
from muskie_jax.models.muskie import REMAT, VARIANTS
from muskie_jax.models.settings import check_max_views


@dataclasses.dataclass(frozen=True)
class BenchmarkSettings:
    """Settings of the `benchmark` job, which times training steps: `config.benchmark`.

    Attributes:
      cases: (variant, (height, width), remat) of each case; empty for the config's own model at each of its
        buckets.
      groups_per_device: number of groups per batch on each device; 0 for `config.batch.groups` over all
        devices.
      devices: device counts to compare: integers, "all", or "doubling" (1, 2, 4, ... and all).
      steps: number of steps that are timed together.
      repeats: number of timings per case; the fastest counts.
      roofline: whether to also measure the composed roofline.
    """

    cases: tuple[tuple[str, tuple[int, int], str], ...] = ()
    groups_per_device: int = 0
    devices: tuple[int | str, ...] = ("all",)
    steps: int = 10
    repeats: int = 3
    roofline: bool = True


@dataclasses.dataclass(frozen=True)
class BenchmarkDataSettings:
    """Settings of the `benchmark_data` job, which times loading: `config.benchmark_data`.

    Attributes:
      photos: folder of photographs, searched at any depth; empty to generate photographs.
      photo_sizes: (height, width) of the generated photographs, in pixels.
      sizes: sides of the square views, in pixels.
      seconds: duration of a measurement, in seconds.
      repeats: number of measurements; the fastest counts.
      steps: step times of the GPU that loading must keep busy, as (variant, size, milliseconds). Defaults
        are for an H200.
      step_views: number of views per step.
    """

    photos: str = ""
    photo_sizes: tuple[tuple[int, int], ...] = ((480, 640), (1440, 1920))
    sizes: tuple[int, ...] = (224, 384, 512)
    seconds: float = 3.0
    repeats: int = 3
    steps: tuple[tuple[str, int, float], ...] = (
        ("base", 224, 12.3),
        ("base", 384, 38.8),
        ("base", 512, 81.5),
        ("large", 224, 35.8),
        ("large", 512, 234.6),
    )
    step_views: int = 32


@dataclasses.dataclass(frozen=True)
class PlanSettings:
    """Settings of the `plan` job, which predicts memory and time on a machine: `config.plan`.

    Attributes:
      machine: "<chip>:<shape>", see `muskie_jax.perf.machines`.
      buckets: buckets to compile, such as "224x224x8, 512x512x8", or "all".
      utilisation: MFU, from 0 to 1, to predict a duration for; 0 predicts from the roofline only.
    """

    machine: str = "v5e:4x4"
    buckets: str = "all"
    utilisation: float = 0.0


def check_benchmark(config: ConfigDict) -> None:
    """Raises UserError for an invalid value of `config.benchmark`."""
    settings, path = config.benchmark, "config.benchmark"
    at_least(1, settings, path, "steps", "repeats")
    at_least(0, settings, path, "groups_per_device")
    for case in settings.cases:
        if not (isinstance(case, (tuple, list)) and len(case) == 3 and is_pair(case[1])):
            raise UserError(
                f"{path}.cases has {case!r}, but each case must be (variant, (height, width), remat), as "
                "in (('base', (224, 224), 'none'),)"
            )
        variant, size, remat = case
        one_of(variant, VARIANTS, f"{path}.cases")
        check_size(size, config.model.patch, f"{path}.cases")
        one_of(remat, REMAT, f"{path}.cases")
    if settings.cases:
        check_max_views(config.model, config.batch.views, f"{path}.cases train on")
    require(settings.devices, f"{path}.devices is empty: use ('all',), or numbers such as (1, 2)")
    for count in settings.devices:
        valid = count in ("all", "doubling") or (isinstance(count, int) and count >= 1)
        require(valid, f"{path}.devices has {count!r}, but each must be at least 1, or 'all' or 'doubling'")


def check_benchmark_data(settings: ConfigDict, patch: int) -> None:
    """Raises UserError for an invalid value of `config.benchmark_data`. `patch` is in pixels."""
    path = "config.benchmark_data"
    at_least(1, settings, path, "repeats", "step_views")
    require(settings.seconds > 0, f"{path}.seconds={settings.seconds} must be above 0, such as 3.0")
    require(settings.sizes, f"{path}.sizes is empty: use for example (224, 512)")
    for size in settings.sizes:
        require(isinstance(size, int), f"{path}.sizes has {size!r}, but each must be a side in pixels")
        check_size((size, size), patch, f"{path}.sizes")
    for size in settings.photo_sizes:
        valid = is_pair(size) and min(size) >= 1
        require(valid, f"{path}.photo_sizes has {size!r}, but each must be (height, width)")
    for step in settings.steps:
        if not (isinstance(step, (tuple, list)) and len(step) == 3 and step[2] > 0):
            raise UserError(
                f"{path}.steps has {step!r}, but each must be (variant, size, milliseconds), such as "
                "('base', 224, 12.3)"
            )
        one_of(step[0], VARIANTS, f"{path}.steps")


def check_plan(plan: ConfigDict) -> None:
    """Raises UserError for an invalid value of `config.plan`."""
    check_fraction(plan.utilisation, "config.plan.utilisation")
