"""Which curves a report draws, given rows of results."""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from muskie_jax.report.charts import Chart, Look, Series
from muskie_jax.report.reconstruction_tables import context_pairs
from muskie_jax.report.results_file import ModelInfo
from muskie_jax.report.selection import (
    TRIVIAL,
    Entry,
    HiddenPlace,
    Place,
    at,
    by_model,
    defaults,
    family,
    interval,
    is_untrained,
    protocols,
    rank,
    run_of,
    shown,
    where,
)
from muskie_jax.report.tables import Titles, angle_curves, layer_curves

THRESHOLDS = (1, 2, 5, 10, 25, 50)  # px
MAX_TICKS = 12  # of layers and angles
Looks = dict[Hashable, Look]


def looks(models: Iterable[ModelInfo]) -> Looks:
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
    figures = lambda name: {model: entry.values.get(name) for model, entry in chosen.items()}
    draw = lambda model, points: Series(titles[model], tuple(points), drawn[family(model)])

    share = lambda model: ((px, chosen[model].values.get(f"px_{px}")) for px in THRESHOLDS)
    within = [draw(model, (point for point in share(model) if point[1] is not None)) for model in models]
    ticks = tuple((px, str(px)) for px in THRESHOLDS)
    charts = [
        training_chart(figures("px_ate"), "Mean error, px", titles, drawn),
        training_chart(figures("px_10"), "Within 10 px, %", titles, drawn),
        _chart("Points within so many px, %", "px", within, ticks=ticks, logarithmic=True, percent=True),
    ]
    levels = [
        draw(model, ((None, chosen[model].values["px_ate"]),))
        for model in models
        if model.kind in TRIVIAL and "px_ate" in chosen[model].values
    ]
    for predictor in ("attention", "feature"):
        curves = {
            model: curve
            for (model, by), curve in layer_curves(entries).items()
            if by == predictor and model in models
        }
        numbers = sorted({layer for curve in curves.values() for layer in curve})
        every = _every(numbers)
        ticks = tuple((number, str(number)) for number in numbers[every - 1 :: every])
        series = [draw(model, sorted(curve.items())) for model, curve in curves.items()]
        if series:
            title = f"Mean error by {predictor}, px"
            charts.append(_chart(title, "layer", [*levels, *series], ticks=ticks))
    curves = angle_curves(entries)
    labels = sorted({label for curve in curves.values() for label in curve}, key=interval)
    middle = {label: sum(interval(label)) / 2 for label in labels}
    series = [
        draw(model, ((middle[label], curve[label]) for label in labels if label in curve))
        for model, curve in curves.items()
        if model in models
    ]
    edges = sorted({edge for label in labels for edge in interval(label)})
    ticks = tuple((edge, f"{edge:g}") for edge in edges[:: _every(edges)])
    names = tuple((middle[label], label) for label in labels)
    x_label = "degrees between the two views"
    charts.append(_chart("Within 10 px, %", x_label, series, ticks=ticks, names=names, ours=True))
    return [chart for chart in charts if chart]


def training_chart(
    values: Mapping[ModelInfo, float | None], title: str, titles: Titles, drawn: Looks, **options
) -> Chart | None:
    """A figure against the step, of models with several checkpoints; levels are the others'.

    A curve starts at the untrained model that was made like the run's, if it was measured.
    """
    values = {model: value for model, value in values.items() if value is not None}
    runs: dict[Hashable, list[ModelInfo]] = {}
    for model in values:
        if model.step is not None:
            runs.setdefault(run_of(model), []).append(model)
    curves = {key: models for key, models in runs.items() if len({model.step for model in models}) > 1}
    if not curves:
        return None
    levels = [
        Series(titles[model], ((None, values[model]),), drawn[family(model)])
        for model in shown(values)
        if run_of(model) not in curves
    ]
    for models in curves.values():
        models = sorted(models, key=lambda model: model.step)
        points = tuple((model.step, values[model]) for model in models)
        levels.append(Series(titles[models[-1]], points, drawn[family(models[-1])]))
    return _chart(title, "step of training", levels, **options)


def reconstruction_charts(
    entries: Sequence[Entry], place: HiddenPlace, titles: Titles, drawn: Looks
) -> list[Chart]:
    """Error against the number of views, those of the scene and a distractor's; and over training.

    Both curves of a model start at the target alone. An untrained model is not drawn beside its trained
    one: its errors are so large that those of others would look alike. The curve over training is that
    with the most whole views.
    """
    entries = at(where(entries, overlap="all"), place)
    pairs, charts = context_pairs(entries), []
    references = sorted({whole for _, _, whole in pairs}, key=interval)
    chosen = shown(by_model(entries))
    for reference in references:
        errors: dict[str, dict[ModelInfo, list[tuple[int, float]]]] = {
            "own scene": {},
            "distractor's": {},
        }
        for (model, views, whole), found in pairs.items():
            for context, error in zip(errors, (found.own, found.distractor)):
                if whole == reference and isinstance(views, int) and error is not None:
                    start = [] if found.alone is None else [(1, found.alone)]
                    errors[context].setdefault(model, start).append((views, error))
        series = [
            Series(
                f"{titles[model]}, {context}", tuple(points), drawn[family(model)], context != "own scene"
            )
            for context, of in errors.items()
            for model, points in of.items()
            if model in chosen and _alone(model, chosen, run_of)
        ]
        numbers = sorted({views for curve in series for views, _ in curve.points})
        if len(numbers) > 1:
            title = f"Error on hidden patches, {_whole(reference)}"
            note = "Solid and filled: the other views are of the scene. Dashed and hollow: a distractor's."
            note += " With 1 view the target is alone." if 1 in numbers else ""
            ticks = tuple((number, str(number)) for number in numbers)
            charts.append(
                _chart(title, "views", series, ticks=ticks, logarithmic=True, note=note, ours=True)
            )
        if numbers and reference == references[-1]:
            own = {model: dict(points).get(numbers[-1]) for model, points in errors["own scene"].items()}
            title = f"Error on hidden patches, {_whole(reference)} of {numbers[-1]}"
            charts.append(training_chart(own, title, titles, drawn, ours=True))
    return [chart for chart in charts if chart]


def _whole(reference) -> str:
    return f"{reference} whole view{'' if reference == 1 else 's'}"


def _chart(title: str, x_label: str, series: Iterable[Series], **options) -> Chart | None:
    """A chart of those curves that have points, if there are any."""
    series = tuple(curve for curve in series if curve.points)
    return Chart(title, x_label, series, **options) if series else None


def _every(ticks: Sequence) -> int:
    """Each how many-th of so many is drawn."""
    return -(-len(ticks) // MAX_TICKS) or 1


def _alone(
    model: ModelInfo,
    models: Iterable[ModelInfo],
    same: Callable[[ModelInfo], Hashable] = family,
) -> bool:
    """Whether a model is drawn where only one of a family, or of a run, can be: the latest."""
    return not is_untrained(model) or all(not other.step for other in models if same(other) == same(model))
