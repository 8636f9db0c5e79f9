"""What is in a config's data, and what is wrong with it, without a network: `muskie_jax.data inspect`."""

import collections
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from muskie_jax.command_line import CONFIG, WORKDIR, Command
from muskie_jax.config import validate
from muskie_jax.data.images import BadImage
from muskie_jax.data.mixture import Mixture, build_mixture, training_sampler
from muskie_jax.data.pipeline import GroupSampler, collate
from muskie_jax.data.sources import PhotographSource, SyntheticSource
from muskie_jax.data.synthetic import render_groups
from muskie_jax.errors import UserError, printable
from muskie_jax.files import user_path
from muskie_jax.viz.contact_sheet import SheetRow, contact_sheet
from muskie_jax.writers import log_main, save_picture, table_head, table_row

_CHECK = flags.DEFINE_integer(
    "check", 200, "Images of each source that are read whole, spread over all; 0: every one.", lower_bound=0
)
THREADS = 8
ROWS_PER_SOURCE = 2  # of the contact sheet
TIMED_LOADS = 4  # of each resolution and source
NAMED_FILES = 10  # unreadable ones, named per source
COLUMNS = (
    ("dataset", 14), ("scenes", 8), ("held out", 8), ("images", 10), ("per scene", 16), ("first image", 20),
    ("unreadable", 12), ("views/s", 8),
)  # fmt: skip


def inspect(config: ConfigDict, workdir: pathlib.Path, check: int) -> dict[str, Any]:
    """Reads a config's data, prints a table of its sources, and draws groups as training would.

    Args:
      config: see `muskie_jax.config.default_config`.
      workdir: gets `contact_sheet.png` and `inspect.json`; lists of scenes are kept beside it.
      check: images of each source that are read whole, evenly spread over all; 0: every one.

    Returns:
      `sources`, a dictionary each; `views_per_second`, of one core, for the mixture; `contact_sheet`.

    Raises:
      UserError: for a source that cannot be trained on: no scene, or more unreadable images than
        `config.data.max_bad_fraction`. The report is written all the same.
    """
    validate(config)
    mixture = build_mixture(config, workdir)
    for note in mixture.notes:
        log_main(note)
    log_main("")
    log_main(table_head(COLUMNS))
    sampler = training_sampler(config, mixture)
    reports, rows, errors = [], [], []
    for number, source in enumerate(mixture.training):
        alone = only(sampler, number)
        if isinstance(source, SyntheticSource):
            reports.append({"name": source.name, "kind": "synthetic"})
            rows += list(rendered_rows(alone, source))
        else:
            held = mixture.held_out[number]
            report = examine(source, None if held.scenes is source.scenes else held, check)
            report["views_per_second"], groups = timed_groups(alone)
            rows += [row_of(alone, group) for group in groups[:ROWS_PER_SOURCE] if not group["error"]]
            report["errors"] = list(dict.fromkeys(group["error"] for group in groups if group["error"]))
            errors += complaints(report, config.data.max_bad_fraction)
            reports.append(report)
        log_main(table_row(describe(reports[-1]), COLUMNS))
    workdir.mkdir(parents=True, exist_ok=True)
    result = {
        "job": "inspect",
        "sources": reports,
        "views_per_second": mixture_speed(mixture, reports),
        "contact_sheet": str(workdir / "contact_sheet.png"),
    }
    if rows:
        save_picture(workdir / "contact_sheet.png", contact_sheet(rows, sampler.patch))
    (workdir / "inspect.json").write_text(json.dumps(result, indent=1) + "\n")
    for line in summary(result, workdir):
        print(printable(line))
    if errors:
        raise UserError("; ".join(errors))
    return result


def only(sampler: GroupSampler, number: int) -> GroupSampler:
    """A sampler that draws from one source."""
    weight = lambda i, source: dataclasses.replace(source, weight=float(i == number))
    return dataclasses.replace(
        sampler, sources=tuple(weight(i, source) for i, source in enumerate(sampler.sources))
    )


def examine(source: PhotographSource, unseen: PhotographSource | None, check: int) -> dict[str, Any]:
    """Counts what a source has, and reads some of its images.

    Args:
      source: with its training scenes.
      unseen: with its held-out scenes; None if there are none.
      check: images to read, 0: every one.
    """
    parts = [source] if unseen is None else [source, unseen]
    counts = np.concatenate([part.scenes.counts for part in parts])
    sizes = collections.Counter(tuple(size) for part in parts for size in part.scenes.sizes.tolist())
    (height, width), often = sizes.most_common(1)[0]
    total = int(counts.sum())
    chosen = np.arange(total) if not check else np.unique(np.linspace(0, total - 1, check).astype(int))
    ends = np.cumsum(counts)
    numbers = np.searchsorted(ends, chosen, side="right")
    frames = chosen - (ends - counts)[numbers]

    def message(number: int, frame: int) -> str:
        seen = len(source.scenes)
        return (
            unreadable(source, number, frame) if number < seen else unreadable(unseen, number - seen, frame)
        )

    with ThreadPoolExecutor(THREADS) as threads:
        messages = list(filter(None, threads.map(message, numbers.tolist(), frames.tolist())))
    return {
        "name": source.name,
        "kind": "photographs",
        "root": str(source.root),
        "scenes": len(counts),
        "held_out": len(counts) - len(source.scenes),
        "images": total,
        "per_scene": [int(counts.min()), int(np.median(counts)), int(counts.max())],
        "first_image": {"height": height, "width": width, "share": often / len(counts)},
        "sizes": len(sizes),
        "checked": len(chosen),
        "unreadable": messages,
    }


