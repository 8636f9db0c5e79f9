"""Figures and a picture of posed datasets, for `python -m muskie_jax.data inspect`."""

from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.data.posed.dataset import open_posed, read_posed
from muskie_jax.data.posed.groups import evenly_spaced
from muskie_jax.data.posed.rooms import Rooms
from muskie_jax.data.posed.warp import warp_view
from muskie_jax.data.posed.warp_check import WarpReport, examine_dataset, examine_views
from muskie_jax.data.posed.warp_refusal import describe
from muskie_jax.errors import UserError
from muskie_jax.viz.warps import WarpRow

COLUMNS = (
    ("posed dataset", 14), ("sequences", 9), ("frames", 8), ("groups", 6), ("with depth", 10),
    ("depth agrees", 12), ("not warped", 10), ("difference", 10), ("not warped", 10),
)  # fmt: skip
EXAMINED_ROOMS, ROOM_SIZE = 4, (120, 160)
ROWS = 8  # pairs of views in the picture of a dataset
SHOWN_OVERLAP = 0.3, 0.8  # pairs within it are shown first: enough is seen, and something moves


class PosedInspection(NamedTuple):
    """The figures of a dataset, pairs of its views, and what prevents its evaluation."""

    report: dict[str, Any]
    rows: list[WarpRow]
    errors: list[str]


def inspect_posed(name: str, settings: ConfigDict, views: int, data_root: str = "") -> PosedInspection:
    """Measures how well the geometry of a dataset fits its images; see `open_posed` for the arguments.

    The report has `sequences`, `frames`, `groups`, `has_depth`, and `valid_depth`, the fraction of pixels
    with depth. It has two numbers, with the geometry and without it, of `depth_agrees`, the fraction of
    warped points within 5% of the depth there, and of `difference`, the mean difference of brightness in
    grey levels. Numbers that cannot be measured are None. `problems` lists what does not fit.

    Raises:
      UserError: if the files cannot be read.
    """
    report: dict[str, Any] = {"name": name, "reader": settings.reader, "groups": 0, "problems": []}
    errors: list[str] = []
    if settings.reader == "synthetic":
        rooms = open_posed(name, settings, views)
        assert isinstance(rooms, Rooms)
        reports, groups = _examine_rooms(rooms), len(rooms.groups)
        report |= {"sequences": groups, "frames": groups * views, "groups": groups, "has_depth": True}
    else:
        dataset = read_posed(name, settings, data_root)
        reports = list(examine_dataset(dataset))
        frames = sum(len(each.frames) for each in dataset.sequences)
        report |= {"sequences": len(dataset.sequences), "frames": frames, "has_depth": dataset.has_depth}
        problems = {each.name: describe(each, settings, f"config.posed.{name}") for each in reports}
        report["problems"] = [f"{sequence}: {text}" for sequence, text in problems.items() if text]
        unchecked = ConfigDict(settings.to_dict() | {"check": False})
        try:
            report["groups"] = len(open_posed(name, unchecked, views, data_root).groups)
        except UserError as error:
            errors.append(str(error))
        if settings.check:
            errors = [f"config.posed.{name}: {text}" for text in report["problems"]] or errors
    report |= _figures(reports)
    return PosedInspection(report, _picture_rows(reports, name), errors)


def _examine_rooms(rooms: Rooms) -> list[WarpReport]:
    reports = []
    for number, group in enumerate(rooms.groups[:EXAMINED_ROOMS]):
        loaded = rooms.load(number, ROOM_SIZE)
        reports.append(examine_views(group.label, group.frames, loaded, [range(len(group.frames))]))
    return [report for report in reports if report]


def _figures(reports: list[WarpReport]) -> dict[str, Any]:
    """Averages over the warped pairs of all sequences; see `inspect_posed`."""

    def mean(parts: list[np.ndarray]) -> float | None:
        values = np.concatenate([np.empty(0), *parts])
        values = values[np.isfinite(values)]
        return float(values.mean()) if len(values) else None

    def both(name: str) -> list[float | None]:
        """Averages over the same pairs with the geometry and without it."""
        pairs = [np.stack([getattr(each.given, name), getattr(each.still, name)]) for each in reports]
        known = [pair[:, np.isfinite(pair).all(0)] for pair in pairs]
        return [mean([pair[i] for pair in known]) for i in range(2)]

    return {
        "valid_depth": mean([each.views.valid.mean((1, 2)) for each in reports]),
        "depth_agrees": both("agreeing"),
        "difference": both("difference"),
    }


def table_cells(report: dict[str, Any]) -> list[str]:
    """Returns the cells of a dataset, in the order of COLUMNS."""
    percent = lambda value: "-" if value is None else f"{value:.0%}"
    grey = lambda value: "-" if value is None else f"{value:.1f}"
    return [
        report["name"],
        *(f"{report[name]:,}" for name in ("sequences", "frames", "groups")),
        percent(report["valid_depth"]) if report["has_depth"] else "none",
        *map(percent, report["depth_agrees"]),
        *map(grey, report["difference"]),
    ]


def _picture_rows(reports: list[WarpReport], name: str) -> list[WarpRow]:
    """Returns pairs of views of a dataset, at most ROWS, evenly spread over its sequences."""
    rows = []
    for report in reports[:ROWS]:
        for number in _shown_pairs(report, max(1, ROWS // len(reports))):
            rows.append(_picture_row(report, number, name))
    return rows


def _shown_pairs(report: WarpReport, count: int) -> list[int]:
    """Returns pairs of views, preferring an overlap within SHOWN_OVERLAP, each with another first view."""
    visible = report.given.visible
    low, high = SHOWN_OVERLAP
    distance = np.maximum(low - visible, 0) + np.maximum(visible - high, 0)
    chosen: dict[int, int] = {}
    for number in np.argsort(distance, kind="stable").tolist():
        chosen.setdefault(int(report.pairs.first[number]), number)
    numbers = list(chosen.values())[: 4 * count]
    return sorted(numbers[i] for i in evenly_spaced(len(numbers), count))


def _picture_row(report: WarpReport, number: int, name: str) -> WarpRow:
    first, second = int(report.pairs.first[number]), int(report.pairs.second[number])
    views = report.views
    warped, seen = warp_view(views, first, second)
    grey = lambda value: "-" if np.isnan(value) else f"{value:.0f}"
    label = (
        f"{name}, {report.name}: a = {report.frames[first]}, b = {report.frames[second]}; difference "
        f"{grey(report.given.difference[number])} of 255, without geometry "
        f"{grey(report.still.difference[number])}"
    )
    return WarpRow(label, views.images[first], views.images[second], warped, seen)
