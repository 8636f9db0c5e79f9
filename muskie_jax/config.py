"""All settings of a run, with their defaults, and the checks made before it starts.

An experiment is a plain file in `configs/` whose `get_config(arg=None)` changes `default_config()`. Each
section of the config is derived from a dataclass, which documents its settings. The trainer's sections are
here; every other section is next to the code that it configures. Keys are locked: setting an unknown key is
an error.
"""

import dataclasses
import itertools
import math
import re
from typing import Any

from ml_collections import ConfigDict

from muskie_jax.checks import (
    at_least,
    check_fraction,
    check_keys,
    check_size,
    is_pair,
    one_of,
    require,
    section,
)
from muskie_jax.data.posed.settings import check_posed, posed
from muskie_jax.data.recording_settings import recordings
from muskie_jax.data.source_settings import (
    DataSettings,
    check_data,
    check_kinds,
    check_sources,
    dataset,
    folder,
    packed,
    published_sources,
    synthetic,
)
from muskie_jax.errors import UserError
from muskie_jax.evaluators.settings import (
    EvaluateSettings,
    EvaluationSettings,
    check_evaluate,
    check_evaluation,
)
from muskie_jax.limits import LARGEST_NUMBER, check_numbers
from muskie_jax.losses import LossOptions, check_loss
from muskie_jax.masking import MaskOptions, check_masks
from muskie_jax.models.settings import ModelSettings, check_max_views, check_model
from muskie_jax.optim_settings import OptimSettings, check_optim
from muskie_jax.perf.settings import (
    BenchmarkDataSettings,
    BenchmarkSettings,
    PlanSettings,
    check_benchmark,
    check_benchmark_data,
    check_plan,
)
from muskie_jax.processes.watchdog import WatchdogSettings, check_watchdog
from muskie_jax.reconstruction.settings import (
    PRETRAIN,
    TASKS,
    ReconstructSettings,
    check_reconstruct,
    has_geometry,
)
from muskie_jax.wandb_run import check_wandb

# For config files and for jobs.
__all__ = [
    "dataset",
    "default_config",
    "folder",
    "packed",
    "peak_learning_rate",
    "posed",
    "published_sources",
    "recordings",
    "synthetic",
    "to_steps",
    "total_steps",
    "validate",
    "warmup_steps",
]

JOBS = ("train", "evaluate", "benchmark", "benchmark_data", "plan")

# Published (height, width) choices at the largest resolution; the square is listed twice, so it is twice as
# likely.
SIZES_512 = ((512, 512), (512, 512), (288, 512), (384, 512), (512, 288), (512, 384))
BASE_GROUPS = 256  # number of groups per step for which `config.optim.base_learning_rate` is given


@dataclasses.dataclass(frozen=True)
class BatchSettings:
    """Loaded batches: `config.batch`.

    Attributes:
      groups: number of groups per batch, over all devices, for each resolution.
      views: number of photographs per loaded group.
      reuse: number of passes through the network that use a loaded batch, each with new masks and another
        order of the views.
      passes: number of passes per optimizer step, which averages their gradients. As published, a step
        takes the last uses of some batches and earlier uses of the next. More passes accumulate gradients:
        `groups=4, passes=16` averages over as many groups as `groups=32, passes=2`, in the memory of 4. Use
        a multiple of `reuse`: then no group counts more often in a step than with large batches.
    """

    groups: int = 32
    views: int = 8
    reuse: int = 2
    passes: int = 2


