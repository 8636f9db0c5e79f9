"""Tables of cameras and points: predicted by a decoder, or read from frozen features."""

from collections.abc import Sequence

from muskie_jax.report.results_file import ModelInfo
from muskie_jax.report.selection import (
    EvalSet,
    Measurement,
    by_model,
    in_eval_set,
    parse_range,
    shown_models,
    training_note,
    with_labels,
)
from muskie_jax.report.tables import Column, Section, Table, Titles, make_row

GEOMETRY_TITLE = "Cameras and point maps"
RECALL_TITLE = "Recall of correspondence from frozen features"
PROBE_TITLE = "Relative pose from frozen features"
AUC = {"auc_5": "AUC@5°", "auc_15": "AUC@15°", "auc_30": "AUC@30°"}
ANGLES = {
    "rotation_mean": "rotation error, mean °",
    "rotation_median": "rotation error, median °",
    "translation_mean": "direction error, mean °",
    "translation_median": "direction error, median °",
}
POINTS = {  # names of metrics without _mean and _median -> header
    "accuracy": "accuracy",
    "completeness": "completeness",
    "normals": "normal consistency",
    "l1": "L1",
}
RECALL = {"cm_1": "@1 cm", "cm_2": "@2 cm", "cm_5": "@5 cm", "px_5": "@5 px", "px_10": "@10 px"}
RECALL |= {f"px_{limit}": f"@{limit} px" for limit in (20, 25, 40, 50, 80)}
HIGHER = ("auc", "normals", "cm", "px")  # first words of metrics of which more is better
CHOSEN_BY = "cm_2"  # metric by which the shown layer of recall is chosen


def geometry_section(
    measurements: Sequence[Measurement], eval_set: EvalSet, title: str, titles: Titles
) -> Section:
    """Returns the tables of cameras and points of an evaluation set, under its `title`."""
    rows = _latest(in_eval_set(measurements, eval_set))
    note = (
        "Over all pairs of views. Rotation and direction of translation are those of one camera relative "
        "to the other. AUC@30°: mean over thresholds of 1° to 30° of the percentage of pairs whose larger "
        f"error is below the threshold. {training_note(rows.values(), titles)}"
    )
    tables = [_table("Relative poses", rows, titles, AUC | ANGLES, note)]
    for prefix, name in (("", "Points after a similarity"), ("icp_", "Points after a similarity and ICP")):
        columns = {
            f"{prefix}{metric}_{reduce}": f"{header}, {reduce}"
            for metric, header in POINTS.items()
            for reduce in ("mean", "median")
        }
        known = {model: row for model, row in rows.items() if f"{prefix}l1_mean" in row.values}
        note = (
            "In metres; normal consistency is a cosine. Accuracy: distance of predicted points from the "
            "nearest true one; completeness: the reverse; L1: of corresponding points, per coordinate. "
            "Means over groups."
        )
        tables += [_table(name, known, titles, columns, note, digits=3)] if known else []
    return Section(title, tables=tuple(tables))


def recall_section(
    measurements: Sequence[Measurement], eval_set: EvalSet, title: str, titles: Titles
) -> Section:
    """Returns the tables of recall of an evaluation set: of all pairs of views, and by angle."""
    measurements = in_eval_set(measurements, eval_set)
    best = {
        model: max(rows, key=lambda row: row.values[CHOSEN_BY])
        for model, rows in by_model(with_labels(measurements, angle="all")).items()
    }
    best = {model: best[model] for model in shown_models(best)}
    note = (
        "Percentage of the 1000 clearest matches of a pair of views whose surface points, or projections, "
        "are closer than the threshold; mean over pairs. Shown is the layer with the highest recall within "
        f"2 cm; results.csv has all layers. {training_note(best.values(), titles)}"
    )
    tables = [_table("All pairs of views", best, titles, RECALL, note)]
    for metric, limit in (("cm_2", "2 cm"), ("px_10", "10 px"), ("px_40", "40 px")):
        by_angle = {
            model: {
                str(each.labels["angle"]): each
                for each in measurements
                if each.model == model and each.labels["layer"] == row.labels["layer"]
            }
            for model, row in best.items()
        }
        ranges = sorted({label for each in by_angle.values() for label in each} - {"all"}, key=parse_range)
        rows = [
            make_row(
                (titles[model], f"layer {best[model].labels['layer']}"),
                model,
                [row and row.estimate(metric) for row in map(of_angle.get, ranges)],
            )
            for model, of_angle in by_angle.items()
        ]
        columns = tuple(Column(f"{label}°", 1, "higher") for label in ranges)
        tables.append(
            Table(f"Within {limit}, by rotation between the views", ("model", "of"), columns, tuple(rows))
        )
    return Section(title, beyond_paper=tuple(tables))


def probe_section(
    measurements: Sequence[Measurement], eval_set: EvalSet, title: str, titles: Titles
) -> Section:
    """Returns the table of the pose probe of an evaluation set."""
    measurements = in_eval_set(measurements, eval_set)
    best = {
        model: min(rows, key=lambda row: row.error("fit_error"))
        for model, rows in by_model(measurements).items()
    }
    best = {model: best[model] for model in shown_models(best)}
    values = next(iter(best.values())).values
    note = (
        "A linear function of the features of two views, fitted to the groups of other scenes. Shown is "
        "the layer that fits best when each fitted group is left out. The mean pose of the fitted pairs "
        f"has a rotation error of {values['constant_rotation_mean']:.1f}°, a direction error of "
        f"{values['constant_translation_mean']:.1f}° and AUC@30° {values['constant_auc_30']:.1f}. "
        f"{training_note(best.values(), titles)}"
    )
    return Section(title, beyond_paper=(_table("Pose probe", best, titles, AUC | ANGLES, note),))


def pose_sentence(measurements: Sequence[Measurement], eval_set: EvalSet, titles: Titles) -> str | None:
    """Names the model with the highest pose AUC@30 among decoders; None without measurements."""
    rows = _latest(in_eval_set(measurements, eval_set))
    if not rows:
        return None
    auc = lambda model: rows[model].values["auc_30"]
    ranked = sorted(rows, key=auc, reverse=True)
    texts = [f"{titles[model]} {auc(model):.1f}" for model in ranked]
    error = rows[ranked[0]].values.get("l1_mean")
    points = f"; its points are {error:.3f} m off (L1)" if error is not None else ""
    return f"pose AUC@30°: {', '.join(texts)}{points}."


def _latest(measurements: Sequence[Measurement]) -> dict[ModelInfo, Measurement]:
    """Returns the row of each shown model."""
    rows = {model: found[-1] for model, found in by_model(measurements).items()}
    return {model: rows[model] for model in shown_models(rows)}


def _table(
    title: str,
    rows: dict[ModelInfo, Measurement],
    titles: Titles,
    columns: dict[str, str],
    note: str,
    digits: int = 1,
) -> Table:
    has_layers = any("layer" in row.labels for row in rows.values())

    def better(name: str) -> str:
        if name in ANGLES and name.endswith("median"):
            return ""  # medians over pairs have no interval, so none is known to be the best
        return "higher" if name.removeprefix("icp_").startswith(HIGHER) else "lower"

    return Table(
        title,
        ("model", "of") if has_layers else ("model",),
        tuple(Column(header, digits, better(name)) for name, header in columns.items()),
        tuple(
            make_row(
                (titles[model], f"layer {row.labels['layer']}") if has_layers else (titles[model],),
                model,
                [row.estimate(name) for name in columns],
            )
            for model, row in rows.items()
        ),
        note=note.strip(),
    )
