"""What a run can be told: every setting with its default, and the checks made before a run starts.

An experiment is a plain file in `configs/` whose `get_config(arg=None)` starts from
`default_config()` and sets what it changes. Keys are locked: setting one that is not here is an error.
"""

import itertools
import math
import re

from ml_collections import ConfigDict, config_dict

from muskie_jax import losses, masking
from muskie_jax.checks import check_keys, is_pair, nearest_size, one_of, require
from muskie_jax.data.posed.settings import check_posed, posed
from muskie_jax.data.source_settings import (
    check_sources,
    dataset,
    folder,
    packed,
    published_sources,
    synthetic,
)
from muskie_jax.errors import UserError
from muskie_jax.evaluators.settings import check_evaluate, default_evaluate
from muskie_jax.models import attention, muskie

# What a config file needs.
__all__ = [
    "dataset",
    "default_config",
    "folder",
    "packed",
    "posed",
    "published_sources",
    "synthetic",
    "to_steps",
    "total_steps",
    "validate",
    "warmup_steps",
]

JOBS = ("train", "evaluate", "benchmark", "benchmark_data", "plan")

# The published aspects of the largest resolution, as (height, width); the square is twice as likely.
SIZES_512 = ((512, 512), (512, 512), (288, 512), (384, 512), (512, 288), (512, 384))


def default_config() -> ConfigDict:
    """Every setting, with the published recipe's value where there is one."""
    config = ConfigDict()
    config.job = "train"
    config.seed = 0  # of everything random: data, masks, initial parameters

    config.model = ConfigDict()
    config.model.variant = "base"  # nano, tiny, small, base, large, huge
    config.model.patch = muskie.PATCH
    config.model.registers = muskie.REGISTERS
    config.model.dtype = "bfloat16"  # of matrix products; parameters are always float32
    config.model.remat = "none"  # "elementwise", "block", "full": less memory, more time (docs/speed.md)
    config.model.scan_blocks = False  # True: compiles faster, runs slower; same parameters
    config.model.attention = "auto"  # xla, cudnn, splash
    config.model.view_embed = "none"  # "learned": a vector per view index
    config.model.max_views = 8  # of view_embed

    config.sources = ConfigDict()  # name -> folder, dataset, packed or synthetic(...)

    config.mask = ConfigDict()
    config.mask.modes = (("random", 0.9), ("rectangle", 0.75), ("ellipse", 0.75))
    config.mask.num_reference = config_dict.placeholder(int)  # None: V//4 to V//2, drawn per group

    config.loss = ConfigDict()
    config.loss.error = "l2"  # l1, smooth_l1
    config.loss.confidence = True
    config.loss.normalize_targets = False

    config.batch = ConfigDict()
    config.batch.groups = 32  # loaded together, over all devices, for each resolution
    config.batch.views = 8  # photographs of a loaded group
    config.batch.reuse = 2  # updates made from a loaded batch, with new masks and view orders

    config.buckets = ConfigDict()
    # An update averages over one batch per entry; an entry lists the sizes to draw from.
    config.buckets.resolutions = (((224, 224),), ((384, 384),), SIZES_512)
    config.buckets.views = (1, 2, 4, 8)  # a group is split into groups of so many views

    config.duration = "400 epochs"  # or "... steps", or "... examples" (loaded groups); 0: evaluates only
    config.epoch_groups = 100_000

    config.optim = ConfigDict()
    config.optim.learning_rate = 2e-4
    config.optim.warmup = "2 epochs"
    config.optim.b1 = 0.9
    config.optim.b2 = 0.95
    config.optim.eps = 1e-8
    config.optim.weight_decay = 0.05
    config.optim.decay = "all"  # "matrices": not biases, norms and tokens
    config.optim.clip_norm = 0.0  # 0: gradients are not clipped

    config.mesh = ConfigDict()  # devices along each axis; one of them may be -1, "all others"
    config.mesh.data = -1
    config.mesh.fsdp = 1
    config.mesh.view = 1

    config.data = ConfigDict()
    config.data.root = ""  # the folder that relative roots of sources start from
    config.data.allow_missing = False  # train on the sources whose folders are there
    config.data.index = ""  # folder for lists of scenes; empty: scene_index/ beside the work directory
    config.data.cache = ""  # folder for copies of packs in buckets; empty: ~/.cache/muskie_jax/packed
    config.data.workers = 8  # processes per host that load photographs; 0: threads of the main process
    config.data.threads = 4  # per worker
    config.data.prefetch = 2  # updates kept ready on the device
    config.data.max_bad_fraction = 0.05  # of unreadable images, before the run stops

    config.evaluation = ConfigDict()
    config.evaluation.every = 5_000  # steps; 0: only at the end
    config.evaluation.groups = 64
    config.evaluation.size = (224, 224)
    config.evaluation.views = 8
    config.evaluation.pictures = 2  # groups in the picture of reconstructions

    config.checkpoint = ConfigDict()
    config.checkpoint.every = 2_000  # steps
    config.checkpoint.keep = 3  # the newest ones

    config.profile = ConfigDict()
    config.profile.steps = ()  # first and last update of a trace in <workdir>/profile, such as (10, 13)

    config.benchmark = ConfigDict()  # of job "benchmark"
    # (variant, (height, width), remat) each; empty: the config's own model, at each of its buckets.
    config.benchmark.cases = ()
    config.benchmark.groups_per_device = 0  # 0: batch.groups over all devices
    # Numbers of devices to compare; "all": as many as there are; "doubling": 1, 2, 4, ... and all.
    config.benchmark.devices = ("all",)
    config.benchmark.steps = 10  # timed together
    config.benchmark.repeats = 3  # of which the best counts
    config.benchmark.roofline = True  # measure products and attention alone, too

    config.benchmark_data = ConfigDict()  # of job "benchmark_data"
    config.benchmark_data.photos = (
        ""  # a folder of photographs, searched at any depth; empty: some are made
    )
    config.benchmark_data.photo_sizes = ((480, 640), (1440, 1920))  # (height, width) of those made
    config.benchmark_data.sizes = (224, 384, 512)  # of views, pixels
    config.benchmark_data.seconds = 3.0  # of each measurement
    config.benchmark_data.repeats = 3  # of which the best counts
    # (variant, size, milliseconds of a step) on the GPU to be fed, an H100; and the views of such a step.
    config.benchmark_data.steps = (
        ("base", 224, 12.6),
        ("base", 384, 41.2),
        ("base", 512, 89.4),
        ("large", 224, 36.8),
        ("large", 512, 261.0),
    )
    config.benchmark_data.step_views = 32

    config.log = ConfigDict()
    config.log.every = 50  # steps
    config.log.tensorboard = True

    config.posed = ConfigDict()  # name -> posed(...): views with depth and cameras, of job "evaluate"
    config.evaluate = default_evaluate()  # of job "evaluate", see muskie_jax/evaluators/settings.py

    config.plan = ConfigDict()  # of the job "plan": what this config needs on a machine
    config.plan.machine = "v5e:4x4"  # <chip>:<shape>, see muskie_jax/perf/machines.py
    config.plan.buckets = "all"  # or those to compile, such as "224x224x8, 512x512x8"
    config.plan.utilisation = 0.0  # share of the peak to reckon with as well; 0: none
    config.lock()
    config.sources.unlock()
    config.posed.unlock()
    return config