@dataclasses.dataclass(frozen=True)
class BucketSettings:
    """Image sizes and view counts to train on: `config.buckets`.

    Attributes:
      resolutions: one entry per batch of a pass, which averages their gradients. An entry lists the
        (height, width) to draw from, in pixels.
      views: view counts to draw from; a loaded group is split into groups of the drawn size.
      late: `resolutions` of the last part of the run, such as larger images; as many entries.
      late_fraction: fraction of the updates that use `late`, at the end of the run; 0 for none.
    """

    resolutions: tuple[tuple[tuple[int, int], ...], ...] = (((224, 224),), ((384, 384),), SIZES_512)
    views: tuple[int, ...] = (1, 2, 4, 8)
    late: tuple[tuple[tuple[int, int], ...], ...] = ()
    late_fraction: float = 0.0


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Number of devices along each axis of the mesh: `config.mesh`. One axis may be -1, for the rest.

    Attributes:
      data: number of devices that split the groups of a batch and replicate the parameters.
      fsdp: number of devices that split the groups of a batch, the parameters and the optimizer state.
      view: number of devices that split the views of a group.
    """

    data: int = -1
    fsdp: int = 1
    view: int = 1


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """Saving: `config.checkpoint`.

    Attributes:
      minutes: minutes between checkpoints; 0 for none. With several processes, a checkpoint is saved at the
        next step that is a multiple of `log.every`.
      every: number of steps between checkpoints, in addition to `minutes`; 0 for none.
      keep: number of newest checkpoints to keep.
      keep_every: number of steps between checkpoints that are kept for good, in addition to the newest; 0
        for none.
      keep_best: number of checkpoints with the lowest error on held-out scenes to keep, in addition to the
        others; 0 for none. Every evaluation then saves a checkpoint.
      export: whether a finished run writes the weights of its best checkpoint to `best.safetensors`.
    """

    minutes: float = 15.0
    every: int = 0
    keep: int = 3
    keep_every: int = 0
    keep_best: int = 0
    export: bool = False


@dataclasses.dataclass(frozen=True)
class ProfileSettings:
    """Tracing: `config.profile`.

    Attributes:
      steps: first and last update of the trace in `<workdir>/profile`, such as (10, 13); () for no trace.
    """

    steps: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class LogSettings:
    """Logging: `config.log`.

    Attributes:
      every: number of steps between progress lines and between records of metrics.
      tensorboard: whether to write TensorBoard files in addition to `metrics.jsonl`.
      wandb: project of Weights & Biases to write to as well, as "project" or "team/project"; "" for none.
    """

    every: int = 50
    tensorboard: bool = True
    wandb: str = ""


def default_config() -> ConfigDict:
    """Returns all settings. Defaults are the published recipe's values where the paper gives them."""
    config = ConfigDict()
    config.job = "train"  # one of JOBS
    config.task = PRETRAIN  # what the job "train" trains, one of TASKS; see docs/reconstruction.md
    config.seed = 0  # seed of all randomness: data, masks and initial parameters
    config.fast_compile = False  # train: compile in about half the time on GPUs; see docs/speed.md
    config.deterministic = False  # ask XLA for the same result in every run on GPUs; see docs/training.md
    config.model = section(ModelSettings())
    # name -> folder(...), dataset(...), packed(...), synthetic(...) or recordings(...)
    config.sources = ConfigDict()
    config.mask = section(MaskOptions())
    config.loss = section(LossOptions())
    config.reconstruct = section(ReconstructSettings())  # of the task "reconstruct"
    config.batch = section(BatchSettings())
    config.buckets = section(BucketSettings())
    config.duration = "400 epochs"  # or "... steps" (0: only evaluates), or "... examples" (groups)
    config.epoch_groups = 100_000  # number of loaded groups per epoch
    config.max_minutes = 0.0  # a run saves and stops after so many minutes, as on SIGTERM; 0: no limit
    config.optim = section(OptimSettings())
    config.mesh = section(MeshSettings())
    config.data = section(DataSettings())
    config.evaluation = section(EvaluationSettings())
    config.checkpoint = section(CheckpointSettings())
    config.watchdog = section(WatchdogSettings())
    config.profile = section(ProfileSettings())
    config.benchmark = section(BenchmarkSettings())
    config.benchmark_data = section(BenchmarkDataSettings())
    config.log = section(LogSettings())
    config.posed = ConfigDict()  # name -> posed(...): views with depth and cameras, for the job "evaluate"
    config.evaluate = section(EvaluateSettings())
    config.plan = section(PlanSettings())
    config.lock()
    config.sources.unlock()
    config.posed.unlock()
    return config


