"""A sentence for each place: what the figures say, and against what."""

from collections.abc import Sequence

from muskie_jax.report.selection import (
    TRIVIAL,
    Entry,
    Place,
    at,
    defaults,
    is_untrained,
    protocols,
    shown,
    where,
)
from muskie_jax.report.tables import Titles, context_pairs, gain, reconstruction_place

SMALL = 1.0  # percent: less than this is called no difference


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
    text = f"{titles[best]} is nearest: {error(best):.1f} px off on average"
    text += "" if within is None else f", {within:.0f}% of points within 10 px"
    if len(ranked) > 1:
        text += f"; then {titles[ranked[1]]}, {error(ranked[1]):.1f} px"
    text += "."
    if floor:
        named = ", ".join(f"{titles[model]} {error(model):.1f} px" for model in sorted(floor, key=error))
        text += f" For comparison: {named}."
    beaten = [model for model in floor if error(model) <= error(best)]
    if beaten:
        text += " So no trained model does better than knowing nothing here."
    return text


def reconstruction_sentence(entries: Sequence[Entry], place: tuple, titles: Titles) -> str | None:
    """Whether models use other views: the gain with the most views; None without figures."""
    entries = [entry for entry in where(entries, overlap="all") if reconstruction_place(entry) == place]
    models = shown(entry.model for entry in entries)
    gains: dict[int, dict[str, float]] = {}
    for (model, views, _), (own, stranger, _) in context_pairs(entries).items():
        less = gain(own, stranger)
        if less is not None and isinstance(views, int) and model in models:
            gains.setdefault(views, {})[titles[model]] = less
    if not gains:
        return None
    views = max(gains)
    named = sorted(gains[views].items(), key=lambda item: -item[1])
    said = ", ".join(f"{less:.0f}% ({name})" for name, less in named)
    text = f"with {views} views of the scene, the error is lower than with a stranger's views by {said}."
    if named[0][1] < SMALL:
        text += " So other views are not used."
    return text
