"""A sentence for each place: what the figures say, and against what."""

from collections.abc import Sequence

from muskie_jax.report.reconstruction_tables import CLEAR, context_pairs, gain
from muskie_jax.report.selection import (
    TRIVIAL,
    Entry,
    HiddenPlace,
    Place,
    at,
    defaults,
    is_untrained,
    protocols,
    shown,
    where,
)
from muskie_jax.report.tables import Titles


def correspondence_sentence(entries: Sequence[Entry], place: Place, titles: Titles) -> str | None:
    """Which model is nearest, beside the trivial and the untrained ones; None without figures."""
    entries = at(entries, place)
    protocol = protocols(entries)[0]
    chosen = defaults(where(entries, protocol=protocol))
    measured = {model: chosen[model] for model in shown(chosen) if "px_ate" in chosen[model].values}
    if not measured:
        return None
    error = lambda model: measured[model].values["px_ate"]
    floor = [model for model in measured if model.kind in TRIVIAL or is_untrained(model)]
    ranked = sorted((model for model in measured if model not in floor), key=error)
    if not ranked:
        best = min(floor, key=error)
        return f"only what knows nothing was measured; {titles[best]} is nearest, {error(best):.1f} px off."
    best = ranked[0]
    within = measured[best].values.get("px_10")
    floor = sorted(floor, key=error)
    if floor and (1 - CLEAR) * error(floor[0]) <= error(best):
        text = f"no trained model is nearer than knowing nothing: {titles[floor[0]]} {error(floor[0]):.1f} "
        text += f"px; the best trained, {titles[best]}, {error(best):.1f} px"
        floor = floor[1:]
    else:
        text = f"{titles[best]} is nearest: {error(best):.1f} px off on average"
    text += "" if within is None else f", {within:.0f}% of points within 10 px"
    if len(ranked) > 1:
        text += f"; then {titles[ranked[1]]}, {error(ranked[1]):.1f} px"
    text += "."
    if floor:
        named = ", ".join(f"{titles[model]} {error(model):.1f} px" for model in floor)
        text += f" For comparison: {named}."
    return text


def reconstruction_sentence(entries: Sequence[Entry], place: HiddenPlace, titles: Titles) -> str | None:
    """Whether models use other views: the gain with the most whole views, and of these with the most views.

    None without figures.
    """
    entries = at(where(entries, overlap="all"), place)
    models = shown(entry.model for entry in entries)
    gains: dict[tuple[int, int], dict[str, float]] = {}
    for (model, views, whole), found in context_pairs(entries).items():
        less = gain(found.own, found.distractor)
        if less is not None and isinstance(views, int) and isinstance(whole, int) and model in models:
            gains.setdefault((whole, views), {})[titles[model]] = less
    if not gains:
        return None
    whole, views = max(gains)
    named = sorted(gains[whole, views].items(), key=lambda item: -item[1])
    said = ", ".join(f"{_compared(less)} ({name})" for name, less in named)
    text = (
        f"with {views} views, {whole} of them whole: other views of the scene, instead of a distractor's, "
    )
    text += f"make the error on hidden patches {said}."
    if named[0][1] < 100 * CLEAR:
        text += " So no model gains from other views here."
    return text


def _compared(less: float) -> str:
    percent = round(abs(less))
    return f"{percent}% {'lower' if less > 0 else 'higher'}" if percent else "no different"
