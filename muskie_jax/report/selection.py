"""Which of the measured figures a report shows: of which model, where, with which predictor."""

import json
import re
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, NamedTuple

from muskie_jax.report.results_file import ModelInfo, ResultUnit

TRIVIAL = ("still", "patches")  # kinds that know nothing; they come first
MISSING = "\N{EN DASH}"
KINDS = (*TRIVIAL, "mae", "crocov2", "dinov2", "dinov3", "muskie")
REFINED = "+refined"
UNTRAINED = "untrained"
PROTOCOLS = ("targets", "published")


class Entry(NamedTuple):
    """A row of results, with whose it is, how it was measured and when."""

    model: ModelInfo
    labels: dict[str, Any]
    values: dict[str, float]
    setting: dict[str, Any]
    finished: str

    def value(self, name: str) -> float:
        """A figure; infinite if it is missing, since all that are compared here are errors."""
        return self.values.get(name, float("inf"))


class Place(NamedTuple):
    """What figures of correspondence must share to be compared: a dataset, how its views were taken, and
    `question`, which is of all else that the data and the points depend on ("" in older results).
    """

    dataset: str
    height: int
    width: int
    views: int
    question: str = ""

    def __str__(self):
        return f"{self.dataset}, {self.views} views of {self.height}x{self.width}"


class HiddenPlace(NamedTuple):
    """The same of reconstruction, whose figures for several numbers of views are compared."""

    dataset: str
    height: int
    width: int
    mask: str
    question: str = ""

    def __str__(self):
        return f"{self.dataset}, {self.height}x{self.width}, hidden: {self.mask}"


def entries_of(units: Iterable[ResultUnit], evaluator: str) -> list[Entry]:
    """All rows of an evaluator; where the same was measured twice, the later ones."""
    found: dict[tuple, Entry] = {}
    for unit in sorted((unit for unit in units if unit.evaluator == evaluator), key=lambda u: u.finished):
        for row in unit.rows:
            labels = json.dumps(row.labels, sort_keys=True, default=str)
            key = (unit.model, str(unit.setting.get("question", "")), labels)
            found[key] = Entry(unit.model, row.labels, row.values, unit.setting, unit.finished)
    return sorted(found.values(), key=lambda entry: rank(entry.model))


def rank(model: ModelInfo) -> tuple:
    """Orders models: what knows nothing, what is untrained, other networks, then ours by step."""
    number = KINDS.index(model.kind) if model.kind in KINDS else len(KINDS)
    group = 0 if model.kind in TRIVIAL else 1 if is_untrained(model) else 2
    return (
        group,
        number,
        model.name if group < 2 else model.source,
        model.step or 0,
        model.name,
        model.digest,
    )


def is_untrained(model: ModelInfo) -> bool:
    return model.kind == "muskie" and model.step == 0


def tag(model: ModelInfo) -> str:
    """What must be said of a model wherever it stands, unless its name does; empty for most."""
    if model.kind in TRIVIAL:
        return "trivial baseline"
    return UNTRAINED if is_untrained(model) and UNTRAINED not in model.name else ""


def family(model: ModelInfo) -> Hashable:
    """The same for all checkpoints of a run: they are drawn alike."""
    return (model.kind, model.source or model.name, model.parameters)


def run_of(model: ModelInfo) -> Hashable:
    """The same for what lies on one curve of training: a family, and the untrained model made like it."""
    kind, source, parameters = family(model)
    return (kind, source.removeprefix(f"{UNTRAINED}, as "), parameters)


def shown(models: Iterable[ModelInfo]) -> list[ModelInfo]:
    """Those that get a line of a table: of a run's checkpoints the latest, and the untrained one."""
    models = sorted(set(models), key=rank)
    latest = {family(model): model.step for model in models}  # the last of each
    return [
        model
        for model in models
        if model.step is None or is_untrained(model) or model.step == latest[family(model)]
    ]


def titles(models: Iterable[ModelInfo]) -> dict[ModelInfo, str]:
    """Names of models, with the step, and the digest, of those that share one."""
    models = sorted(set(models), key=rank)
    named = {model: model.name for model in models}
    for more in (lambda m: f"step {m.step:,}" if m.step is not None else "", lambda m: m.digest[:8]):
        names = list(named.values())
        for model, name in named.items():
            if names.count(name) > 1 and more(model):
                named[model] = f"{name}, {more(model)}"
    return named


