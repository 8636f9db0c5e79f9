"""Tables and summary of correspondence in recordings without depth."""

from collections.abc import Sequence

from muskie_jax.report.reconstruction_tables import CLEAR_FRACTION
from muskie_jax.report.selection import (
    TRIVIAL,
    EvalSet,
    Measurement,
    in_eval_set,
    is_untrained,
    main_results,
    predictor_name,
    refined,
    shown_models,
    siblings,
    with_labels,
)
from muskie_jax.report.tables import Column, Section, Table, Titles, make_row

TITLE = "Correspondence without depth: epipolar distance"
MEAN = "epipolar_mean"
SHOWN = (MEAN, "epipolar_2", "epipolar_5", "epipolar_10")
EXPLANATION = (
    "Symmetric epipolar distance: how far predictions are from the line on which the cameras place the "
    "point. Where on the line is unknown without depth, so the distance is not an error in pixels: do not "
    "compare it with ATE. All points count, also those that the other view does not see. Where cameras "
    "hardly turn, the line passes near the point's own position, so predicting no motion seems right."
)


def epipolar_section(
    measurements: Sequence[Measurement], eval_set: EvalSet, title: str, titles: Titles
) -> Section:
    """Returns the tables of an evaluation set without depth, under its `title`."""
    measurements = in_eval_set(measurements, eval_set)
    extras = consistent_table(measurements, titles)
    tables = comparison(measurements, titles), *((extras,) if extras else ())
    return Section(title, beyond_paper=tables)


def comparison(measurements: Sequence[Measurement], titles: Titles) -> Table:
    """Returns the epipolar distances of each model's main result."""
    main = main_results(measurements, MEAN)
    rows = [
        make_row((titles[model], predictor_name(main[model])), model, map(main[model].values.get, SHOWN))
        for model in shown_models(main)
    ]
    return Table(
        "Epipolar distance of predictions",
        ("model", "predictor"),
        _columns(),
        tuple(rows),
        note=" ".join([EXPLANATION, *_notes(list(main.values()))]),
    )


def consistent_table(measurements: Sequence[Measurement], titles: Titles) -> Table | None:
    """Returns the epipolar distances of refined predictions, and of points that return to their start."""
    main = main_results(measurements, MEAN)
    rows = []
    for model in shown_models(main):
        name = predictor_name(main[model])
        better = refined(measurements, main[model], MEAN)
        consistent = with_labels(siblings(measurements, main[model], "points"), points="cycle")
        for kind, found in (("refined", [better] if better else []), ("consistent", consistent)):
            for each in found:
                kept = 100 * each.values["pairs"] / main[model].values["pairs"]
                values = [*map(each.values.get, SHOWN), kept]
                rows.append(make_row((titles[model], name, kind), model, values, kind))
    if not rows:
        return None
    return Table(
        "Epipolar distance of refined predictions and of cycle-consistent points",
        ("model", "predictor", "of"),
        (*_columns(), Column("kept %", 1, "")),
        tuple(rows),
        note="Consistent: only points that return to their start when tracked to the other view and back, "
        "which leaves out most points that the other view does not see.",
    )


def _columns() -> tuple[Column, ...]:
    limits = [name.rpartition("_")[2] for name in SHOWN[1:]]
    return Column("mean px to line"), *(Column(f"@{limit} px to line", better="higher") for limit in limits)


def _notes(main: Sequence[Measurement]) -> list[str]:
    """Returns sentences about random positions and pairs of views that were left out."""
    values = next((each.values for each in main if "random_mean" in each.values), None)
    if values is None:
        return []
    notes = [
        f"Random positions have a mean of {values['random_mean']:.1f} px, and {values['random_10']:.0f}% "
        "are within 10 px."
    ]
    left_out = values.get("left_out", 0)
    if left_out:
        fraction = left_out / (left_out + values["pairs"])
        notes.append(
            f"{fraction:.0%} of the pairs of a point and a view are left out, since the cameras of their "
            "two views have the same position, which gives no epipolar lines."
        )
    return notes


def epipolar_sentence(measurements: Sequence[Measurement], eval_set: EvalSet, titles: Titles) -> str | None:
    """Names the model nearest to epipolar lines, and the baselines; None without measurements."""
    main = main_results(in_eval_set(measurements, eval_set), MEAN)
    measured = {model: main[model].values for model in shown_models(main) if MEAN in main[model].values}
    if not measured:
        return None
    distance = lambda model: measured[model][MEAN]
    text = lambda model: f"{titles[model]} at {distance(model):.1f} px"
    is_baseline = lambda model: model.kind in TRIVIAL or is_untrained(model)
    ranked = sorted(measured, key=distance)
    trained = [model for model in ranked if not is_baseline(model)]
    others = [text(model) for model in ranked if is_baseline(model)]
    if "random_mean" in measured[ranked[0]]:
        others.append(f"random positions at {measured[ranked[0]]['random_mean']:.1f} px")
    baselines = f" Baselines: {', '.join(others)}." if others else ""
    if not trained:
        return f"only baselines were measured, by their epipolar distance.{baselines}"
    best_baseline = min((distance(model) for model in ranked if is_baseline(model)), default=float("inf"))
    if (1 - CLEAR_FRACTION) * best_baseline <= distance(trained[0]):
        return f"no trained model is nearer to epipolar lines than the baselines: {text(trained[0])}." + (
            baselines
        )
    return f"the mean epipolar distance is lowest for {text(trained[0])}.{baselines}"
