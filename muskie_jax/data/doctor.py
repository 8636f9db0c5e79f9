"""`python -m muskie_jax.data inspect`: checks the data of a config, without a network."""

import collections
import dataclasses
import json
import pathlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jaxtyping import UInt8
from ml_collections import ConfigDict

from muskie_jax.buckets import BucketSchedule
from muskie_jax.command_line import CONFIG, WORKDIR, Command
from muskie_jax.config import validate
from muskie_jax.data.images import BadImage
from muskie_jax.data.loads import PhotoGroup, collate
from muskie_jax.data.mixture import Mixture, build_mixture, training_sampler
from muskie_jax.data.pipeline import GroupSampler
from muskie_jax.data.posed import inspection as posed
from muskie_jax.data.recordings import RecordedSource
from muskie_jax.data.sources import PhotographSource, SyntheticSource
from muskie_jax.data.synthetic import photo_pyramid, render_groups
from muskie_jax.data.synthetic.view_differences import measure_view_differences, view_difference_lines
from muskie_jax.errors import UserError, printable
from muskie_jax.files import user_path
from muskie_jax.viz.contact_sheet import VIEW_HEIGHT, SheetRow, contact_sheet
from muskie_jax.viz.warps import warp_sheet
from muskie_jax.writers import log_main, save_picture, table_head, table_row

_CHECK = flags.DEFINE_integer(
    "check", 200, "Images to decode per source, evenly spaced; 0: all images.", lower_bound=0
)
_DRAW = flags.DEFINE_integer("draw", 2, "Groups of each source on the contact sheet.", lower_bound=1)
THREADS = 8
MEASURED_GROUPS = 100  # groups of a synthetic source whose views are compared
TIMED_LOADS = 4  # groups loaded per resolution and source
MAX_LISTED_FILES = 10  # unreadable files printed per source
COLUMNS = (
    ("dataset", 14), ("scenes", 8), ("held out", 8), ("images", 10), ("per scene", 16), ("first image", 20),
    ("unreadable", 12), ("views/s", 8),
)  # fmt: skip


def inspect(config: ConfigDict, workdir: pathlib.Path, check: int, draw: int = 2) -> dict[str, Any]:
    """Checks a config's data, prints tables, and draws groups as training would, and warped views.

    Args:
      config: see `muskie_jax.config.default_config`.
      workdir: folder for `contact_sheet.png`, `warps.png` and `inspect.json`. Lists of scenes are cached
        next to it.
      check: number of images to decode per source, evenly spaced; 0: all images.
      draw: number of groups of each source on the contact sheet.

    Returns:
      A dictionary. For `config.sources`: `sources`, one report per source; `views_per_second`, the
      mixture's loading speed on one core; `contact_sheet`, the path of the picture. For `config.posed`:
      `posed`, one report per dataset, see `inspect_posed`; `warps`, the path of the picture.

    Raises:
      UserError: after writing the report, if a source cannot be trained on: a scene has no readable
        image, or more than `config.data.max_bad_fraction` of the images are unreadable; or if a posed
        dataset has no groups, or its geometry does not fit its images.
    """
    validate(config)
    workdir.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {"job": "inspect"}
    errors = []
    if config.sources or not config.posed:
        errors += inspect_sources(config, workdir, check, draw, result)
    if config.posed:
        errors += inspect_recordings(config, workdir, result)
    (workdir / "inspect.json").write_text(json.dumps(result, indent=1) + "\n")
    for line in summary_lines(result, workdir):
        print(printable(line))
    if errors:
        raise UserError("; ".join(errors))
    return result


