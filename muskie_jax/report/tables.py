"""The tables of a report, as numbers: what stands in which cell, and which of them is best."""

import dataclasses
from collections.abc import Hashable, Sequence

from muskie_jax.report import published
from muskie_jax.report.results_file import ModelInfo
from muskie_jax.report.selection import (
    MISSING,
    Entry,
    Place,
    at,
    defaults,
    described,
    family,
    interval,
    protocols,
    refined,
    shown,
    siblings,
    tag,
    where,
)

Titles = dict[ModelInfo, str]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of figures.

    Attributes:
      name: its head.
      digits: behind the point.
      better: whether "less" or "more" is; "": neither.
      margin: of gains; the best is only marked if it is better than the next, and than no gain, by more.
      share: the best is only marked if it differs from the next by more than this share of it.
    """

    name: str
    digits: int = 2
    better: str = "less"
    margin: float = 0.0
    share: float = 0.0


@dataclasses.dataclass(frozen=True)
class Line:
    """A line of a table.

    Attributes:
      heads: what it is about.
      values: one for each column; None is missing.
      tag: what must be said of it, such as "untrained".
      family: of its model, which has one colour everywhere; None for published numbers.
      group: only lines of one group are compared.
    """

    heads: tuple[str, ...]
    values: tuple[float | None, ...]
    tag: str = ""
    family: Hashable = None
    group: Hashable = None


@dataclasses.dataclass(frozen=True)
class Table:
    """Attributes:
    title: what it shows.
    heads: names of the columns that say what a line is about.
    columns: those of figures.
    lines: ours.
    published: the paper's, which are not compared with ours.
    note: what must be known to read it.
    across: the best is that of a line, not that of a column.
    """

    title: str
    heads: tuple[str, ...]
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    published: tuple[Line, ...] = ()
    note: str = ""
    across: bool = False

    def text(self, line: Line, number: int) -> str:
        """What a cell says."""
        value = line.values[number]
        return MISSING if value is None else f"{value:.{self.columns[number].digits}f}"

    def is_best(self, line: Line, number: int) -> bool:
        """Whether a cell of our lines shows the best figure, and there is another to compare it with."""
        column = self.columns[number]
        if line.values[number] is None or not column.better or line in self.published:
            return False
        if self.across:
            others = [(line, other) for other in range(len(self.columns))]
        else:
            others = [(other, number) for other in self.lines if other.group == line.group]
        texts = [self.text(*cell) for cell in others if cell[0].values[cell[1]] is not None]
        ranked = sorted(texts, key=float, reverse=column.better == "more")
        if len(texts) < 2 or self.text(line, number) != ranked[0]:
            return False
        best, following = map(float, ranked[:2])
        if column.margin:
            return best - max(following, 0) > column.margin
        return not column.share or abs(best - following) > column.share * abs(following)


@dataclasses.dataclass(frozen=True)
class Section:
    """Tables of one place.

    Attributes:
      title: the place.
      tables: as in the paper.
      details: longer ones.
      ours: what the paper does not have.
      every: those of ours with all their lines, for the page alone.
    """

    title: str
    tables: tuple[Table, ...] = ()
    details: tuple[Table, ...] = ()
    ours: tuple[Table, ...] = ()
    every: tuple[Table, ...] = ()


PAPER_COLUMNS = tuple(
    Column({"px_ate": "px ATE", "cm_ate": "cm ATE"}.get(name, f"@{name[3:]} {name[:2]}"), better=better)
    for name, better in zip(published.METRICS, ("less", "more", "more") * 2)
)


def correspondence_section(entries: Sequence[Entry], place: Place, title: str, titles: Titles) -> Section:
    """All tables of correspondence at a place, which is called `title`."""
    entries = at(entries, place)
    found = protocols(entries)
    tables = [comparison(where(entries, protocol=name), place, name, titles) for name in found]
    main = where(entries, protocol=found[0])
    present = lambda *tables: tuple(table for table in tables if table)
    return Section(
        title,
        tuple(tables),
        present(layers(main, titles)),
        present(extras(main, titles), angles(main, titles)),
    )


def comparison(entries: Sequence[Entry], place: Place, protocol: str, titles: Titles) -> Table:
    """A line for each model, with the columns of the paper; of one protocol."""
    chosen = defaults(entries)
    lines = [
        line_of((titles[model], described(chosen[model])), model, _values(chosen[model], published.METRICS))
        for model in shown(chosen)
    ]
    theirs, note = (), "View 0, whose points are followed, is not counted."
    if protocol == published.PROTOCOL:
        note = "View 0 is also counted against itself, as in the paper."
        readers = {entry.setting.get("reader") for entry in chosen.values()}
        for reader in readers & published.PUBLISHED.keys():
            table = published.PUBLISHED[reader]
            theirs = tuple(
                Line((name, MISSING), values, tag="paper") for name, values in table.models.items()
            )
            same = (table.height, table.width, table.views) == (place.height, place.width, place.views)
            note += f" The paper's numbers are of {table.views} views of {table.height}x{table.width}"
            note += "." if same else ", which is not how ours were measured."
    if any(", layer " in predictor for _, predictor in (line.heads for line in lines)):
        note += " A layer is the one with the least mean error on these very points."
    return Table(
        f"Protocol {protocol}",
        ("model", "predictor"),
        PAPER_COLUMNS,
        tuple(lines),
        theirs,
        note,
    )


def layers(entries: Sequence[Entry], titles: Titles) -> Table | None:
    """Mean error after every layer, by every predictor that has layers."""
    curves = layer_curves(entries)
    numbers = sorted({layer for curve in curves.values() for layer in curve})
    if not numbers:
        return None
    lines = [
        line_of((titles[model], predictor), model, [curve.get(layer) for layer in numbers])
        for (model, predictor), curve in curves.items()
    ]
    return Table(
        "Mean error by layer, px",
        ("model", "predictor"),
        tuple(Column(str(number)) for number in numbers),
        tuple(lines),
        note="Bold: the best layer of each line.",
        across=True,
    )


def layer_curves(entries: Sequence[Entry]) -> dict[tuple[ModelInfo, str], dict[int, float]]:
    """(model, predictor) -> layer -> px ATE."""
    curves = {}
    rows = where(entries, angle="all", points="all")
    for model in shown(entry.model for entry in rows):
        for entry in (entry for entry in rows if entry.model == model):
            predictor, layer = str(entry.labels.get("predictor")), str(entry.labels.get("layer", "all"))
            if predictor in ("attention", "feature") and layer.isdigit() and "px_ate" in entry.values:
                curves.setdefault((model, predictor), {})[int(layer)] = entry.values["px_ate"]
    return curves


def extras(entries: Sequence[Entry], titles: Titles) -> Table | None:
    """Sub-patch refinement, and the points that pass the check of cycle consistency, beside the default."""
    chosen = defaults(entries)
    lines = []
    for model in shown(chosen):
        default = chosen[model]
        cycle = where(siblings(entries, default, "points"), points="cycle")
        variants = (default, refined(entries, default), cycle[0] if cycle else None)
        if any(variants[1:]):
            values = [
                entry and entry.values.get(name) for name in ("px_ate", "px_10") for entry in variants
            ]
            values.append(_share_of_pairs(variants[2], default))
            lines.append(line_of((titles[model], described(default)), model, values))
    if not lines:
        return None
    columns = [
        Column(f"{name}{variant}", better=better)
        for name, better in (("px ATE", "less"), ("@10 px", "more"))
        for variant in ("", ", refined", ", consistent")
    ]
    return Table(
        "Refined, and points that are consistent",
        ("model", "predictor"),
        (*columns, Column("kept %", 1, "")),
        tuple(lines),
        note="Refined: neighbours must agree where they moved, and the answer is finer than a patch; "
        "features are then compared by the cosine of what is left of them without their view's mean. Those "
        "not refined are compared by Euclidean distance, as in the paper. Consistent points come back to "
        "where they started when they are followed there and back; the last column is their share of all.",
    )


def _share_of_pairs(some: Entry | None, of: Entry) -> float | None:
    """Pairs of points of some figures as a percentage of those of others."""
    pairs, total = some and some.values.get("pairs"), of.values.get("pairs")
    return 100 * pairs / total if pairs is not None and total else None


def angles(entries: Sequence[Entry], titles: Titles) -> Table | None:
    """Share of points within 10 px by the rotation between two views."""
    curves = angle_curves(entries)
    labels = sorted({label for curve in curves.values() for label in curve}, key=interval)
    if not labels:
        return None
    lines = [
        line_of((titles[model],), model, [curve.get(label) for label in labels])
        for model, curve in curves.items()
    ]
    return Table(
        "Points within 10 px, %, by rotation between the two views",
        ("model",),
        tuple(Column(f"{label}°", better="more") for label in labels),
        tuple(lines),
    )


def angle_curves(entries: Sequence[Entry]) -> dict[ModelInfo, dict[str, float]]:
    """model -> degrees such as "0-10" -> percent of points within 10 px, by the default predictor."""
    chosen, curves = defaults(entries), {}
    for model in shown(chosen):
        for entry in siblings(entries, chosen[model], "angle"):
            label = str(entry.labels.get("angle", "all"))
            if label != "all" and "px_10" in entry.values:
                curves.setdefault(model, {})[label] = entry.values["px_10"]
    return curves


def _values(entry: Entry, names: Sequence[str]) -> list[float | None]:
    return [entry.values.get(name) for name in names]


def line_of(heads, model: ModelInfo, values, group: Hashable = None) -> Line:
    return Line(tuple(heads), tuple(values), tag(model), family(model), group)
