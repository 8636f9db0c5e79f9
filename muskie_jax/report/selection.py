"""Selects the measurements that a report shows: per model, evaluation set, protocol and predictor."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from muskie_jax.evaluators.eval_models import PATCHES, SIFT, STILL
from muskie_jax.report.intervals import Estimate, resample
from muskie_jax.report.results_file import TRAINING_GROUPS, ModelInfo, ResultUnit

# The baseline of reconstruction: fills masked patches with the mean of the target's visible pixels.
MEAN_COLOUR = ModelInfo("mean colour", "mean_colour")
TRIVIAL = (STILL, PATCHES, MEAN_COLOUR.kind)  # kinds of baselines without a network; listed first
MISSING = "\N{EN DASH}"
KINDS = (*TRIVIAL, SIFT, "mae", "crocov2", "dinov2", "dinov3", "muskie")
REFINED = "+refined"
UNTRAINED = "untrained"
PROTOCOLS = ("targets", "published")


class Measurement(NamedTuple):
    """A row of results with its model, its setting and the time when it was finished (ISO 8601)."""

    model: ModelInfo
    labels: dict[str, Any]
    values: dict[str, float]
    setting: dict[str, Any]
    finished: str
    by_group: Mapping[str, Sequence[float | None]]

    def estimate(self, metric: str) -> Estimate | None:
        """Returns a metric with its values under each draw of groups; None if it is missing."""
        if metric not in self.values:
            return None
        return Estimate(self.values[metric], resample(self.by_group, metric))

    def error(self, metric: str) -> float:
        """Returns an error metric, or infinity where it is missing, so that it never ranks first."""
        return self.values.get(metric, float("inf"))


class EvalSet(NamedTuple):
    """Views and points of a correspondence evaluation. Only measurements on the same set are comparable.

    Attributes:
      dataset: name of the dataset.
      height, width: size of the views, pixels.
      views: number of views per group.
      enlarge: factor by which views were enlarged for the networks; None is 1.
      orientations: number of angles at which refined predictors searched; None is 1.
      question: digest of everything else that the data and the points depend on; "" in older results.
    """

    dataset: str
    height: int
    width: int
    views: int
    enlarge: int | None = None
    orientations: int | None = None
    question: str = ""

    def __str__(self):
        text = f"{self.dataset}, {self.views} views of {self.height}x{self.width}"
        if self.enlarge is not None:
            text += f", enlarged to {self.enlarge * self.height}x{self.enlarge * self.width}"
        return text if self.orientations is None else f"{text}, {self.orientations} orientations"


class MaskedEvalSet(NamedTuple):
    """Targets and masks of a reconstruction evaluation.

    The number of views is not part of it, since the report compares errors across view counts.

    Attributes:
      dataset: name of the dataset.
      height, width: size of the views, pixels.
      mask: mode and ratio, such as "random 0.9".
      question: see `EvalSet`.
    """

    dataset: str
    height: int
    width: int
    mask: str
    question: str = ""

    def __str__(self):
        return f"{self.dataset}, {self.height}x{self.width}, mask {self.mask}"


AnyEvalSet = TypeVar("AnyEvalSet", EvalSet, MaskedEvalSet)


def measurements_of(units: Iterable[ResultUnit], evaluator: str) -> list[Measurement]:
    """Returns all rows of an evaluator, ordered by model. A later row replaces an earlier duplicate."""
    newest: dict[tuple, Measurement] = {}
    for unit in sorted((unit for unit in units if unit.evaluator == evaluator), key=lambda u: u.finished):
        for row in unit.rows:
            labels = json.dumps(row.labels, sort_keys=True, default=str)
            key = (unit.model, str(unit.setting.get("question", "")), labels)
            newest[key] = Measurement(
                unit.model, row.labels, row.values, unit.setting, unit.finished, row.by_group
            )
    return sorted(newest.values(), key=lambda measurement: sort_key(measurement.model))


def with_mean_colour(measurements: Sequence[Measurement]) -> list[Measurement]:
    """Adds the baseline MEAN_COLOUR to measurements of reconstruction, whose rows contain its error."""
    filled: dict[tuple, Measurement] = {}
    for measurement in measurements:
        values, by_group = dict(measurement.values), dict(measurement.by_group)
        if "baseline_mse" not in values:
            continue
        values["mse"] = values["baseline_mse"]
        if "baseline_mse" in by_group:
            by_group["mse"] = by_group["baseline_mse"]
        labels = json.dumps(measurement.labels, sort_keys=True, default=str)
        key = (str(measurement.setting.get("question", "")), labels)
        filled[key] = measurement._replace(model=MEAN_COLOUR, values=values, by_group=by_group)
    return [*filled.values(), *measurements]


def training_note(measurements: Iterable[Measurement], titles: Mapping[ModelInfo, str]) -> str:
    """Names the models that were evaluated on scenes of their training; "" if there are none."""
    known = {
        titles[each.model]: f"{each.setting[TRAINING_GROUPS]} of {each.setting.get('groups')} groups"
        for each in measurements
        if TRAINING_GROUPS in each.setting and each.model.kind not in TRIVIAL
    }
    listed = ", ".join(f"{title} ({counts})" for title, counts in known.items())
    return f"Evaluated on scenes of their own training: {listed}." if listed else ""


def sort_key(model: ModelInfo) -> tuple:
    """Orders models: trivial baselines, untrained networks, other backbones, then Muskie by step."""
    kind = KINDS.index(model.kind) if model.kind in KINDS else len(KINDS)
    group = 0 if model.kind in TRIVIAL else 1 if is_untrained(model) else 2
    source = model.source if group == 2 else model.name
    return (group, kind, source, model.step or 0, model.name, model.digest)


def is_untrained(model: ModelInfo) -> bool:
    return model.kind == "muskie" and model.step == 0


def badge(model: ModelInfo) -> str:
    """Returns the qualifier shown next to a baseline's name; "" for most models."""
    if model.kind in TRIVIAL:
        return "trivial baseline"
    return UNTRAINED if is_untrained(model) and UNTRAINED not in model.name else ""


