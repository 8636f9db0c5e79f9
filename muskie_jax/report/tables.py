"""Tables as numbers: rows, columns and best cells; and the correspondence tables."""

import dataclasses
from collections.abc import Hashable, Iterable, Sequence

from muskie_jax.report import published
from muskie_jax.report.results_file import ModelInfo
from muskie_jax.report.selection import (
    MISSING,
    EvalSet,
    Measurement,
    badge,
    family,
    in_eval_set,
    main_results,
    parse_range,
    predictor_name,
    protocols,
    refined,
    shown_models,
    siblings,
    with_labels,
)

Titles = dict[ModelInfo, str]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
      name: header.
      digits: number of digits after the decimal point.
      better: "lower", "higher", or "" if no value is best.
      margin: the best value must exceed both the runner-up and 0 by more than this; for gains.
      relative_margin: the best value must differ from the runner-up by more than this fraction of it.
    """

    name: str
    digits: int = 2
    better: str = "lower"
    margin: float = 0.0
    relative_margin: float = 0.0


@dataclasses.dataclass(frozen=True)
class Row:
    """A table row.

    Attributes:
      labels: the model, and then labels such as the predictor.
      values: one value per column; None is missing.
      badge: qualifier of the model, such as "untrained".
      family: family of the model, which selects its line style; None for published numbers.
      group: only rows with equal groups compete for the best value.
    """

    labels: tuple[str, ...]
    values: tuple[float | None, ...]
    badge: str = ""
    family: Hashable = None
    group: Hashable = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
      title: what it shows.
      label_names: headers of the row labels.
      columns: columns of numbers.
      rows: our measurements.
      published: the paper's numbers, which don't compete for the best value.
      note: how to read it.
      best_per_row: whether values compete within a row rather than within a column.
    """

    title: str
    label_names: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    published: tuple[Row, ...] = ()
    note: str = ""
    best_per_row: bool = False

    def text(self, row: Row, column: int) -> str:
        """Formats a cell."""
        value = row.values[column]
        return MISSING if value is None else f"{value:.{self.columns[column].digits}f}"

    def is_best(self, row: Row, column: int) -> bool:
        """Returns whether a cell is best among at least two, compared as they are printed."""
        style = self.columns[column]
        if row.values[column] is None or not style.better or row in self.published:
            return False
        if self.best_per_row:
            candidates = [(row, other) for other in range(len(self.columns))]
        else:
            candidates = [(other, column) for other in self.rows if other.group == row.group]
        texts = [self.text(*cell) for cell in candidates if cell[0].values[cell[1]] is not None]
        ranked = sorted(texts, key=float, reverse=style.better == "higher")
        if len(texts) < 2 or self.text(row, column) != ranked[0]:
            return False
        best, runner_up = map(float, ranked[:2])
        if style.margin:
            return best - max(runner_up, 0) > style.margin
        return not style.relative_margin or abs(best - runner_up) > style.relative_margin * abs(runner_up)


@dataclasses.dataclass(frozen=True)
class Section:
    """The tables of one evaluation set.

    Attributes:
      title: title of the evaluation set.
      tables: tables that are comparable with the paper's.
      details: longer tables.
      beyond_paper: tables of measurements that the paper does not have.
      complete: tables of `beyond_paper` with all their rows, for the page only.
    """

    title: str
    tables: tuple[Table, ...] = ()
    details: tuple[Table, ...] = ()
    beyond_paper: tuple[Table, ...] = ()
    complete: tuple[Table, ...] = ()


PAPER_COLUMNS = tuple(
    Column({"px_ate": "px ATE", "cm_ate": "cm ATE"}.get(name, f"@{name[3:]} {name[:2]}"), better=better)
    for name, better in zip(published.METRICS, ("lower", "higher", "higher") * 2)
)


def correspondence_section(
    measurements: Sequence[Measurement], eval_set: EvalSet, title: str, titles: Titles
) -> Section:
    """Returns all correspondence tables of an evaluation set, under its `title`."""
    measurements = in_eval_set(measurements, eval_set)
    found = protocols(measurements)
    comparisons = [
        comparison(with_labels(measurements, protocol=protocol), eval_set, protocol, titles)
        for protocol in found
    ]
    of_main_protocol = with_labels(measurements, protocol=found[0])
    present = lambda *tables: tuple(table for table in tables if table)
    return Section(
        title,
        tuple(comparisons),
        present(layer_table(of_main_protocol, titles)),
        present(extras_table(of_main_protocol, titles), angle_table(of_main_protocol, titles)),
    )