def unreadable(source: PhotographSource, scene: int, frame: int) -> str:
    """What is wrong with an image; empty if nothing is."""
    try:
        source.open(scene, frame).pixels()
        if source.zoom:
            source.object_box(scene, frame)
    except BadImage as error:
        return str(error)
    return ""


def timed_groups(sampler: GroupSampler) -> tuple[float, list[dict[str, Any]]]:
    """Views per second of one core, over all resolutions alike; and the groups drawn, those of the first
    resolution first."""
    resolutions = len(sampler.schedule.resolutions)
    sampler((0, 0, TIMED_LOADS))  # what is done once: imports, working memory
    start = time.perf_counter()
    groups = [sampler((0, r, slot)) for r in range(resolutions) for slot in range(TIMED_LOADS)]
    return len(groups) * sampler.views / (time.perf_counter() - start), groups


def row_of(sampler: GroupSampler, group: dict[str, Any]) -> SheetRow:
    """A group of photographs of the first resolution, as the first update sees it."""
    batch = collate([group]).batch(0, sampler.schedule.at(0)[0])
    name = f"{sampler.sources[int(group['source'])].name}: {group['name']}"
    return SheetRow(name, batch["images"], batch["mask"])


def rendered_rows(sampler: GroupSampler, source: SyntheticSource) -> Iterator[SheetRow]:
    """Groups of the synthetic world."""
    bucket = sampler.schedule.at(0)[0]
    height, width, _ = bucket
    for slot in range(ROWS_PER_SOURCE):
        batch = sampler.synthetic_load(0, 0, range(slot, slot + 1)).batch(0, bucket)
        views = render_groups(
            batch["scene"], num_views=sampler.views, height=height, width=width, config=source.world
        )
        (images,), (scene,), (order,) = np.asarray(views.images), batch["scene"], batch["order"]
        images = images[order].reshape(-1, bucket.views, *images.shape[1:])
        yield SheetRow(f"{source.name}: {scene[0]}-{scene[1]}", images, batch["mask"])


def complaints(report: dict[str, Any], most: float) -> Iterator[str]:
    """Why a source cannot be trained on."""
    bad = len(report["unreadable"])
    yield from report["errors"]
    if bad > most * report["checked"]:
        yield (
            f"{report['name']}: {bad} of {report['checked']} images are unreadable, more than "
            f"config.data.max_bad_fraction={most} lets pass"
        )


def mixture_speed(mixture: Mixture, reports: list[dict[str, Any]]) -> float | None:
    """Views per second and core of all photographs together, each source as often as its weight says."""
    photographs = [
        (source.weight, report["views_per_second"])
        for source, report in zip(mixture.training, reports)
        if report["kind"] == "photographs" and source.weight
    ]
    if not photographs:
        return None
    return sum(weight for weight, _ in photographs) / sum(weight / speed for weight, speed in photographs)


def describe(report: dict[str, Any]) -> list[str]:
    """A source's cells, in the order of COLUMNS."""
    if report["kind"] == "synthetic":
        return [report["name"], "endless", *("-",) * 6]
    first = report["first_image"]
    others = f" ({first['share']:.0%})" if report["sizes"] > 1 else ""
    low, middle, high = report["per_scene"]
    return [
        report["name"],
        f"{report['scenes']:,}",
        f"{report['held_out']:,}",
        f"{report['images']:,}",
        f"{low} - {middle} - {high}",
        f"{first['width']}x{first['height']}{others}",
        f"{len(report['unreadable'])} of {report['checked']:,}",
        f"{report['views_per_second']:.0f}",
    ]


def summary(result: dict[str, Any], workdir: pathlib.Path) -> list[str]:
    """What a person should know beside the table."""
    lines = []
    for report in result["sources"]:
        bad = report.get("unreadable", ())
        lines += [f"unreadable  {message}" for message in bad[:NAMED_FILES]]
        if len(bad) > NAMED_FILES:
            lines.append(f"            and {len(bad) - NAMED_FILES} more of {report['name']}: inspect.json")
    if result["views_per_second"]:
        lines.append(
            f"One core here decodes and augments {result['views_per_second']:.0f} views a second of this "
            "mixture."
        )
    return [*lines, f"  groups   {result['contact_sheet']}", f"  figures  {workdir / 'inspect.json'}"]


def run_inspect(arguments: list[str]) -> dict[str, Any]:
    """Shows what is in a config's data, what is wrong with it, and what training would see."""
    del arguments
    return inspect(CONFIG.value, user_path(WORKDIR.value or "runs/inspect"), _CHECK.value)


INSPECT = Command(run_inspect, {"config": "configs/photos.py"}, ("workdir", "check"))