def family(model: ModelInfo) -> tuple[str, str, int | None]:
    """Returns a key that all checkpoints of a run share. One family has one line style."""
    return (model.kind, model.source or model.name, model.parameters)


def curve_key(model: ModelInfo) -> tuple[str, str, int | None]:
    """Returns the key of a training curve: a run's checkpoints and the untrained model they start from."""
    kind, source, parameters = family(model)
    return (kind, source.removeprefix(f"{UNTRAINED}, as "), parameters)


def shown_models(models: Iterable[ModelInfo]) -> list[ModelInfo]:
    """Returns the models that get a table row: each run's latest checkpoint, and all untrained ones."""
    models = sorted(set(models), key=sort_key)
    latest_step = {family(model): model.step for model in models}  # models are sorted by step
    return [
        model
        for model in models
        if model.step is None or is_untrained(model) or model.step == latest_step[family(model)]
    ]


def unique_titles(models: Iterable[ModelInfo]) -> dict[ModelInfo, str]:
    """Returns a title per model: its name, with step and then digest where names collide."""
    titles = {model: model.name for model in sorted(set(models), key=sort_key)}
    for suffix in (lambda m: f"step {m.step:,}" if m.step is not None else "", lambda m: m.digest[:8]):
        names = list(titles.values())
        for model, name in titles.items():
            if names.count(name) > 1 and suffix(model):
                titles[model] = f"{name}, {suffix(model)}"
    return titles


def eval_sets(measurements: Sequence[Measurement], kind: type[AnyEvalSet]) -> dict[AnyEvalSet, str]:
    """Returns the title of every evaluation set that has measurements, in a stable order.

    Sets that differ only in their `question` are ordered from the latest to the oldest. Titles of older
    sets add that they used other groups or points.
    """
    newest: dict[AnyEvalSet, Measurement] = {}
    for measurement in sorted(measurements, key=lambda measurement: measurement.finished):
        newest[eval_set_of(measurement, kind)] = measurement
    latest_first = sorted(newest, key=lambda eval_set: newest[eval_set].finished, reverse=True)
    order = lambda eval_set: tuple((value is None, str(value).zfill(6)) for value in eval_set[:-1])
    titles: dict[AnyEvalSet, str] = {}
    for eval_set in sorted(latest_first, key=order):
        variants = [other for other in latest_first if other[:-1] == eval_set[:-1]]
        titles[eval_set] = str(eval_set)
        if len(variants) > 1:
            titles[eval_set] += _variant_suffix(newest[eval_set], is_latest=eval_set == variants[0])
    return titles


