"""The tables of reconstruction, as numbers; see `tables`."""

from collections.abc import Sequence
from typing import NamedTuple

from muskie_jax.report.results_file import ModelInfo
from muskie_jax.report.selection import Entry, HiddenPlace, at, by_model, interval, shown, where
from muskie_jax.report.tables import Column, Section, Table, Titles, line_of

CLEAR = 0.01  # share of an error: less is no difference between models that reconstruct


def reconstruction_section(
    entries: Sequence[Entry], place: HiddenPlace, title: str, titles: Titles
) -> Section:
    """All tables of reconstruction at a place, which is called `title`."""
    entries = at(entries, place)
    short, every = (
        [table for table in (contexts(entries, titles, all_), overlaps(entries, titles, all_)) if table]
        for all_ in (False, True)
    )
    longer = [table for table, other in zip(every, short) if len(table.lines) > len(other.lines)]
    return Section(title, ours=tuple(short), every=tuple(longer))


class Contexts(NamedTuple):
    """MSE of one model on the same hidden patches: the target alone, with views of its own scene, with a
    distractor's; and an entry of them.
    """

    alone: float | None
    own: float | None
    distractor: float | None
    entry: Entry


def contexts(entries: Sequence[Entry], titles: Titles, every: bool = False) -> Table | None:
    """The error with the scene's own views beside that with a distractor's, and that without any.

    A line for each number of views, with the most whole views; or, `every`, for each number of these too.
    """
    lines = []
    pairs = context_pairs(where(entries, overlap="all"), every)
    for model in shown(model for model, *_ in pairs):
        for (of, views, reference), (alone, own, distractor, entry) in pairs.items():
            if of == model:
                baseline, patches = entry.values.get("baseline_mse"), entry.values.get("patches")
                heads = (titles[model], str(views), str(reference))
                values = (alone, own, distractor, gain(own, distractor), baseline, patches)
                lines.append(line_of(heads, model, values, group=(views, reference)))
    if not lines:
        return None
    return Table(
        "Error on hidden patches by number of views",
        ("model", "views", "whole views"),
        (
            Column("MSE, alone", 4, share=CLEAR),
            Column("MSE, own scene", 4, share=CLEAR),
            Column("MSE, distractor's", 4, ""),
            Column("gain %", 1, "more", margin=100 * CLEAR),
            Column("MSE, mean colour", 4, ""),
            Column("patches", 0, ""),
        ),
        tuple(lines),
        note="The same hidden patches: with no other view, with the other views of their own scene, with "
        "those of another scene; and filled with the mean colour of what is visible. Gain: how much less "
        "the error is with the own scene's than with a distractor's. Bold: better than all others by more "
        "than 1%, with as many views.",
    )


def overlaps(entries: Sequence[Entry], titles: Titles, every: bool = False) -> Table | None:
    """The gain from the scene's own views, by how much of the target they show; lines as of `contexts`."""
    pairs = {}
    labels = sorted({str(entry.labels.get("overlap", "all")) for entry in entries} - {"all"}, key=interval)
    for label in labels:
        for key, found in context_pairs(where(entries, overlap=label), every).items():
            pairs.setdefault(key, {})[label] = gain(found.own, found.distractor)
    lines = []
    for model in shown(model for model, *_ in pairs):
        for (of, views, reference), by_overlap in pairs.items():
            if of == model:
                values = [by_overlap.get(label) for label in labels]
                heads = (titles[model], str(views), str(reference))
                lines.append(line_of(heads, model, values, group=(views, reference)))
    if not lines:
        return None
    return Table(
        "Gain from views of the own scene, %, by their overlap with the hidden view",
        ("model", "views", "whole views"),
        tuple(Column(label, 1, "more", margin=100 * CLEAR) for label in labels),
        tuple(lines),
    )


def context_pairs(entries: Sequence[Entry], every: bool = True) -> dict[tuple, Contexts]:
    """(model, views, whole views) -> errors; unless `every`, with the most whole views alone.

    Of a model whose target was only measured alone, these errors alone.
    """
    found: dict[tuple, dict[str, Entry]] = {}
    alone: dict[ModelInfo, tuple[tuple, Entry]] = {}
    for model, rows in by_model(entries).items():
        for entry in rows:
            key = (model, entry.labels.get("views"), entry.labels.get("num_reference"))
            context = str(entry.labels.get("context"))
            if context == "none":
                alone[model] = key, entry
            else:
                found.setdefault(key, {})[context] = entry
    for model in alone.keys() - {model for model, *_ in found}:
        key, entry = alone[model]
        found[key] = {"none": entry}
    if not every:
        most: dict[tuple, tuple] = {}
        for key in sorted(found, key=lambda key: interval(key[2])):
            most[key[:2]] = key
        found = {key: of for key, of in found.items() if most[key[:2]] == key}
    mse = lambda entry: entry and entry.values.get("mse")
    pairs = {
        key: Contexts(
            mse(alone[key[0]][1]) if key[0] in alone else None,
            mse(of.get("own")),
            mse(of.get("distractor")),
            next(iter(of.values())),
        )
        for key, of in found.items()
    }
    return dict(sorted(pairs.items(), key=lambda item: (interval(item[0][2]), interval(item[0][1]))))


def gain(error: float | None, other: float | None) -> float | None:
    """By how many percent an error is below another."""
    return None if error is None or not other else 100 * (1 - error / other)
