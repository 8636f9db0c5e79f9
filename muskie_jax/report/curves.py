"""Which curves a report draws, given rows of results."""

from collections.abc import Hashable, Iterable, Sequence

from muskie_jax.report.charts import Chart, Look, Series
from muskie_jax.report.results_file import MeasuredModel
from muskie_jax.report.selection import (
    TRIVIAL,
    Entry,
    Place,
    at,
    by_model,
    defaults,
    family,
    interval,
    is_untrained,
    protocols,
    rank,
    shown,
    where,
)
from muskie_jax.report.tables import (
    Titles,
    angle_curves,
    context_pairs,
    layer_curves,
    reconstruction_place,
)

THRESHOLDS = (1, 2, 5, 10, 25, 50)  # px
MAX_TICKS = 12  # of layers
Looks = dict[Hashable, Look]


def looks(models: Iterable[MeasuredModel]) -> Looks:
    """One look for each model, the same in every chart: checkpoints of a run share theirs."""
    found: Looks = {}
    steps: dict[Hashable, int] = {}
    models = sorted(set(models), key=rank)
    for model in models:
        steps[family(model)] = max(steps.get(family(model), 0), 1 if model.step is None else model.step)
    for model in sorted(models, key=lambda model: model.kind != "muskie"):  # ours have the first colours
        grey = model.kind in TRIVIAL or steps[family(model)] == 0
        count = sum(look.grey == grey for look in found.values())
        found.setdefault(family(model), Look(count, grey))
    return found


def correspondence_charts(
    entries: Sequence[Entry], place: Place, titles: Titles, drawn: Looks
) -> list[Chart]:
    """All curves of correspondence at a place, those that have something to show."""
    entries = at(entries, place)
    entries = where(entries, protocol=protocols(entries)[0])
    chosen = defaults(entries)
    models = [model for model in shown(chosen) if _alone(model, chosen)]
    draw = lambda model, points: Series(titles[model], tuple(points), drawn[family(model)])

    within = [
        draw(
            model,
            (
                (px, chosen[model].values[f"px_{px}"])
                for px in THRESHOLDS
                if f"px_{px}" in chosen[model].values
            ),
        )
        for model in models
    ]
    ticks = tuple((px, str(px)) for px in THRESHOLDS)
    charts = [
        training_chart(entries, "px_ate", "Mean error, px", titles, drawn),
        training_chart(entries, "px_10", "Within 10 px, %", titles, drawn),
        _chart("Points within so many px, %", "px", within, ticks=ticks, logarithmic=True, percent=True),
    ]
    levels = [_level(model, chosen, "px_ate", titles, drawn) for model in models if model.kind in TRIVIAL]
    for predictor in ("attention", "feature"):
        curves = {
            model: curve
            for (model, by), curve in layer_curves(entries).items()
            if by == predictor and model in models
        }
        numbers = sorted({layer for curve in curves.values() for layer in curve})
        every = -(-len(numbers) // MAX_TICKS) or 1
        ticks = tuple((number, str(number)) for number in numbers[every - 1 :: every])
        series = [draw(model, sorted(curve.items())) for model, curve in curves.items()]
        if series:
            title = f"Mean error by {predictor}, px"
            charts.append(_chart(title, "layer", [*filter(None, levels), *series], ticks=ticks))
    curves = angle_curves(entries)
    labels = sorted({label for curve in curves.values() for label in curve}, key=interval)
    middle = {label: sum(interval(label)) / 2 for label in labels}
    series = [
        draw(model, ((middle[label], curve[label]) for label in labels if label in curve))
        for model, curve in curves.items()
        if model in models
    ]
    ticks = tuple((middle[label], label) for label in labels)
    charts.append(_chart("Within 10 px, %", "degrees between the two views", series, ticks=ticks))
    return [chart for chart in charts if chart]


def training_chart(
    entries: Sequence[Entry], metric: str, title: str, titles: Titles, drawn: Looks
) -> Chart | None:
    """A metric against the step, of models with several checkpoints; levels are the others'."""
    chosen = defaults(entries)
    runs: dict[Hashable, list[MeasuredModel]] = {}
    for model in chosen:
        if model.step is not None:
            runs.setdefault(family(model), []).append(model)
    curves = {key: models for key, models in runs.items() if len({model.step for model in models}) > 1}
    if not curves:
        return None
    levels = [
        _level(model, chosen, metric, titles, drawn)
        for model in shown(chosen)
        if family(model) not in curves
    ]
    series = list(filter(None, levels))
    for key, models in curves.items():
        points = {model.step: chosen[model].values.get(metric) for model in models}
        points = tuple((step, value) for step, value in sorted(points.items()) if value is not None)
        series.append(Series(titles[max(models, key=lambda m: m.step)], points, drawn[key]))
    return _chart(title, "step of training", series)


def reconstruction_charts(
    entries: Sequence[Entry], place: tuple, titles: Titles, drawn: Looks
) -> list[Chart]:
    """Error against the number of views: those of the scene, and a stranger's."""
    entries = [entry for entry in where(entries, overlap="all") if reconstruction_place(entry) == place]
    references = sorted({entry.labels.get("num_reference") for entry in entries}, key=interval)
    pairs, charts = context_pairs(entries), []
    chosen = shown(by_model(entries))
    for reference in references:
        series = []
        for model in (model for model in chosen if _alone(model, chosen)):
            for index, context in enumerate(("own scene", "stranger's")):
                points = {
                    views: errors[index]
                    for (of, views, whole), errors in pairs.items()
                    if of == model and whole == reference and isinstance(views, int)
                }
                points = tuple((views, error) for views, error in points.items() if error is not None)
                title = f"{titles[model]}, {context}"
                series.append(Series(title, points, drawn[family(model)], context == "stranger's"))
        numbers = sorted({x for curve in series for x, _ in curve.points})
        if len(numbers) > 1:
            title = f"Error on hidden patches, {_whole(reference)}"
            note = "Solid and filled: the other views are of the scene. Dashed and hollow: a stranger's."
            ticks = tuple((number, str(number)) for number in numbers)
            charts.append(_chart(title, "views", series, ticks=ticks, logarithmic=True, note=note))
    return [chart for chart in charts if chart]


def _whole(reference) -> str:
    return f"{reference} whole view{'' if reference == 1 else 's'}"


def _chart(title: str, x_label: str, series: Iterable[Series], **options) -> Chart | None:
    """A chart of those curves that have points, if there are any."""
    series = tuple(curve for curve in series if curve.points)
    return Chart(title, x_label, series, **options) if series else None


def _level(model: MeasuredModel, chosen, metric: str, titles: Titles, drawn: Looks) -> Series | None:
    value = chosen[model].values.get(metric)
    return None if value is None else Series(titles[model], ((None, value),), drawn[family(model)])


def _alone(model: MeasuredModel, models: Iterable[MeasuredModel]) -> bool:
    """Whether a model is drawn where only one of a run can be: the latest."""
    return not is_untrained(model) or all(
        not other.step for other in models if family(other) == family(model)
    )
