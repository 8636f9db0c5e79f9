"""One sentence per evaluation set: the main result, compared with the baselines."""

from collections.abc import Sequence

from muskie_jax.report.reconstruction_tables import CLEAR_FRACTION, context_errors, gain
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
    if baselines and (1 - CLEAR_FRACTION) * error(baselines[0]) <= error(best):
        text = f"no trained model beats the baselines: {winner_text(baselines[0])}; "
        text += f"the best trained model is {error_text(best)}"
        baselines = baselines[1:]
    else:
        text = winner_text(best)
    within = measured[best].values.get("px_10")
    text += "" if within is None else f", with {within:.0f}% of points within 10 px"
    if len(trained) > 1:
        text += f"; next is {error_text(trained[1])}"
    text += "."
    if baselines:
        text += f" Baselines: {', '.join(map(error_text, baselines))}."
    return text


def reconstruction_sentence(
    measurements: Sequence[Measurement], eval_set: MaskedEvalSet, titles: Titles
) -> str | None:
    """Reports each model's gain from views of the same scene; None without measurements.

    It uses the gain with the most reference views and, among these, the most views.
    """
    measurements = in_eval_set(with_labels(measurements, overlap="all"), eval_set)
    models = shown_models(measurement.model for measurement in measurements)
    gains: dict[tuple[int, int], dict[str, float]] = {}
    for (model, views, references), errors in context_errors(measurements).items():
        percent = gain(errors.same_scene, errors.distractor)
        if (
            percent is not None
            and isinstance(views, int)
            and isinstance(references, int)
            and model in models
        ):
            gains.setdefault((references, views), {})[titles[model]] = percent
    if not gains:
        return None
    references, views = max(gains)
    ranked = sorted(gains[references, views].items(), key=lambda item: -item[1])
    changes = ", ".join(f"{_change(percent)} ({title})" for title, percent in ranked)
    text = (
        f"with {views} views, {references} of them unmasked, the error on masked patches is {changes} when "
        "the other views show the same scene rather than another one."
    )
    if ranked[0][1] < 100 * CLEAR_FRACTION:
        text += " No model gains from other views here."
    return text


def _change(gain_percent: float) -> str:
    percent = round(abs(gain_percent))
    return f"{percent}% {'lower' if gain_percent > 0 else 'higher'}" if percent else "unchanged"