def inspect_sources(
    config: ConfigDict, workdir: pathlib.Path, check: int, draw: int, result: dict[str, Any]
) -> list[str]:
    """Checks `config.sources`; adds its part of the result of `inspect`, and returns the errors."""
    mixture = build_mixture(config, workdir)
    for note in mixture.notes:
        log_main(note)
    if any(isinstance(source, PhotographSource) for source in mixture.training):
        log_main("")
        log_main(table_head(COLUMNS))
    sampler = training_sampler(config, mixture)
    reports, rows, errors = [], [], []
    for number, source in enumerate(mixture.training):
        source_sampler = single_source_sampler(sampler, number)
        if isinstance(source, SyntheticSource):
            differences = measure_view_differences(source.world, MEASURED_GROUPS).summary()
            reports.append({"name": source.name, "kind": "synthetic", "view_differences": differences})
            rows += list(rendered_rows(source_sampler, source, mixture.photos.get(number), draw))
        elif isinstance(source, RecordedSource):
            report, drawn = examine_recordings(source_sampler, source, draw)
            rows += drawn
            errors += report["errors"]
            reports.append(report)
        else:
            held_out = mixture.held_out[number]
            assert isinstance(held_out, PhotographSource)
            report = examine(source, None if held_out.scenes is source.scenes else held_out, check)
            report["not_read"] = list(source.scenes.unread)
            report["views_per_second"], groups = time_groups(source_sampler)
            for slot in range(draw):
                timed = slot < TIMED_LOADS
                group = groups[slot] if timed else source_sampler.photo_group(0, 0, slot)
                if not group.error:
                    rows += photo_rows(source_sampler, slot, group)
            report["errors"] = list(dict.fromkeys(group.error for group in groups if group.error))
            errors += source_errors(report, config.data.max_bad_fraction)
            reports.append(report)
            log_main(table_row(table_cells(report), COLUMNS))
    result["sources"] = reports
    result["views_per_second"] = mixture_views_per_second(mixture, reports)
    result["contact_sheet"] = str(workdir / "contact_sheet.png")
    if rows:
        save_picture(workdir / "contact_sheet.png", contact_sheet(rows, sampler.patch))
    return errors


def inspect_recordings(config: ConfigDict, workdir: pathlib.Path, result: dict[str, Any]) -> list[str]:
    """Checks `config.posed`; adds its part of the result of `inspect`, and returns the errors."""
    log_main("")
    log_main(table_head(posed.COLUMNS))
    reports, rows, errors = [], [], []
    for name, settings in config.posed.items():
        found = posed.inspect_posed(name, settings, config.evaluate.views[0], config.data.root)
        reports.append(found.report)
        rows += found.rows
        errors += found.errors
        log_main(table_row(posed.table_cells(found.report), posed.COLUMNS))
    result["posed"] = reports
    if rows:
        result["warps"] = str(workdir / "warps.png")
        save_picture(workdir / "warps.png", warp_sheet(rows))
    return errors


def single_source_sampler(sampler: GroupSampler, number: int) -> GroupSampler:
    """Returns a sampler that draws from one source only."""
    sources = tuple(
        dataclasses.replace(source, weight=float(i == number)) for i, source in enumerate(sampler.sources)
    )
    return dataclasses.replace(sampler, sources=sources)


def examine(source: PhotographSource, held_out: PhotographSource | None, check: int) -> dict[str, Any]:
    """Counts the scenes and images of a source, and decodes some of its images.

    Args:
      source: the training scenes.
      held_out: the held-out scenes; None if there are none.
      check: number of images to decode; 0: all images.
    """
    parts = [source] if held_out is None else [source, held_out]
    counts = np.concatenate([part.scenes.counts for part in parts])
    sizes = collections.Counter(tuple(size) for part in parts for size in part.scenes.sizes.tolist())
    (height, width), most_common_count = sizes.most_common(1)[0]
    total = int(counts.sum())
    chosen = np.arange(total) if not check else np.unique(np.linspace(0, total - 1, check).astype(int))
    ends = np.cumsum(counts)
    numbers = np.searchsorted(ends, chosen, side="right")
    frames = chosen - (ends - counts)[numbers]
    scenes = [(part, scene) for part in parts for scene in range(len(part.scenes))]

    def read_error(number: int, frame: int) -> str:
        part, scene = scenes[number]
        return image_error(part, scene, frame)

    with ThreadPoolExecutor(THREADS) as threads:
        messages = list(filter(None, threads.map(read_error, numbers.tolist(), frames.tolist())))
    return {
        "name": source.name,
        "kind": "photographs",
        "root": str(source.root),
        "scenes": len(counts),
        "held_out": len(counts) - len(source.scenes),
        "images": total,
        "per_scene": [int(counts.min()), int(np.median(counts)), int(counts.max())],
        "first_image": {"height": height, "width": width, "share": most_common_count / len(counts)},
        "sizes": len(sizes),
        "checked": len(chosen),
        "unreadable": messages,
    }