def validate(config: ConfigDict) -> None:
    """Checks a config without touching devices or data. Every job calls this first.

    Raises:
      UserError: for an invalid setting; names the setting, its value, and what to write instead.
    """
    check_keys(config, default_config(), "config", skip=("sources", "posed"))
    one_of(config.job, JOBS, "config.job")
    one_of(config.task, TASKS, "config.task")
    require(
        config.task == PRETRAIN or config.job != "benchmark_data",
        f"config.job={config.job!r} measures only pre-training: pass --config.task={PRETRAIN}",
    )
    check_numbers(config)
    at_least(0, config, "config", "seed", "max_minutes")
    check_model(config.model, config.deterministic)
    if config.sources or config.job != "evaluate":
        needs_data = config.job in ("train", "evaluate")
        check_sources(config.sources, needs_data, chooses_holdout=config.job == "evaluate")
        check_kinds(config.sources, needs_geometry=has_geometry(config) and config.job != "evaluate")
    check_data(config.data)
    check_loss(config.loss)
    _check_batch(config.batch)
    _check_buckets(config)
    check_evaluation(config.evaluation, config.model.patch)
    numbers_of_views = (*config.buckets.views, config.evaluation.views)
    sizes = (*itertools.chain(*config.buckets.resolutions, *config.buckets.late), config.evaluation.size)
    check_max_views(config.model, max(numbers_of_views), "the config has")
    if has_geometry(config):
        check_reconstruct(config)
    else:
        check_masks(config.mask, sizes, config.model.patch, numbers_of_views)
    check_optim(config.optim)
    _check_mesh(config.mesh)
    at_least(1, config.checkpoint, "config.checkpoint", "keep")
    at_least(0, config.checkpoint, "config.checkpoint", "minutes", "every", "keep_every", "keep_best")
    require(
        config.checkpoint.minutes or config.checkpoint.every,
        "config.checkpoint.minutes=0.0 and config.checkpoint.every=0 save nothing before the end: set one "
        "of them, such as config.checkpoint.minutes=15",
    )
    check_watchdog(config.watchdog)
    at_least(1, config.log, "config.log", "every")
    if config.job == "train":
        check_wandb(config.log.wandb)
    _check_profile(config.profile)
    check_posed(config.posed)
    if config.job == "evaluate":
        check_evaluate(config.evaluate, has_posed=len(config.posed) > 0)
    check_benchmark(config)
    if config.job == "benchmark_data":
        check_benchmark_data(config.benchmark_data, config.model.patch)
    check_plan(config.plan)
    total_steps(config)
    warmup_steps(config)
    _check_min_learning_rate(config)


def _check_batch(batch: ConfigDict) -> None:
    at_least(1, batch, "config.batch", "groups", "views", "reuse", "passes")


def _check_buckets(config: ConfigDict) -> None:
    buckets, loaded = config.buckets, config.batch.views
    require(len(buckets.views) > 0, "config.buckets.views is empty: use for example (2, 4, 8)")
    for views in buckets.views:
        if not isinstance(views, int) or views < 1 or loaded % views:
            divisors = [v for v in range(1, loaded + 1) if loaded % v == 0]
            raise UserError(
                f"config.buckets.views has {views!r}, which does not divide config.batch.views="
                f"{loaded}: choose from {', '.join(map(str, divisors))}"
            )
    require(
        len(buckets.resolutions) > 0,
        "config.buckets.resolutions is empty: use for example (((224, 224),),)",
    )
    for name in ("resolutions", "late"):
        _check_resolutions(buckets[name], config.model.patch, f"config.buckets.{name}")
    check_fraction(buckets.late_fraction, "config.buckets.late_fraction")
    # The programs of an update sum the gradients of a fixed number of batches.
    early, late = len(buckets.resolutions), len(buckets.late)
    require(
        late == early or not buckets.late_fraction,
        f"config.buckets.late has {late} entries and config.buckets.resolutions has {early}: give both the "
        "same number, because all updates have as many batches, or set config.buckets.late_fraction=0",
    )


