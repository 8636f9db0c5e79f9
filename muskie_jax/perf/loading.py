"""Job `benchmark_data`: times decoding and augmentation, and derives the core count that feeds a GPU.

The training pipeline, masks included, is compared with the PyTorch loader of `torch_loader`: first in one
process on one core, then with a worker on every core. The two loaders alternate, and the fastest of several
timings counts. A loaded view counts once, even if several updates use it.
"""

import contextlib
import importlib.util
import json
import math
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.config import folder, validate
from muskie_jax.data.images import read_photograph, resize_box
from muskie_jax.data.mixture import build_mixture, training_sampler
from muskie_jax.data.pipeline import GroupSampler, Pipeline
from muskie_jax.data.processes import available_cores
from muskie_jax.data.sources import PhotographSource
from muskie_jax.data.views import random_crop_box
from muskie_jax.errors import UserError
from muskie_jax.files import create_workdir, user_path
from muskie_jax.masking import group_masks
from muskie_jax.perf.synthetic_photographs import write_photographs
from muskie_jax.perf.throughput import items_per_second
from muskie_jax.writers import log_main, table_head, table_row

NUM_PHOTOGRAPHS = 16  # number of generated photographs per size
STAGES = ("open", "decode", "resize", "masks", "rest")
COLUMNS = (
    ("photographs", 16), ("output", 8), ("views/s/core", 13), ("PyTorch", 8), ("ratio", 6),
    ("all cores", 10), ("PyTorch", 8), ("ratio", 6), *((f"{stage}, ms", 11) for stage in STAGES),
)  # fmt: skip
NEED_COLUMNS = (("model", 7), ("output", 9), ("ms/step", 8), ("photographs", 16), ("cores", 8))