def validate(config: ConfigDict) -> None:
    """Checks a config without touching a device or the data.

    Raises:
      UserError: one line that names the setting, its value, and what to write instead.
    """
    check_keys(config, default_config(), "config", skip=("sources", "posed"))
    one_of(config.job, JOBS, "config.job")
    _check_model(config.model)
    if config.sources or config.job != "evaluate":
        check_sources(config.sources, needs_data=config.job in ("train", "evaluate"))
    one_of(config.loss.error, losses.ERRORS, "config.loss.error")
    _check_batch(config)
    _check_mask(config)
    _check_optim(config)
    for name in ("data", "fsdp", "view"):
        size = config.mesh[name]
        require(size == -1 or size >= 1, f"config.mesh.{name}={size}: write 1 or more, or -1")
    if sum(size == -1 for size in config.mesh.values()) > 1:
        raise UserError("config.mesh: only one axis may be -1")
    for key in ("checkpoint.every", "checkpoint.keep", "log.every", "data.prefetch"):
        _at_least(config, key, 1)
    for key in ("seed", "data.workers", "evaluation.every", "evaluation.pictures"):
        _at_least(config, key, 0)
    for key in ("data.threads", "evaluation.groups"):
        _at_least(config, key, 1)
    _check_benchmark(config)
    _check_benchmark_data(config)
    check_posed(config.posed)
    if config.job == "evaluate":
        check_evaluate(config)
    share = config.plan.utilisation
    require(0 <= share <= 1, f"config.plan.utilisation={share}: write a share from 0 to 1")
    share = config.data.max_bad_fraction
    require(0 <= share <= 1, f"config.data.max_bad_fraction={share}: write a share from 0 to 1")
    traced = config.profile.steps
    ordered = len(traced) == 2 and all(isinstance(s, int) for s in traced) and 1 <= traced[0] <= traced[1]
    require(
        not traced or ordered, f"config.profile.steps={traced}: write the first and last, as in (10, 13)"
    )
    total_steps(config)
    warmup_steps(config)