def _check_resolutions(resolutions: Any, patch: int, path: str) -> None:
    for sizes in resolutions:
        if not isinstance(sizes, (tuple, list)) or not sizes or not all(map(is_pair, sizes)):
            raise UserError(
                f"{path}={resolutions!r} must be a tuple of (height, width) "
                "pairs for each resolution, such as (((224, 224),), ((512, 384), (384, 512)))"
            )
        for size in sizes:
            check_size(size, patch, path)


def _check_min_learning_rate(config: ConfigDict) -> None:
    lowest, peak = config.optim.min_learning_rate, peak_learning_rate(config)
    require(
        lowest < peak,
        f"config.optim.min_learning_rate={lowest} must be below the peak learning rate, {peak:.3g}",
    )


def _check_mesh(mesh: ConfigDict) -> None:
    for axis, size in mesh.items():
        require(size == -1 or size >= 1, f"config.mesh.{axis}={size} must be 1 or more, or -1")
    if sum(size == -1 for size in mesh.values()) > 1:
        raise UserError(
            f"config.mesh: only one axis may be -1: set a size for the others of {', '.join(mesh)}"
        )


def _check_profile(profile: ConfigDict) -> None:
    steps = profile.steps
    is_range = (
        len(steps) == 2 and all(isinstance(step, int) for step in steps) and 1 <= steps[0] <= steps[1]
    )
    require(
        not steps or is_range,
        f"config.profile.steps={steps} must be the first and the last update, such as (10, 13)",
    )


def to_steps(duration: str, config: ConfigDict, path: str) -> int:
    """Converts a duration to a number of optimizer steps.

    Args:
      duration: text such as "400 epochs", "10_000 steps" or "1e6 examples". An example is a loaded group;
        `batch.groups` examples serve `batch.reuse` passes, and a step has `batch.passes` of them.
      config: the config, which sets the sizes of batches and epochs.
      path: the setting's path, used in messages.

    Raises:
      UserError: for a duration that cannot be parsed.
    """
    text = str(duration).strip()
    match = re.fullmatch(r"([0-9._e+]+) *(steps?|epochs?|examples?)", text)
    number = text if text.isdecimal() else "500"
    error = UserError(
        f'{path}={duration!r} must be a number of steps, epochs or examples, such as "{number} steps"'
    )
    if match is None:
        raise error
    try:
        amount = float(match[1])
        steps = math.ceil(amount)
    except (ValueError, OverflowError):  # not a number, or infinite
        raise error from None
    if not match[2].startswith("step"):
        examples = amount * (config.epoch_groups if match[2].startswith("epoch") else 1)
        steps = math.ceil(examples / groups_per_step(config))
    require(steps <= LARGEST_NUMBER, f"{path}={duration!r} has more than {LARGEST_NUMBER} steps: use fewer")
    return steps


def groups_per_step(config: ConfigDict) -> float:
    """Returns the number of newly loaded groups per optimizer step, for each resolution."""
    batch = config.batch
    return batch.groups * batch.passes / batch.reuse


def peak_learning_rate(config: ConfigDict) -> float:
    """Returns the learning rate after the warm-up.

    `config.optim.base_learning_rate`, MAE's `blr`, is for 256 loaded groups per step and scales linearly
    with `groups_per_step`. If it is 0, the rate is `config.optim.learning_rate`.
    """
    optim = config.optim
    if not optim.base_learning_rate:
        return optim.learning_rate
    return optim.base_learning_rate * groups_per_step(config) / BASE_GROUPS


def total_steps(config: ConfigDict) -> int:
    """Returns the number of updates of the run; 0 if it only evaluates."""
    return to_steps(config.duration, config, "config.duration")


def warmup_steps(config: ConfigDict) -> int:
    """Returns the number of updates during which the learning rate rises.

    Raises:
      UserError: if the warm-up is not shorter than the run.
    """
    steps = to_steps(config.optim.warmup, config, "config.optim.warmup")
    total = total_steps(config)
    if steps >= total > 0:
        raise UserError(
            f"config.optim.warmup={config.optim.warmup!r} ({steps} steps) is not shorter than "
            f"config.duration={config.duration!r} ({total} steps): pass "
            f"--config.optim.warmup='{total // 20} steps', or a longer --config.duration"
        )
    return steps
