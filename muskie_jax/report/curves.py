"""Selects the charts of a report from measurements."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from muskie_jax.report.charts import Chart, LineStyle, Series
from muskie_jax.report.correspondence_tables import angle_curves, layer_curves
from muskie_jax.report.reconstruction_tables import context_errors
from muskie_jax.report.results_file import ModelInfo
from muskie_jax.report.selection import (
    MEAN_COLOUR,
    TRIVIAL,
    EvalSet,
    MaskedEvalSet,
    Measurement,
    by_model,
    curve_key,
    family,
    in_eval_set,
    is_untrained,
    main_results,
    parse_range,
    protocols,
    shown_models,
    sort_key,
    with_labels,
)
from muskie_jax.report.tables import Titles

THRESHOLDS = (1, 2, 5, 10, 25, 50)  # px
MAX_TICKS = 12
LineStyles = dict[Hashable, LineStyle]  # key: `family`


def line_styles(models: Iterable[ModelInfo]) -> LineStyles:
    """Returns a line style per model family; baselines and untrained models get grey lines."""
    models = sorted(set(models), key=sort_key)
    last_step: dict[Hashable, int] = {}
    for model in models:
        step = 1 if model.step is None else model.step  # an unknown step counts as trained
        last_step[family(model)] = max(last_step.get(family(model), 0), step)
    styles: LineStyles = {}
    for model in sorted(models, key=lambda model: model.kind != "muskie"):  # Muskie gets the first colours
        grey = model.kind in TRIVIAL or last_step[family(model)] == 0
        index = sum(style.grey == grey for style in styles.values())
        styles.setdefault(family(model), LineStyle(index, grey))
    return styles


def correspondence_charts(
    measurements: Sequence[Measurement], eval_set: EvalSet, titles: Titles, styles: LineStyles
) -> list[Chart]:
    """Returns the correspondence charts of an evaluation set, without empty charts."""
    measurements = in_eval_set(measurements, eval_set)
    measurements = with_labels(measurements, protocol=protocols(measurements)[0])
    main = main_results(measurements)
    models = [model for model in shown_models(main) if _is_drawn(model, main)]
    main_values = lambda metric: {model: row.values.get(metric) for model, row in main.items()}
    drawn_main = {model: main[model] for model in models}
    charts = [
        training_chart(main_values("px_ate"), "Mean error (px)", titles, styles),
        training_chart(main_values("px_10"), "Points within 10 px (%)", titles, styles),
        _threshold_chart(drawn_main, titles, styles),
        *(
            _layer_chart(predictor, measurements, drawn_main, titles, styles)
            for predictor in ("attention", "feature")
        ),
        _angle_chart(measurements, models, titles, styles),
    ]
    return [chart for chart in charts if chart]


def _threshold_chart(
    main: Mapping[ModelInfo, Measurement], titles: Titles, styles: LineStyles
) -> Chart | None:
    """Charts the percentage of points within each of THRESHOLDS."""
    series = []
    for model, row in main.items():
        values = ((px, row.values.get(f"px_{px}")) for px in THRESHOLDS)
        points = tuple((px, value) for px, value in values if value is not None)
        series.append(Series(titles[model], styles[family(model)], points))
    ticks = tuple((px, str(px)) for px in THRESHOLDS)
    title = "Points within a distance (%)"
    return _chart(title, "distance (px)", series, ticks=ticks, logarithmic=True, percent=True)


def _layer_chart(
    predictor: str,
    measurements: Sequence[Measurement],
    main: Mapping[ModelInfo, Measurement],
    titles: Titles,
    styles: LineStyles,
) -> Chart | None:
    """Charts the mean error of a predictor by layer, with trivial baselines as horizontal lines."""
    curves = {
        model: curve
        for (model, name), curve in layer_curves(measurements).items()
        if name == predictor and model in main
    }
    if not curves:
        return None
    levels = [
        Series(titles[model], styles[family(model)], level=row.values["px_ate"])
        for model, row in main.items()
        if model.kind in TRIVIAL and "px_ate" in row.values
    ]
    series = [
        Series(
            titles[model],
            styles[family(model)],
            tuple((layer, curve[layer].values["px_ate"]) for layer in sorted(curve)),
        )
        for model, curve in curves.items()
    ]
    layers = sorted({layer for curve in curves.values() for layer in curve})
    stride = _tick_stride(layers)
    ticks = tuple((layer, str(layer)) for layer in layers[stride - 1 :: stride])
    return _chart(f"Mean error by {predictor} (px)", "layer", [*levels, *series], ticks=ticks)


def _angle_chart(
    measurements: Sequence[Measurement],
    models: Sequence[ModelInfo],
    titles: Titles,
    styles: LineStyles,
) -> Chart | None:
    """Charts the percentage of points within 10 px by rotation, at the middle of each range."""
    curves = angle_curves(measurements)
    ranges = sorted({label for curve in curves.values() for label in curve}, key=parse_range)
    middle = {label: sum(parse_range(label)) / 2 for label in ranges}
    series = []
    for model, curve in curves.items():
        if model in models:
            points = tuple(
                (middle[label], curve[label].values["px_10"]) for label in ranges if label in curve
            )
            series.append(Series(titles[model], styles[family(model)], points))
    edges = sorted({edge for label in ranges for edge in parse_range(label)})
    return _chart(
        "Points within 10 px (%)",
        "rotation between the two views (degrees)",
        series,
        ticks=tuple((edge, f"{edge:g}") for edge in edges[:: _tick_stride(edges)]),
        point_names=tuple((middle[label], label) for label in ranges),
        beyond_paper=True,
    )


def training_chart(
    values: Mapping[ModelInfo, float | None], title: str, titles: Titles, styles: LineStyles, **options
) -> Chart | None:
    """Charts a metric over training steps; None unless a run has several checkpoints.

    A curve starts at the untrained model of the same size and kind, if it was measured. Models outside such
    runs are horizontal lines.
    """
    known = {model: value for model, value in values.items() if value is not None}
    runs: dict[Hashable, dict[ModelInfo, int]] = {}
    for model in known:
        if model.step is not None:
            runs.setdefault(curve_key(model), {})[model] = model.step
    trained = lambda steps: {step for step in steps.values() if step > 0}
    runs = {key: steps for key, steps in runs.items() if len(trained(steps)) > 1}
    if not runs:
        return None
    series = [
        Series(titles[model], styles[family(model)], level=known[model])
        for model in shown_models(known)
        if curve_key(model) not in runs
    ]
    for steps in runs.values():
        checkpoints = sorted(steps, key=lambda model: steps[model])
        points = tuple((steps[model], known[model]) for model in checkpoints)
        series.append(Series(titles[checkpoints[-1]], styles[family(checkpoints[-1])], points))
    return _chart(title, "training step", series, **options)


def reconstruction_charts(
    measurements: Sequence[Measurement], eval_set: MaskedEvalSet, titles: Titles, styles: LineStyles
) -> list[Chart]:
    """Returns charts of the error by view count, one per reference-view count, and over training.

    Each model has a curve with views of the same scene and a curve with distractors. Both start at the
    error of the target alone. The mean colour is a horizontal line. An untrained model is not drawn if its
    trained model is: its large errors would squash the other curves. The chart over training uses the most
    reference views and the most views.
    """
    measurements = in_eval_set(with_labels(measurements, overlap="all"), eval_set)
    errors_by_key = context_errors(measurements)
    charts: list[Chart | None] = []
    shown = shown_models(by_model(measurements))
    models = [model for model in shown if _is_drawn(model, shown, same=curve_key)]
    reference_counts = sorted({references for _, _, references in errors_by_key}, key=parse_range)
    for references in reference_counts:
        same_scene: dict[ModelInfo, list[tuple[int, float]]] = {}
        distractor: dict[ModelInfo, list[tuple[int, float]]] = {}
        for (model, views, count), errors in errors_by_key.items():
            if count != references or not isinstance(views, int):
                continue
            for curves, error in ((same_scene, errors.same_scene), (distractor, errors.distractor)):
                if error is not None:
                    start = [] if errors.alone is None else [(1, errors.alone.value)]
                    curves.setdefault(model, start).append((views, error.value))
        series = [
            Series(titles[MEAN_COLOUR], styles[family(MEAN_COLOUR)], level=points[-1][1])
            for model, points in same_scene.items()
            if model == MEAN_COLOUR
        ]
        series += [
            Series(f"{titles[model]}, {name}", styles[family(model)], tuple(points), dashed=dashed)
            for name, curves, dashed in (
                ("same scene", same_scene, False),
                ("distractors", distractor, True),
            )
            for model, points in curves.items()
            if model in models and model != MEAN_COLOUR
        ]
        view_counts = sorted({views for curve in series for views, _ in curve.points})
        title = f"MSE on masked patches, {_reference_views(references)}"
        if len(view_counts) > 1:
            note = "Hollow markers: the other views are distractors. Otherwise they show the same scene."
            note += " With 1 view, the target is alone." if 1 in view_counts else ""
            ticks = tuple((count, str(count)) for count in view_counts)
            options = {"ticks": ticks, "logarithmic": True, "note": note, "beyond_paper": True}
            charts.append(_chart(title, "views", series, **options))
        if view_counts and references == reference_counts[-1]:
            most = int(view_counts[-1])
            values = {model: dict(points).get(most) for model, points in same_scene.items()}
            title += f" of {most} views"
            charts.append(training_chart(values, title, titles, styles, beyond_paper=True))
    return [chart for chart in charts if chart]


def _reference_views(count: int | None) -> str:
    return f"{count} reference view{'' if count == 1 else 's'}"


def _chart(title: str, x_label: str, series: Iterable[Series], **options) -> Chart | None:
    """Returns a chart without empty series; None if all are empty."""
    series = tuple(curve for curve in series if curve.points or curve.level is not None)
    return Chart(title, x_label, series, **options) if series else None


def _tick_stride(ticks: Sequence) -> int:
    """Returns the stride that keeps at most MAX_TICKS ticks."""
    return -(-len(ticks) // MAX_TICKS) or 1


def _is_drawn(
    model: ModelInfo,
    models: Iterable[ModelInfo],
    same: Callable[[ModelInfo], Hashable] = family,
) -> bool:
    """Returns whether a chart draws a model; untrained models need a key that no trained model has."""
    return not is_untrained(model) or all(not other.step for other in models if same(other) == same(model))