def comparison(
    measurements: Sequence[Measurement], eval_set: EvalSet, protocol: str, titles: Titles
) -> Table:
    """Returns the paper's table for one protocol, one row per model."""
    main = main_results(measurements)
    rows = []
    for model in shown_models(main):
        labels = (titles[model], predictor_name(main[model]))
        rows.append(make_row(labels, model, [main[model].values.get(name) for name in published.METRICS]))
    paper_rows, note = (), "View 0, in which the points are drawn, is not scored."
    if protocol == published.PROTOCOL:
        note = "View 0 is also scored against itself, as in the paper."
        readers = {measurement.setting.get("reader") for measurement in main.values()}
        for reader in sorted(published.PUBLISHED.keys() & readers):
            paper = published.PUBLISHED[reader]
            paper_rows = tuple(
                Row((name, MISSING), values, badge="paper") for name, values in paper.models.items()
            )
            ours = (eval_set.height, eval_set.width, eval_set.views)
            is_same = (paper.height, paper.width, paper.views) == ours
            note += f" The paper's numbers are for {paper.views} views of {paper.height}x{paper.width}"
            note += "." if is_same else ", unlike ours."
    if any(", layer " in predictor for _, predictor in (row.labels for row in rows)):
        note += " The layer is the one with the lowest mean error on these same points."
    return Table(
        f"Protocol: {protocol}", ("model", "predictor"), PAPER_COLUMNS, tuple(rows), paper_rows, note
    )


def layer_table(measurements: Sequence[Measurement], titles: Titles) -> Table | None:
    """Returns the mean error after each layer, for every predictor that works per layer."""
    curves = layer_curves(measurements)
    layers = sorted({layer for curve in curves.values() for layer in curve})
    if not layers:
        return None
    rows = [
        make_row((titles[model], predictor), model, [curve.get(layer) for layer in layers])
        for (model, predictor), curve in curves.items()
    ]
    return Table(
        "Mean error by layer (px)",
        ("model", "predictor"),
        tuple(Column(str(layer)) for layer in layers),
        tuple(rows),
        note="Bold: the best layer of each row.",
        best_per_row=True,
    )


def layer_curves(
    measurements: Sequence[Measurement],
) -> dict[tuple[ModelInfo, str], dict[int, float]]:
    """Returns the px ATE by (model, predictor) and layer."""
    curves = {}
    rows = with_labels(measurements, angle="all", points="all")
    for model in shown_models(row.model for row in rows):
        for row in (row for row in rows if row.model == model):
            predictor, layer = str(row.labels.get("predictor")), str(row.labels.get("layer", "all"))
            if predictor in ("attention", "feature") and layer.isdigit() and "px_ate" in row.values:
                curves.setdefault((model, predictor), {})[int(layer)] = row.values["px_ate"]
    return curves


def extras_table(measurements: Sequence[Measurement], titles: Titles) -> Table | None:
    """Compares main results with refined results and with results on cycle-consistent points."""
    main_by_model = main_results(measurements)
    rows = []
    for model in shown_models(main_by_model):
        main = main_by_model[model]
        consistent = with_labels(siblings(measurements, main, "points"), points="cycle")
        variants = (main, refined(measurements, main), consistent[0] if consistent else None)
        if any(variants[1:]):
            values = [
                variant.values.get(metric) if variant else None
                for metric in ("px_ate", "px_10")
                for variant in variants
            ]
            values.append(_percentage_of_pairs(variants[2], main))
            rows.append(make_row((titles[model], predictor_name(main)), model, values))
    if not rows:
        return None
    columns = [
        Column(f"{name}{variant}", better=better)
        for name, better in (("px ATE", "lower"), ("@10 px", "higher"))
        for variant in ("", ", refined", ", consistent")
    ]
    return Table(
        "Refined predictions and cycle-consistent points",
        ("model", "predictor"),
        (*columns, Column("kept %", 1, "")),
        tuple(rows),
        note="Refined: the patches around a point must agree on one motion, and the match is located to a "
        "fraction of a patch. Refined features are compared by cosine similarity after subtracting each "
        "view's mean. Other features are compared by Euclidean distance, as in the paper. Consistent: only "
        "points that return to their start when tracked to the other view and back; kept % is their "
        "percentage.",
    )


def _percentage_of_pairs(subset: Measurement | None, full: Measurement) -> float | None:
    """Returns the percentage of pairs of a point and a view that are in a subset."""
    pairs, total = subset.values.get("pairs") if subset else None, full.values.get("pairs")
    return 100 * pairs / total if pairs is not None and total else None


def angle_table(measurements: Sequence[Measurement], titles: Titles) -> Table | None:
    """Returns the percentage of points within 10 px by the rotation between the two views."""
    curves = angle_curves(measurements)
    ranges = sorted({label for curve in curves.values() for label in curve}, key=parse_range)
    if not ranges:
        return None
    rows = [
        make_row((titles[model],), model, [curve.get(label) for label in ranges])
        for model, curve in curves.items()
    ]
    return Table(
        "Points within 10 px (%) by rotation between the two views",
        ("model",),
        tuple(Column(f"{label}°", better="higher") for label in ranges),
        tuple(rows),
    )


def angle_curves(measurements: Sequence[Measurement]) -> dict[ModelInfo, dict[str, float]]:
    """Returns, by model and range in degrees such as "0-10", the percentage of points within 10 px."""
    main, curves = main_results(measurements), {}
    for model in shown_models(main):
        for row in siblings(measurements, main[model], "angle"):
            label = str(row.labels.get("angle", "all"))
            if label != "all" and "px_10" in row.values:
                curves.setdefault(model, {})[label] = row.values["px_10"]
    return curves


def make_row(
    labels: Iterable[str],
    model: ModelInfo,
    values: Iterable[float | None],
    group: Hashable = None,
) -> Row:
    return Row(tuple(labels), tuple(values), badge(model), family(model), group)