def benchmark_data(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Times loading of photographs, for every photograph size and output size, and prints two tables.

    Args:
      config: the config (`muskie_jax.config.default_config`), mainly its section `benchmark_data`.
      workdir: folder of `benchmark_data.jsonl`, with one line per case, and of generated photographs.

    Returns:
      A dictionary with:

      - `cores`: the number of cores;
      - `cases`: one dictionary per case, with `views_per_second` on one core; `torch_views_per_second`, the
        speed of the PyTorch loader; `ratio`, the first over the second; the same on all cores, with suffix
        `_all`; and `stages`, the milliseconds per view on one core;
      - `needs`: the number of cores that feed one GPU, see `cores_needed`.
    """
    validate(config)
    create_workdir(workdir)
    settings = config.benchmark_data
    has_torch = importlib.util.find_spec("torch") is not None
    if not has_torch:
        log_main(
            "PyTorch is not installed, so the comparison is left out: "
            'run python -m pip install -e ".[torch]" -c constraints.txt'
        )
    log_main(table_head(COLUMNS))
    cases = []
    for name, root in photograph_folders(settings, workdir):
        for size in settings.sizes:
            case = {"photographs": name, "size": size} | measure(config, root, size, has_torch)
            cases.append(case)
            log_main(table_row(case_cells(case), COLUMNS))
            with (workdir / "benchmark_data.jsonl").open("a") as file:
                file.write(json.dumps(case) + "\n")
    needs = cores_needed(cases, settings.steps, settings.step_views, config.batch.reuse)
    log_main("")
    log_main(
        f"Cores that feed one GPU, which takes {settings.step_views} views per step and uses each "
        f"{config.batch.reuse} times:"
    )
    log_main(table_head(NEED_COLUMNS))
    for need in needs:
        log_main(table_row(need_cells(need), NEED_COLUMNS))
    return {
        "job": "benchmark_data",
        "cores": len(available_cores()),
        "cases": cases,
        "needs": needs,
        "workdir": str(workdir),
    }


def photograph_folders(settings: ConfigDict, workdir: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
    """Yields (name, folder): the user's folder, or one folder of generated photographs per size."""
    if settings.photos:
        yield "yours", user_path(settings.photos)
        return
    for height, width in settings.photo_sizes:
        name = f"{width}x{height}"
        root = workdir / "photographs" / name
        write_photographs(root, NUM_PHOTOGRAPHS, (height, width))
        yield f"{name}, {_mean_kilobytes(root):.0f} kB", root


def _mean_kilobytes(root: pathlib.Path) -> float:
    return float(np.mean([path.stat().st_size for path in root.iterdir()])) / 1e3


def measure(config: ConfigDict, root: pathlib.Path, size: int, has_torch: bool) -> dict[str, Any]:
    """Times loading of a folder of photographs as views of size x size.

    Returns:
      A case as in `benchmark_data`, without `photographs` and `size`.
    """
    settings = config.benchmark_data
    sampler = make_sampler(config, root, size)
    source = sampler.sources[0]
    assert isinstance(source, PhotographSource)
    paths = [source.root / frame for scene in source.scenes for frame in scene.frames]
    views = config.batch.groups * config.batch.views

    def pipeline_speed(workers: int) -> float:
        return items_per_second(pipeline_loads(sampler, config.batch.groups, workers), settings.seconds)

    def torch_speed(workers: int) -> float:
        return torch_batches_per_second(paths, size, views, workers, settings.seconds)

    loaders: dict[str, Callable[[int], float]] = {"views_per_second": pipeline_speed}
    if has_torch:
        loaders["torch_views_per_second"] = torch_speed
    case: dict[str, Any] = {}
    for suffix, workers in (("", 0), ("_all", len(available_cores()))):
        best = dict.fromkeys(loaders, 0.0)
        for _ in range(settings.repeats):
            for name, speed in loaders.items():
                with contextlib.nullcontext() if workers else one_core():
                    best[name] = max(best[name], views * speed(workers))
        case |= {name + suffix: value for name, value in best.items()}
        if has_torch:
            case["ratio" + suffix] = best["views_per_second"] / best["torch_views_per_second"]
    with one_core():
        stages = stage_costs(sampler, paths, size, settings.seconds)
    stages["rest"] = max(0.0, 1e3 / case["views_per_second"] - sum(stages.values()))
    return case | {"stages": stages}


def make_sampler(config: ConfigDict, root: pathlib.Path, size: int) -> GroupSampler:
    """Returns the training sampler of a config with one folder of photographs and one output size."""
    config = config.copy_and_resolve_references()
    config.sources = ConfigDict({"photos": folder(root=str(root), glob="**/*", holdout=0.0)})
    config.buckets.resolutions = (((size, size),),)
    return training_sampler(config, build_mixture(config))


def pipeline_loads(sampler: GroupSampler, groups: int, workers: int) -> Generator[None, None, None]:
    """Yields once per loaded batch of the training pipeline, after all updates that use the batch."""
    updates = Pipeline(sampler, range(groups), workers, threads=1).updates()
    with contextlib.closing(updates):
        while True:
            for _ in range(sampler.reuse):
                next(updates)
            yield


def torch_batches_per_second(
    paths: Sequence[pathlib.Path], size: int, views: int, workers: int, seconds: float
) -> float:
    """Returns the speed of the PyTorch loader with batches of `views` views.

    The loader runs in a separate process, on the cores that this thread may use.
    """
    command = [sys.executable, "-m", "muskie_jax.perf.torch_loader"]
    arguments, lines = map(str, (size, views, workers, seconds)), "\n".join(map(str, paths))
    run = subprocess.run([*command, *arguments], input=lines, capture_output=True, text=True)
    if run.returncode:
        reason = (run.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise UserError(f"the PyTorch loader failed: {reason}")
    return float(run.stdout)


def stage_costs(
    sampler: GroupSampler, paths: Sequence[pathlib.Path], size: int, seconds: float
) -> dict[str, float]:
    """Returns the milliseconds per view of each stage that can be timed alone.

    - `open` reads the file and its header.
    - `decode` decodes pixels at the scale that a random crop needs.
    - `resize` crops and resizes the pixels.
    - `masks` draws the masks of all updates that use the view.
    """
    rng, output = np.random.default_rng(0), (size, size)
    spent, count, start = dict.fromkeys(STAGES[:-1], 0.0), 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        marks = [time.perf_counter()]
        photograph = read_photograph(paths[count % len(paths)], upright=False)
        marks.append(time.perf_counter())
        box = random_crop_box(rng, (photograph.height, photograph.width), output)
        pixels, scale = photograph.decode(photograph.scale_for(box, output))
        marks.append(time.perf_counter())
        left, top, right, bottom = box
        resize_box(pixels, (left / scale, top / scale, right / scale, bottom / scale), output)
        marks.append(time.perf_counter())
        is_first_of_group = count % sampler.views == 0
        if is_first_of_group and sampler.masks:
            for update in range(sampler.reuse):
                (bucket,) = sampler.schedule.at(sampler.reuse * count + update)
                splits, grid = sampler.views // bucket.views, bucket.grid(sampler.patch)
                group_masks(rng, splits, bucket.views, grid, sampler.masks)
        marks.append(time.perf_counter())
        for stage, before, after in zip(spent, marks, marks[1:]):
            spent[stage] += after - before
        count += 1
    return {stage: 1e3 * total / count for stage, total in spent.items()}


@contextlib.contextmanager
def one_core() -> Iterator[None]:
    """Pins this thread, and the threads and processes it starts, to one core, if the system supports it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def cores_needed(
    cases: Sequence[dict[str, Any]], steps: Sequence[tuple[str, int, float]], step_views: int, reuse: int
) -> list[dict[str, Any]]:
    """Returns the number of cores that feed a GPU, for every known step time and kind of photographs.

    The speed of a core is the lower of two: its speed alone, and its speed while all cores work.

    Args:
      cases: see `benchmark_data`.
      steps: step times, as (variant, size, milliseconds).
      step_views: number of views per step.
      reuse: number of steps (passes) that use a loaded view.

    Returns:
      One dictionary per row. `size` "all" is the published update, which has a batch of each size. If step
      times of some sizes are missing, its step time is a lower bound, and `at_most` is true.
    """
    needs = []
    for photographs in dict.fromkeys(case["photographs"] for case in cases):
        core_seconds = {
            case["size"]: step_views / reuse / _views_per_core_second(case)
            for case in cases
            if case["photographs"] == photographs
        }
        for variant in dict.fromkeys(variant for variant, *_ in steps):
            step_ms = {size: ms for v, size, ms in steps if v == variant and size in core_seconds}
            rows: list[tuple[int | str, float, float, bool]] = [
                (size, ms, core_seconds[size], False) for size, ms in step_ms.items()
            ]
            if step_ms and len(core_seconds) > 1:
                is_partial = step_ms.keys() != core_seconds.keys()
                rows.append(("all", sum(step_ms.values()), sum(core_seconds.values()), is_partial))
            for size, ms, seconds, at_most in rows:
                need = {"variant": variant, "size": size, "step_ms": ms, "photographs": photographs}
                needs.append(need | {"cores": seconds / (ms / 1e3), "at_most": at_most})
    return needs


def _views_per_core_second(case: dict[str, Any]) -> float:
    return min(case["views_per_second"], case["views_per_second_all"] / len(available_cores()))


def case_cells(case: dict[str, Any]) -> list[str]:
    """Returns the cells of a case's row, in the order of COLUMNS."""
    cells = [case["photographs"], f"{case['size']}x{case['size']}"]
    for suffix in ("", "_all"):
        cells.append(f"{case['views_per_second' + suffix]:.0f}")
        torch = case.get("torch_views_per_second" + suffix)
        cells += ["-", "-"] if torch is None else [f"{torch:.0f}", f"{case['ratio' + suffix]:.1f}"]
    return cells + [f"{case['stages'][stage]:.2f}" for stage in STAGES]


def need_cells(need: dict[str, Any]) -> list[str]:
    """Returns the cells of a row of `cores_needed`, in the order of NEED_COLUMNS."""
    size = need["size"] if need["size"] == "all" else f"{need['size']}x{need['size']}"
    at_most, at_least = ("<= ", ">= ") if need["at_most"] else ("", "")
    return [
        need["variant"],
        size,
        f"{at_least}{need['step_ms']:.1f}",
        need["photographs"],
        f"{at_most}{math.ceil(10 * need['cores']) / 10:.1f}",
    ]