def image_error(source: PhotographSource, scene: int, frame: int) -> str:
    """Returns why an image or its mask cannot be read; empty if both can."""
    try:
        source.open(scene, frame).pixels()
        if source.zoom:
            source.object_box(scene, frame)
    except BadImage as error:
        return str(error)
    return ""


def time_groups(sampler: GroupSampler) -> tuple[float, list[PhotoGroup]]:
    """Times the loading of TIMED_LOADS groups of each resolution on one core.

    Returns:
      Views per second, and the loaded groups, starting with the first resolution.
    """
    resolutions = len(sampler.schedule.resolutions)
    sampler.photo_group(0, 0, TIMED_LOADS)  # warm-up: imports, working memory
    start = time.perf_counter()
    groups = [sampler.photo_group(0, r, slot) for r in range(resolutions) for slot in range(TIMED_LOADS)]
    return len(groups) * sampler.views / (time.perf_counter() - start), groups


def photo_rows(sampler: GroupSampler, slot: int, group: PhotoGroup) -> Iterator[SheetRow]:
    """Yields two rows of the contact sheet for a group of photographs.

    The first row has centre crops of the files, which show whether they are upright. The second row has
    what the first update sees of the group.

    Args:
      sampler: draws the group from its source alone.
      slot: the group's slot in the first load.
      group: the group as it was loaded for this slot, at the first resolution.
    """
    bucket = sampler.schedule.at(0)[0]
    name = f"{sampler.sources[int(group.source)].name}: {group.name}"
    scale = -(-VIEW_HEIGHT // bucket.height)
    large = bucket._replace(height=scale * bucket.height, width=scale * bucket.width)
    schedule = BucketSchedule(((large[:2],),), (large.views,), sampler.seed)
    plain = dataclasses.replace(sampler, schedule=schedule, augmented=False).photo_group(0, 0, slot)
    crops = collate([group._replace(images=plain.images)]).batch(0, large)
    yield SheetRow(f"{name}, centre crops of the files", crops["images"])
    batch = collate([group]).batch(0, bucket)
    label = f"{name}, as training sees it: cropped and flipped at random, masked patches greyed"
    yield SheetRow(label, batch["images"], batch["mask"])


def rendered_rows(
    sampler: GroupSampler,
    source: SyntheticSource,
    photos: UInt8[np.ndarray, "N S S 3"] | None,
    groups: int,
) -> Iterator[SheetRow]:
    """Yields two rows of the contact sheet per rendered group of a synthetic source.

    The first row shows the group; the second row shows what the first update sees of it.

    Args:
      sampler: draws groups from this source alone.
      source: the source.
      photos: the source's photo textures.
      groups: number of groups.
    """
    bucket = sampler.schedule.at(0)[0]
    pyramid = None if photos is None else photo_pyramid(jnp.asarray(photos))

    @jax.jit
    def render(seeds):
        rendered = render_groups(
            seeds,
            num_views=sampler.views,
            height=bucket.height,
            width=bucket.width,
            config=source.world,
            photos=pyramid,
        )
        return rendered.images

    for slot in range(groups):
        batch = sampler.synthetic_load(0, 0, range(slot, slot + 1)).batch(0, bucket)
        (images,), (scene,), (order,) = np.asarray(render(batch["scene"])), batch["scene"], batch["order"]
        images = images[order].reshape(-1, bucket.views, *images.shape[1:])
        name = f"{source.name}: seed {scene[0]}-{scene[1]}"
        yield SheetRow(f"{name}, rendered", images)
        if "mask" in batch:
            yield SheetRow(f"{name}, as training sees it: masked patches greyed", images, batch["mask"])


def examine_recordings(
    sampler: GroupSampler, source: RecordedSource, groups: int
) -> tuple[dict[str, Any], list[SheetRow]]:
    """Returns the report of a source of recordings, and one row of the contact sheet per group drawn.

    Args:
      sampler: draws groups from this source alone.
      source: the source.
      groups: number of groups.
    """
    rows, errors, bucket = [], {}, sampler.schedule.at(0)[0]
    for slot in range(groups):
        group = sampler.photo_group(0, 0, slot)
        errors |= dict.fromkeys((*group.skipped, *([group.error] if group.error else [])))
        if not group.error:
            images = collate([group]).batch(0, bucket)["images"]
            rows.append(SheetRow(f"{source.name}: {group.name}, as training sees it: cropped", images))
    frames = sum(len(sequence.frames) for sequence in source.sequences)
    report = {"name": source.name, "kind": "recordings", "sequences": len(source.sequences)}
    return report | {"frames": frames, "errors": list(errors)}, rows


def source_errors(report: dict[str, Any], max_bad_fraction: float) -> Iterator[str]:
    """Yields the reasons why a source cannot be trained on."""
    bad = len(report["unreadable"])
    yield from report["errors"]
    if bad > max_bad_fraction * report["checked"]:
        yield (
            f"{report['name']}: {bad} of {report['checked']} images are unreadable, more than "
            f"config.data.max_bad_fraction={max_bad_fraction} allows"
        )


def mixture_views_per_second(mixture: Mixture, reports: list[dict[str, Any]]) -> float | None:
    """Returns views per second on one core for photographs drawn by weight; None without photographs."""
    photographs = [
        (source.weight, report["views_per_second"])
        for source, report in zip(mixture.training, reports)
        if report["kind"] == "photographs" and source.weight
    ]
    if not photographs:
        return None
    return sum(weight for weight, _ in photographs) / sum(weight / speed for weight, speed in photographs)


def table_cells(report: dict[str, Any]) -> list[str]:
    """Returns the cells of a source of photographs, in the order of COLUMNS."""
    first = report["first_image"]
    fraction = f" ({first['share']:.0%})" if report["sizes"] > 1 else ""
    fewest, median, most = report["per_scene"]
    return [
        report["name"],
        f"{report['scenes']:,}",
        f"{report['held_out']:,}",
        f"{report['images']:,}",
        f"{fewest} - {median} - {most}",
        f"{first['width']}x{first['height']}{fraction}",
        f"{len(report['unreadable'])} of {report['checked']:,}",
        f"{report['views_per_second']:.0f}",
    ]


def summary_lines(result: dict[str, Any], workdir: pathlib.Path) -> list[str]:
    """Returns the lines printed below the table: unreadable files, loading speed, and output files."""
    lines = []
    for report in result.get("sources", ()):
        bad = report.get("unreadable", ())
        lines += [f"unreadable  {message}" for message in bad[:MAX_LISTED_FILES]]
        if len(bad) > MAX_LISTED_FILES:
            lines.append(
                f"            and {len(bad) - MAX_LISTED_FILES} more of {report['name']}: see inspect.json"
            )
    if result.get("views_per_second"):
        lines.append(
            f"One core of this machine loads {result['views_per_second']:.0f} views per second of this "
            "mixture."
        )
    for report in result.get("sources", ()):
        if "view_differences" in report:
            title, *table = view_difference_lines(report["view_differences"])
            lines += [f"{report['name']}: {title}", *table]
    for report in result.get("posed", ()):
        lines += [f"{report['name']}, {problem}" for problem in report["problems"]]
    pictures = {"groups": result.get("contact_sheet"), "warps": result.get("warps")}
    lines += [f"  {name:7}  {path}" for name, path in pictures.items() if path]
    return [*lines, f"  figures  {workdir / 'inspect.json'}"]


def run_inspect(arguments: list[str]) -> dict[str, Any]:
    """Checks the data of a config and shows groups as training would draw them."""
    del arguments
    return inspect(CONFIG.value, user_path(WORKDIR.value or "runs/inspect"), _CHECK.value, _DRAW.value)


INSPECT = Command(run_inspect, {"config": "configs/photos.py"}, ("workdir", "check", "draw"))
