"""One sentence per evaluation set: the main result, compared with the baselines."""

from collections.abc import Mapping, Sequence

from muskie_jax.report.intervals import may_be_equal, resample
from muskie_jax.report.reconstruction_tables import CLEAR_FRACTION, ContextErrors, context_errors, gain
from muskie_jax.report.selection import (
    TRIVIAL,
    EvalSet,
    MaskedEvalSet,
    Measurement,
    in_eval_set,
    is_untrained,
    main_results,
    protocols,
    shown_models,
    training_note,
    with_labels,
)
from muskie_jax.report.tables import Titles


def correspondence_sentence(
    measurements: Sequence[Measurement], eval_set: EvalSet, titles: Titles
) -> str | None:
    """Ranks the two best models by mean error and lists the baselines; None without measurements."""
    measurements = in_eval_set(measurements, eval_set)
    protocol = protocols(measurements)[0]
    main = main_results(with_labels(measurements, protocol=protocol))
    measured = {model: main[model] for model in shown_models(main) if "px_ate" in main[model].values}
    if not measured:
        return None
    error = lambda model: measured[model].values["px_ate"]
    error_text = lambda model: f"{titles[model]} at {error(model):.1f} px"
    winner_text = lambda model: f"{titles[model]} has the lowest mean error, {error(model):.1f} px"
    is_baseline = lambda model: model.kind in TRIVIAL or is_untrained(model)
    baselines = sorted(filter(is_baseline, measured), key=error)
    trained = sorted((model for model in measured if not is_baseline(model)), key=error)
    if not trained:
        return f"only baselines were measured: {winner_text(baselines[0])}."
    best = trained[0]
    resampled = lambda model: resample(measured[model].by_group, "px_ate")
    undecided = lambda a, b: may_be_equal(resampled(a), resampled(b))
    if baselines and (1 - CLEAR_FRACTION) * error(baselines[0]) <= error(best):
        text = f"no trained model beats the baselines: {winner_text(baselines[0])}; "
        text += f"the best trained model is {error_text(best)}"
        baselines = baselines[1:]
    elif baselines and undecided(best, baselines[0]):
        text = f"no trained model is distinguishable from the baseline {error_text(baselines[0])}; "
        text += f"the best trained model is {error_text(best)}"
        baselines = baselines[1:]
    else:
        text = winner_text(best)
    within = measured[best].values.get("px_10")
    text += "" if within is None else f", with {within:.0f}% of points within 10 px"
    if len(trained) > 1:
        text += f"; next is {error_text(trained[1])}"
        text += ", not distinguishable from it" if undecided(best, trained[1]) else ""
    text += "."
    if baselines:
        text += f" Baselines: {', '.join(map(error_text, baselines))}."
    return f"{text} {training_note(measurements, titles)}".strip()


def reconstruction_sentence(
    measurements: Sequence[Measurement], eval_set: MaskedEvalSet, titles: Titles
) -> str | None:
    """Reports each model's gain from views of the same scene, and whether the best beats the mean colour.

    It uses the errors with the most reference views and, among these, the most views. Returns None without
    measurements.
    """
    measurements = in_eval_set(with_labels(measurements, overlap="all"), eval_set)
    models = shown_models(measurement.model for measurement in measurements)
    found: dict[tuple[int, int], dict[str, ContextErrors]] = {}
    for (model, views, references), errors in context_errors(measurements).items():
        if not isinstance(views, int) or not isinstance(references, int) or not errors.same_scene:
            continue
        if model in models and model.kind not in TRIVIAL:
            found.setdefault((references, views), {})[titles[model]] = errors
    if not found:
        return None
    references, views = max(found)
    gains, best = _gains(found[references, views]), _best_error(found[references, views])
    text = f"{gains}. T{best[1:]}" if gains and best else gains or best
    if not text:
        return None
    text = f"with {views} views, {references} of them unmasked, {text}."
    return f"{text} {training_note(measurements, titles)}".strip()


def _gains(errors_by_title: Mapping[str, ContextErrors]) -> str:
    gains = {title: gain(each.same_scene, each.distractor) for title, each in errors_by_title.items()}
    known = [(each.value, title) for title, each in gains.items() if each]
    if not known:
        return ""
    ranked = sorted(known, key=lambda pair: -pair[0])
    changes = ", ".join(f"{_change(percent)} ({title})" for percent, title in ranked)
    text = f"the error on masked patches is {changes} when the other views show the same scene rather than "
    text += "another one"
    return text if ranked[0][0] >= 100 * CLEAR_FRACTION else f"{text}. No model gains from other views here"


def _best_error(errors_by_title: Mapping[str, ContextErrors]) -> str:
    """Compares the lowest error with that of filling with the mean colour; "" if that is unknown."""
    known = [
        (each.same_scene, each.baseline, title)
        for title, each in errors_by_title.items()
        if each.same_scene and each.baseline
    ]
    if not known:
        return ""
    error, baseline, title = min(known, key=lambda each: each[0].value)
    below = gain(error, baseline)
    text = f"the lowest error is {error.value:.4f} ({title})"
    if below is None or below.value <= 0:
        return f"{text}, no lower than that of the mean colour, {baseline.value:.4f}"
    text += f", {below.value:.0f}% below that of the mean colour"
    undecided = may_be_equal(error.resampled, baseline.resampled)
    return f"{text}, but not distinguishable from it" if undecided else text


def _change(gain_percent: float) -> str:
    percent = round(abs(gain_percent))
    return f"{percent}% {'lower' if gain_percent > 0 else 'higher'}" if percent else "unchanged"
