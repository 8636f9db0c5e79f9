"""Job `benchmark_data`: how many views a second a core decodes and augments, and who is fed by that.

The pipeline of training is measured, masks included, beside the PyTorch loader of `torch_loader`: in one
process on one core, then with a worker on every core. Both take turns, and the best of several times
counts for both. A view is counted once, when it is loaded, however many updates use it.
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
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.config import folder, validate
from muskie_jax.data.images import read_photograph, resize_box
from muskie_jax.data.mixture import build_mixture, training_sampler
from muskie_jax.data.pipeline import GroupSampler, Pipeline
from muskie_jax.data.processes import available_cores
from muskie_jax.data.views import random_crop_box
from muskie_jax.errors import UserError
from muskie_jax.files import create_workdir, user_path
from muskie_jax.masking import group_masks
from muskie_jax.perf.made_photographs import make_photographs
from muskie_jax.perf.pace import items_per_second
from muskie_jax.writers import log_main, table_head, table_row

MADE = 16  # photographs of each size
STAGES = ("open", "decode", "resize", "masks", "rest")
COLUMNS = (
    ("photographs", 16), ("output", 8), ("views/s/core", 13), ("PyTorch", 8), ("ratio", 6),
    ("all cores", 10), ("PyTorch", 8), ("ratio", 6), *((f"{stage}, ms", 11) for stage in STAGES),
)  # fmt: skip
NEED_COLUMNS = (("model", 7), ("output", 9), ("ms/step", 8), ("photographs", 16), ("cores", 8))


def benchmark_data(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Measures loading from photographs of every size to every output size, and prints tables.

    Args:
      config: see `muskie_jax.config.default_config`, its section `benchmark_data`.
      workdir: gets `benchmark_data.jsonl`, a line per case, and the photographs it makes.

    Returns:
      `cores`; `cases`: a dictionary each, with views per second of one core and of all, `torch_...` of
      the PyTorch loader, `ratio` and `ratio_all`, and `stages`, ms of a core per view; `needs`, how
      many cores feed one GPU.
    """
    validate(config)
    create_workdir(workdir)
    settings = config.benchmark_data
    cores, has_torch = len(available_cores()), importlib.util.find_spec("torch") is not None
    if not has_torch:
        log_main(
            'No PyTorch to compare with: python -m pip install -e ".[torch]" -c constraints.txt gets it'
        )
    log_main(table_head(COLUMNS))
    cases = []
    for name, root in photograph_folders(settings, workdir):
        for size in settings.sizes:
            case = {"photographs": name, "size": size} | measure(config, root, size, has_torch)
            cases.append(case)
            log_main(table_row(describe(case), COLUMNS))
            with (workdir / "benchmark_data.jsonl").open("a") as file:
                file.write(json.dumps(case) + "\n")
    needs = cores_needed(cases, settings.steps, settings.step_views, config.batch.reuse)
    log_main("")
    log_main(
        f"Cores that feed one GPU, which takes {settings.step_views} views a step and uses each "
        f"{config.batch.reuse} times:"
    )
    log_main(table_head(NEED_COLUMNS))
    for need in needs:
        log_main(table_row(describe_need(need), NEED_COLUMNS))
    return {
        "job": "benchmark_data",
        "cores": cores,
        "cases": cases,
        "needs": needs,
        "workdir": str(workdir),
    }


def photograph_folders(settings: ConfigDict, workdir: pathlib.Path) -> Iterator[tuple[str, pathlib.Path]]:
    """The user's folder, or photographs made for each size; what they are called, and where they are."""
    if settings.photos:
        yield "yours", user_path(settings.photos)
        return
    for height, width in settings.photo_sizes:
        name = f"{width}x{height}"
        root = workdir / "photographs" / name
        make_photographs(root, MADE, (height, width))
        yield f"{name}, {_kilobytes(root):.0f} kB", root


def _kilobytes(root: pathlib.Path) -> float:
    return float(np.mean([path.stat().st_size for path in root.iterdir()])) / 1e3


def measure(config: ConfigDict, root: pathlib.Path, size: int, has_torch: bool) -> dict[str, Any]:
    """Views per second from the photographs of a folder to views of size x size, and where time goes."""
    settings = config.benchmark_data
    sampler = sampler_of(config, root, size)
    source = sampler.sources[0]
    paths = [source.root / frame for scene in source.scenes for frame in scene.frames]
    views = config.batch.groups * config.batch.views
    cores, case = len(available_cores()), {}
    for suffix, workers in (("", 0), ("_all", cores)):
        ours = lambda w: items_per_second(our_loads(sampler, config.batch.groups, w), settings.seconds)
        theirs = lambda w: torch_loads_per_second(paths, size, views, w, settings.seconds)
        loaders = {"views_per_second": ours} | ({"torch_views_per_second": theirs} if has_torch else {})
        best = dict.fromkeys(loaders, 0.0)
        for _ in range(settings.repeats):
            for name, speed in loaders.items():
                with contextlib.nullcontext() if workers else one_core():
                    best[name] = max(best[name], views * speed(workers))
        case |= {name + suffix: value for name, value in best.items()}
        if has_torch:
            case["ratio" + suffix] = best["views_per_second"] / best["torch_views_per_second"]
    with one_core():
        case["stages"] = stage_costs(sampler, paths, size, settings.seconds)
    spent = sum(case["stages"].values())
    case["stages"]["rest"] = max(0.0, 1e3 / case["views_per_second"] - spent)
    return case