def places(entries: Sequence[Entry], kind: type = Place) -> dict[Place | HiddenPlace, str]:
    """Where there are figures, with a title, in a stable order.

    Where the same data was asked in several ways, the one measured last is first, and the titles of the
    others say so.
    """
    last: dict[Place | HiddenPlace, Entry] = {}
    for entry in sorted(entries, key=lambda entry: entry.finished):
        last[place_of(entry, kind)] = entry
    latest_first = sorted(last, key=lambda place: last[place].finished, reverse=True)
    order = lambda place: tuple((value is None, str(value).zfill(6)) for value in place[:-1])
    named: dict[Place | HiddenPlace, str] = {}
    for place in sorted(latest_first, key=order):
        alike = [other for other in latest_first if other[:-1] == place[:-1]]
        named[place] = str(place)
        if len(alike) > 1:
            entry = last[place]
            words = {"groups": "groups", "points": "points each"}
            counts = [f"{entry.setting[key]} {word}" for key, word in words.items() if key in entry.setting]
            if place != alike[0]:
                named[place] += ", measured on other groups or points"
                counts.append(f"on {entry.finished[:16].replace('T', ' at ')}")
            named[place] += f" ({', '.join(counts)})" if counts else ""
    return named


def place_of(entry: Entry, kind: type = Place) -> Place | HiddenPlace:
    labels = (entry.labels.get(name) for name in kind._fields[:-1])
    return kind(*labels, str(entry.setting.get("question", "")))


def where(entries: Iterable[Entry], **labels) -> list[Entry]:
    """Entries with these labels, compared as text: layer 3 is "3". A label left out is "all"."""
    return [
        entry
        for entry in entries
        if all(str(entry.labels.get(name, "all")) == str(value) for name, value in labels.items())
    ]


def at(entries: Iterable[Entry], place: Place | HiddenPlace) -> list[Entry]:
    """Entries of a place."""
    return [entry for entry in entries if place_of(entry, type(place)) == place]


def protocols(entries: Iterable[Entry]) -> list[str]:
    """Protocols that occur, the one without view 0 first."""
    found = {str(entry.labels.get("protocol", "all")) for entry in entries}
    return [name for name in PROTOCOLS if name in found] + sorted(found - set(PROTOCOLS))


def by_model(entries: Iterable[Entry]) -> dict[ModelInfo, list[Entry]]:
    """Entries of each model, in the order of models."""
    found: dict[ModelInfo, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry.model, []).append(entry)
    return dict(sorted(found.items(), key=lambda item: rank(item[0])))


def defaults(entries: Sequence[Entry]) -> dict[ModelInfo, Entry]:
    """The figures that stand for each model, given those of one place and protocol.

    They are those of attention over all layers for a model that attends, else those of features at the
    layer where the mean error is least.
    """
    plain = [
        entry
        for entry in where(entries, angle="all", points="all")
        if not str(entry.labels.get("predictor")).endswith(REFINED)
    ]
    chosen = {}
    for model, rows in by_model(plain).items():
        candidates = (
            where(rows, predictor="attention", layer="all") or where(rows, predictor="feature") or rows
        )
        chosen[model] = min(candidates, key=lambda entry: entry.value("px_ate"))
    return chosen


def refined(entries: Sequence[Entry], default: Entry) -> Entry | None:
    """The refined figures of a model beside its default ones: at the same layer, or else at the best."""
    predictor = f"{default.labels.get('predictor')}{REFINED}"
    rows = [entry for entry in where(entries, predictor=predictor, angle="all", points="all")]
    rows = [entry for entry in rows if entry.model == default.model]
    rows = where(rows, layer=default.labels.get("layer", "all")) or rows
    return min(rows, key=lambda entry: entry.value("px_ate"), default=None)


def siblings(entries: Sequence[Entry], default: Entry, *free: str) -> list[Entry]:
    """Entries that differ from one of the same model only in the labels named."""
    same = {key: value for key, value in default.labels.items() if key not in free}
    return [
        entry
        for entry in entries
        if entry.model == default.model
        and {key: value for key, value in entry.labels.items() if key not in free} == same
    ]


def interval(label: Any) -> tuple[float, float]:
    """The ends of a label such as "10-20" or "0.3-0.6", or a number twice; sorts labels too."""
    numbers = [float(number) for number in re.findall(r"\d+\.?\d*", str(label))] or [float("inf")]
    return numbers[0], numbers[-1]


def described(entry: Entry) -> str:
    """The predictor and layer of an entry, in words."""
    predictor, layer = str(entry.labels.get("predictor")), str(entry.labels.get("layer", "all"))
    if entry.model.kind in TRIVIAL:
        return MISSING
    return f"{predictor}, {'all layers' if layer == 'all' else f'layer {layer}'}"