def _variant_suffix(newest: Measurement, is_latest: bool) -> str:
    """Returns what distinguishes sets of equal name: groups, points and, for older sets, the date."""
    nouns = {"groups": "groups", "points": "points each"}
    details = [f"{newest.setting[key]} {noun}" for key, noun in nouns.items() if key in newest.setting]
    if not is_latest:
        details.append(f"on {newest.finished[:16].replace('T', ' at ')}")
    note = "" if is_latest else ", measured earlier on other groups or points"
    return note + (f" ({', '.join(details)})" if details else "")


def eval_set_of(measurement: Measurement, kind: type[AnyEvalSet]) -> AnyEvalSet:
    labels = [measurement.labels.get(name) for name in kind._fields[:-1]]
    return kind._make([*labels, str(measurement.setting.get("question", ""))])


def in_eval_set(measurements: Iterable[Measurement], eval_set: AnyEvalSet) -> list[Measurement]:
    return [m for m in measurements if eval_set_of(m, type(eval_set)) == eval_set]


def with_labels(measurements: Iterable[Measurement], **labels) -> list[Measurement]:
    """Returns measurements with these labels, compared as text; a missing label counts as "all"."""
    return [
        measurement
        for measurement in measurements
        if all(str(measurement.labels.get(name, "all")) == str(value) for name, value in labels.items())
    ]


def protocols(measurements: Iterable[Measurement]) -> list[str]:
    """Returns the protocols that occur, `targets` first."""
    found = {str(measurement.labels.get("protocol", "all")) for measurement in measurements}
    return [name for name in PROTOCOLS if name in found] + sorted(found - set(PROTOCOLS))


def by_model(measurements: Iterable[Measurement]) -> dict[ModelInfo, list[Measurement]]:
    """Groups measurements by model, in the order of `sort_key`."""
    groups: dict[ModelInfo, list[Measurement]] = {}
    for measurement in measurements:
        groups.setdefault(measurement.model, []).append(measurement)
    return dict(sorted(groups.items(), key=lambda item: sort_key(item[0])))


def main_results(
    measurements: Sequence[Measurement], metric: str = "px_ate"
) -> dict[ModelInfo, Measurement]:
    """Returns the measurement that represents each model in tables, given one set and protocol.

    Muskie is represented by attention averaged over all layers. Any other model is represented by features
    of the layer with the lowest mean error, `metric`.
    """
    unrefined = [
        measurement
        for measurement in with_labels(measurements, angle="all", points="all")
        if not str(measurement.labels.get("predictor")).endswith(REFINED)
    ]
    chosen = {}
    for model, rows in by_model(unrefined).items():
        candidates = (
            with_labels(rows, predictor="attention", layer="all")
            or with_labels(rows, predictor="feature")
            or rows
        )
        chosen[model] = min(candidates, key=lambda measurement: measurement.error(metric))
    return chosen


def refined(
    measurements: Sequence[Measurement], main: Measurement, metric: str = "px_ate"
) -> Measurement | None:
    """Returns a model's refined result, at the layer of its main result or else at its best layer."""
    predictor = f"{main.labels.get('predictor')}{REFINED}"
    rows = with_labels(measurements, predictor=predictor, angle="all", points="all")
    rows = [row for row in rows if row.model == main.model]
    rows = with_labels(rows, layer=main.labels.get("layer", "all")) or rows
    return min(rows, key=lambda measurement: measurement.error(metric), default=None)


def siblings(measurements: Sequence[Measurement], main: Measurement, *free: str) -> list[Measurement]:
    """Returns a model's measurements that equal its main result in all labels except `free`."""
    fixed = lambda labels: {name: value for name, value in labels.items() if name not in free}
    return [m for m in measurements if m.model == main.model and fixed(m.labels) == fixed(main.labels)]


def parse_range(label: Any) -> tuple[float, float]:
    """Returns the ends of a label such as "10-20" or "0.3-0.6"; twice the number, or inf for other text."""
    numbers = [float(number) for number in re.findall(r"\d+\.?\d*", str(label))] or [float("inf")]
    return numbers[0], numbers[-1]


def predictor_name(measurement: Measurement) -> str:
    """Returns predictor and layer, such as "feature, layer 2"; trivial baselines have none."""
    labels = measurement.labels
    if measurement.model.kind in TRIVIAL:
        return MISSING
    layer = str(labels.get("layer", "all"))
    return f"{labels.get('predictor')}, {'all layers' if layer == 'all' else f'layer {layer}'}"