def sampler_of(config: ConfigDict, root: pathlib.Path, size: int) -> GroupSampler:
    """What training draws its groups from, with one folder of photographs and one output size."""
    config = config.copy_and_resolve_references()
    config.sources = ConfigDict({"photos": folder(root=str(root), glob="**/*", holdout=0.0)})
    config.buckets.resolutions = (((size, size),),)
    return training_sampler(config, build_mixture(config))


def our_loads(sampler: GroupSampler, groups: int, workers: int) -> Iterator[None]:
    """The batches of training, a load at a time."""
    updates = Pipeline(sampler, range(groups), workers, threads=1).updates()
    with contextlib.closing(updates):
        while True:
            for _ in range(sampler.reuse):
                next(updates)
            yield


def torch_loads_per_second(
    paths: Sequence[pathlib.Path], size: int, views: int, workers: int, seconds: float
) -> float:
    """Speed of the PyTorch loader, as many views at a time; in a process that uses the same cores."""
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
    """Milliseconds per view of the stages that can be run alone.

    `open` reads the file and its header; `decode` makes pixels, at the scale that a random crop needs;
    `resize` cuts and resizes them; `masks` draws those of all updates of a load.
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
        resize_box(pixels, tuple(edge / scale for edge in box), output)
        marks.append(time.perf_counter())
        if count % sampler.views == 0:  # that was the first view of a group
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
    """Keeps this thread, and those started from it meanwhile, on one core (where the system can)."""
    cores = available_cores()
    pin = getattr(os, "sched_setaffinity", lambda *_: None)
    pin(0, cores[-1:])
    try:
        yield
    finally:
        pin(0, cores)


def cores_needed(
    cases: Sequence[dict[str, Any]], steps: Sequence[tuple[str, int, float]], step_views: int, reuse: int
) -> list[dict[str, Any]]:
    """How many cores feed a GPU, for every step whose time is known and every kind of photographs.

    A core is reckoned at the lower of its speeds alone and with all others at work. After the sizes of
    a model, `size` "all" is the published update: a batch of each measured size. Where not every size's
    step time is known, its time is at least the sum of those known: `at_most` tells.

    Args:
      steps: (variant, size, milliseconds of a step) each.
      step_views: views of such a step.
      reuse: steps that a loaded view is used for.
    """
    cores = len(available_cores())
    needs = []
    for name in dict.fromkeys(case["photographs"] for case in cases):
        mine = [case for case in cases if case["photographs"] == name]
        # Seconds of a core for the views of a step.
        cost = {
            case["size"]: step_views
            / reuse
            / min(case["views_per_second"], case["views_per_second_all"] / cores)
            for case in mine
        }
        for variant in dict.fromkeys(variant for variant, *_ in steps):
            known = {size: ms for v, size, ms in steps if v == variant and size in cost}
            rows = [(size, ms, cost[size], False) for size, ms in known.items()]
            if known and len(cost) > 1:
                rows.append(("all", sum(known.values()), sum(cost.values()), known.keys() != cost.keys()))
            for size, ms, seconds, at_most in rows:
                need = {"variant": variant, "size": size, "step_ms": ms, "photographs": name}
                needs.append(need | {"cores": seconds / (ms / 1e3), "at_most": at_most})
    return needs


def describe(case: dict[str, Any]) -> list[str]:
    """A case's cells, in the order of COLUMNS."""
    cells = [case["photographs"], f"{case['size']}x{case['size']}"]
    for suffix in ("", "_all"):
        cells.append(f"{case['views_per_second' + suffix]:.0f}")
        theirs = "torch_views_per_second" + suffix
        cells += [f"{case[theirs]:.0f}", f"{case['ratio' + suffix]:.1f}"] if theirs in case else ["-", "-"]
    return cells + [f"{case['stages'][stage]:.2f}" for stage in STAGES]


def describe_need(need: dict[str, Any]) -> list[str]:
    """A row's cells, in the order of NEED_COLUMNS."""
    size = need["size"] if need["size"] == "all" else f"{need['size']}x{need['size']}"
    at_most, at_least = ("<= ", ">= ") if need["at_most"] else ("", "")
    return [
        need["variant"],
        size,
        f"{at_least}{need['step_ms']:.1f}",
        need["photographs"],
        f"{at_most}{math.ceil(10 * need['cores']) / 10:.1f}",
    ]
