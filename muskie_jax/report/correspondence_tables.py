"""Correspondence tables as numbers: the paper's comparison, errors by layer and by rotation."""

from collections.abc import Sequence

from muskie_jax.evaluators.eval_models import STILL
from muskie_jax.report import published
from muskie_jax.report.intervals import Estimate
from muskie_jax.report.results_file import ModelInfo
from muskie_jax.report.selection import (
    MISSING,
    TRIVIAL,
    EvalSet,
    Measurement,
    in_eval_set,
    main_results,
    parse_range,
    predictor_name,
    protocols,
    refined,
    shown_models,
    siblings,
    training_note,
    with_labels,
)
from muskie_jax.report.tables import Column, Row, Section, Table, Titles, make_row

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
        rows.append(make_row(labels, model, [main[model].estimate(name) for name in published.METRICS]))
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
    note = f"{note} {training_note(measurements, titles)}".strip()
    return Table(
        f"Protocol: {protocol}", ("model", "predictor"), PAPER_COLUMNS, tuple(rows), paper_rows, note
    )


def layer_table(measurements: Sequence[Measurement], titles: Titles) -> Table | None:
    """Returns the mean error after each layer, for every predictor that works per layer."""
    curves = layer_curves(measurements)
    layers = sorted({layer for curve in curves.values() for layer in curve})
    if not layers:
        return None
    main = main_results(measurements)
    rows = [
        make_row((titles[model], MISSING), model, [main[model].estimate("px_ate")] * len(layers))
        for model in shown_models(main)
        if model.kind in TRIVIAL
    ]
    rows += [
        make_row(
            (titles[model], predictor), model, [_estimate(curve.get(layer), "px_ate") for layer in layers]
        )
        for (model, predictor), curve in curves.items()
        if model.kind not in TRIVIAL
    ]
    return Table(
        "Mean error by layer (px)",
        ("model", "predictor"),
        tuple(Column(str(layer)) for layer in layers),
        tuple(rows),
        note="Bold: the best layer of each row, if it is better than the trivial baselines. They have no "
        "layers, so their error is the same in every column.",
        best_per_row=True,
    )


def layer_curves(
    measurements: Sequence[Measurement],
) -> dict[tuple[ModelInfo, str], dict[int, Measurement]]:
    """Returns measurements with a px ATE by (model, predictor) and layer."""
    curves = {}
    rows = with_labels(measurements, angle="all", points="all")
    for model in shown_models(row.model for row in rows):
        for row in (row for row in rows if row.model == model):
            predictor, layer = str(row.labels.get("predictor")), str(row.labels.get("layer", "all"))
            if predictor in ("attention", "feature") and layer.isdigit() and "px_ate" in row.values:
                curves.setdefault((model, predictor), {})[int(layer)] = row
    return curves


def extras_table(measurements: Sequence[Measurement], titles: Titles) -> Table | None:
    """Compares main results with refined results and with results on cycle-consistent points."""
    main_by_model = main_results(measurements)
    rows = []
    for model in shown_models(main_by_model):
        main = main_by_model[model]
        consistent = with_labels(siblings(measurements, main, "points"), points="cycle")
        variants = (
            main,
            main if model.kind == STILL else refined(measurements, main),
            consistent[0] if consistent else main if model.kind == STILL else None,
        )
        if any(variants[1:]):
            values = [_estimate(variant, metric) for metric in ("px_ate", "px_10") for variant in variants]
            values = [*values, _percentage_of_pairs(variants[2], main)]
            rows.append(make_row((titles[model], predictor_name(main)), model, values))
    if all(row.trivial for row in rows):
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
        make_row((titles[model],), model, [_estimate(curve.get(label), "px_10") for label in ranges])
        for model, curve in curves.items()
    ]
    return Table(
        "Points within 10 px (%) by rotation between the two views",
        ("model",),
        tuple(Column(f"{label}°", better="higher") for label in ranges),
        tuple(rows),
    )


def angle_curves(measurements: Sequence[Measurement]) -> dict[ModelInfo, dict[str, Measurement]]:
    """Returns measurements of the points within 10 px, by model and range in degrees such as "0-10"."""
    main, curves = main_results(measurements), {}
    for model in shown_models(main):
        for row in siblings(measurements, main[model], "angle"):
            label = str(row.labels.get("angle", "all"))
            if label != "all" and "px_10" in row.values:
                curves.setdefault(model, {})[label] = row
    return curves


def _estimate(measurement: Measurement | None, metric: str) -> Estimate | None:
    return measurement and measurement.estimate(metric)