def _check_model(model: ConfigDict) -> None:
    one_of(model.variant, muskie.VARIANTS, "config.model.variant")
    one_of(model.dtype, muskie.DTYPES, "config.model.dtype")
    one_of(model.remat, muskie.REMAT, "config.model.remat")
    one_of(model.view_embed, muskie.VIEW_EMBED, "config.model.view_embed")
    one_of(model.attention, attention.IMPLEMENTATIONS, "config.model.attention")
    if (model.attention, model.dtype) == ("cudnn", "float32"):
        raise UserError("config.model.attention='cudnn' has no float32: write 'auto', or dtype='bfloat16'")
    require(model.patch >= 1, f"config.model.patch={model.patch}: write 1 or more")
    require(model.registers >= 0, f"config.model.registers={model.registers}: write 0 or more")


def _check_mask(config: ConfigDict) -> None:
    modes = config.mask.modes
    require(len(modes) > 0, "config.mask.modes is empty: add a pair such as ('random', 0.9)")
    for entry in modes:
        if not (isinstance(entry, (tuple, list)) and len(entry) == 2):
            raise UserError(f"config.mask.modes has {entry!r}: write a pair such as ('random', 0.9)")
        mode, ratio = entry
        one_of(mode, masking.MODES, "config.mask.modes")
        good = isinstance(ratio, (int, float)) and 0 < ratio <= 1
        require(good, f"config.mask.modes: {mode} has ratio {ratio!r}: write one above 0, at most 1")
        for height, width in [*itertools.chain(*config.buckets.resolutions), config.evaluation.size]:
            grid = (height // config.model.patch, width // config.model.patch)
            if masking.hidden_count(grid, ratio) == 0:
                raise UserError(
                    f"config.mask.modes: {mode} with ratio {ratio} hides nothing of {height}x{width}: "
                    f"write at least {1 / (grid[0] * grid[1]):.3g}"
                )
    fixed = config.mask.num_reference
    require(fixed is None or fixed >= 0, f"config.mask.num_reference={fixed}: write 0 or more, or None")
    views = min(*config.buckets.views, config.evaluation.views)
    if fixed is not None and fixed >= views:
        raise UserError(
            f"config.mask.num_reference={fixed} leaves nothing to mask in groups of {views} views: "
            f"write less than {views}, or leave {views} out of config.buckets.views"
        )


def _check_batch(config: ConfigDict) -> None:
    batch, buckets = config.batch, config.buckets
    for key in ("groups", "views", "reuse"):
        _at_least(config, f"batch.{key}", 1)
    require(len(buckets.views) > 0, "config.buckets.views is empty: write for example (2, 4, 8)")
    for views in buckets.views:
        if not isinstance(views, int) or views < 1 or batch.views % views:
            divisors = [v for v in range(1, batch.views + 1) if batch.views % v == 0]
            raise UserError(
                f"config.buckets.views has {views!r}, which does not divide config.batch.views="
                f"{batch.views}: choose from {', '.join(map(str, divisors))}"
            )
    require(len(buckets.resolutions) > 0, "config.buckets.resolutions is empty: write (((224, 224),),)")
    for sizes in buckets.resolutions:
        if not isinstance(sizes, (tuple, list)) or not sizes or not all(map(is_pair, sizes)):
            raise UserError(
                f"config.buckets.resolutions={buckets.resolutions!r}: write a tuple of (height, width) "
                "pairs for each resolution, such as (((224, 224),), ((512, 384), (384, 512)))"
            )
        for size in sizes:
            _check_size(size, config.model.patch, "config.buckets.resolutions")
    size = config.evaluation.size
    require(is_pair(size), f"config.evaluation.size={size!r}: write (height, width)")
    _check_size(size, config.model.patch, "config.evaluation.size")
    views = config.evaluation.views
    require(views >= 1, f"config.evaluation.views={views}: write 1 or more")
    if config.model.view_embed == "learned":
        most = max(*buckets.views, views)
        if most > config.model.max_views:
            raise UserError(
                f"config.model.max_views={config.model.max_views}, but groups of {most} views occur: "
                f"write config.model.max_views={most}"
            )


def _check_optim(config: ConfigDict) -> None:
    optim = config.optim
    one_of(optim.decay, ("all", "matrices"), "config.optim.decay")
    require(optim.learning_rate > 0, f"config.optim.learning_rate={optim.learning_rate}: write above 0")
    for key in ("weight_decay", "clip_norm", "eps"):
        _at_least(config, f"optim.{key}", 0)
    for key in ("b1", "b2"):
        require(0 <= optim[key] < 1, f"config.optim.{key}={optim[key]}: write from 0 to below 1")


def _check_benchmark(config: ConfigDict) -> None:
    settings = config.benchmark
    for key in ("steps", "repeats"):
        _at_least(config, f"benchmark.{key}", 1)
    _at_least(config, "benchmark.groups_per_device", 0)
    for case in settings.cases:
        if not (isinstance(case, (tuple, list)) and len(case) == 3 and is_pair(case[1])):
            raise UserError(
                f"config.benchmark.cases has {case!r}: write (variant, (height, width), remat) for each, "
                "such as (('base', (224, 224), 'none'),)"
            )
        variant, size, remat = case
        one_of(variant, muskie.VARIANTS, "config.benchmark.cases")
        _check_size(size, config.model.patch, "config.benchmark.cases")
        one_of(remat, muskie.REMAT, "config.benchmark.cases")
    views, most = config.batch.views, config.model.max_views
    if settings.cases and config.model.view_embed == "learned" and views > most:
        raise UserError(
            f"config.model.max_views={most}, but config.benchmark.cases have config.batch.views={views}: "
            f"write config.model.max_views={views}"
        )
    require(settings.devices, "config.benchmark.devices is empty: write 'all', or numbers such as (1, 2)")
    for count in settings.devices:
        good = count in ("all", "doubling") or (isinstance(count, int) and count >= 1)
        require(good, f"config.benchmark.devices has {count!r}: write 1 or more, 'all' or 'doubling'")


def _check_benchmark_data(config: ConfigDict) -> None:
    settings = config.benchmark_data
    for key in ("repeats", "step_views"):
        _at_least(config, f"benchmark_data.{key}", 1)
    seconds = settings.seconds
    require(seconds > 0, f"config.benchmark_data.seconds={seconds}: write above 0, such as 3.0")
    require(settings.sizes, "config.benchmark_data.sizes is empty: write for example (224, 512)")
    for size in settings.sizes:
        _check_size((size, size), config.model.patch, "config.benchmark_data.sizes")
    for size in settings.photo_sizes:
        good = is_pair(size) and min(size) >= 1
        require(good, f"config.benchmark_data.photo_sizes has {size!r}: write (height, width)")
    for step in settings.steps:
        if not (isinstance(step, (tuple, list)) and len(step) == 3 and step[2] > 0):
            raise UserError(
                f"config.benchmark_data.steps has {step!r}: write (variant, size, milliseconds), such as "
                "('base', 224, 12.6)"
            )
        one_of(step[0], muskie.VARIANTS, "config.benchmark_data.steps")


def _check_size(size: tuple[int, int], patch: int, path: str) -> None:
    nearest = nearest_size(size, patch)
    if nearest != tuple(size):
        height, width = size
        raise UserError(
            f"{path} has {height}x{width}, not divisible by the patch size {patch}: "
            f"the nearest that is, is {nearest}"
        )


def _at_least(config: ConfigDict, key: str, least: int) -> None:
    group, _, name = key.rpartition(".")
    value = (config[group] if group else config)[name]
    require(value >= least, f"config.{key}={value}: write {least} or more")


def to_steps(duration: str, config: ConfigDict, path: str) -> int:
    """Updates that a duration such as "400 epochs", "10_000 steps" or "1e6 examples" means.

    An example is a loaded group; every `batch.groups` of them serve `batch.reuse` updates.
    """
    match = re.fullmatch(r"([0-9._e+]+) *(steps?|epochs?|examples?)", str(duration).strip())
    try:
        amount = float(match[1])
        steps = math.ceil(amount)  # fails for what is no finite number
    except (TypeError, ValueError, OverflowError):
        raise UserError(
            f'{path}={duration!r}: write a number of steps, epochs or examples, such as "500 steps"'
        ) from None
    if match[2].startswith("step"):
        return steps
    examples = amount * (config.epoch_groups if match[2].startswith("epoch") else 1)
    return math.ceil(examples / config.batch.groups * config.batch.reuse)


def total_steps(config: ConfigDict) -> int:
    """Updates of the whole run; 0 if there is nothing but an evaluation."""
    return to_steps(config.duration, config, "config.duration")


def warmup_steps(config: ConfigDict) -> int:
    """Updates over which the learning rate rises; less than the whole run."""
    steps = to_steps(config.optim.warmup, config, "config.optim.warmup")
    if steps >= total_steps(config) > 0:
        raise UserError(
            f"config.optim.warmup={config.optim.warmup!r} is not shorter than "
            f"config.duration={config.duration!r}"
        )
    return steps
