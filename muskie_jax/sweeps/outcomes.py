"""Results of the trainings of a sweep: mean and standard deviation over seeds.

The folder of an experiment contains a folder per training, `trainings.jsonl` with the wall time of every
start, and `evaluation`, the work directory of the job `evaluate`.
"""

import json
import math
import pathlib
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from muskie_jax.checkpoints.saved_steps import evaluation_errors, json_rows, metrics_rows
from muskie_jax.errors import UserError
from muskie_jax.evaluators.predictions import ALL
from muskie_jax.evaluators.results import ResultRow
from muskie_jax.goodput import read_starts
from muskie_jax.interop.metadata import latest_evaluation
from muskie_jax.report import results_file
from muskie_jax.report.results_file import ResultUnit
from muskie_jax.sweeps.predictor import PredictorName

TRAININGS = "trainings.jsonl"
SUMMARIES = "summaries.json"
EVALUATION = "evaluation"
BASELINE = "did not move"
# What is measured of pre-training: key -> title and number of decimals.
MEASURES = {
    "minutes": ("minutes", 1),
    "gain": ("error reduction against mean fill, %", 1),
    "px": ("mean error, px", 1),
    "px_10": ("points within 10 px, %", 1),
}
POINT_MEASURES = ("px", "px_10")  # those that depend on the predictor
# The same for the task "reconstruct": metrics of the evaluator "geometry", on each kind of data.
ROOMS, RECORDINGS = "rooms", "recordings"
GEOMETRY = {
    "auc_5": ("AUC@5°", 1),
    "auc_15": ("AUC@15°", 1),
    "auc_30": ("AUC@30°", 1),
    "l1_mean": ("L1 of points, m", 3),
}
GEOMETRY_MEASURES = {"minutes": MEASURES["minutes"]} | {
    f"{kind}_{metric}": (f"{kind}: {title}", decimals)
    for kind in (ROOMS, RECORDINGS)
    for metric, (title, decimals) in GEOMETRY.items()
}
ALL_MEASURES = MEASURES | GEOMETRY_MEASURES


class Summary(NamedTuple):
    """The trainings of one run with several seeds.

    Attributes:
      name: name of the run.
      values: by measure (a key of ALL_MEASURES), one value per seed that has one.
    """

    name: str
    values: Mapping[str, Sequence[float]]

    @property
    def seeds(self) -> int:
        return max(map(len, self.values.values()), default=0)

    def mean(self, measure: str) -> float | None:
        values = self.values[measure]
        return statistics.fmean(values) if values else None

    def deviation(self, measure: str) -> float | None:
        """Returns the standard deviation over seeds; None for fewer than two."""
        values = self.values[measure]
        return statistics.stdev(values) if len(values) > 1 else None


def folder_name(run: str, seed: int) -> str:
    """Returns the name of the work directory of a training."""
    return f"{run}-seed{seed}"


def summarise(
    folder: pathlib.Path,
    steps: Mapping[str, int],
    seeds: Sequence[int],
    datasets: Mapping[str, str],
    predictor: PredictorName,
) -> list[Summary]:
    """Returns the outcome of every run with a finished training, and of `BASELINE` if it was measured.

    Args:
      folder: folder of the experiment.
      steps: the last update of each run, by name.
      seeds: seeds of the trainings.
      datasets: ROOMS or RECORDINGS, by name of the dataset. Points are pooled over all datasets, cameras
        and point maps over those of a kind.
      predictor: the predictor of correspondence.

    Raises:
      UserError: if results cannot be read, or do not have the predictor.
    """
    minutes = wall_minutes(folder)
    evaluated = correspondence(folder / EVALUATION, datasets, predictor)
    for model, measured in geometry(folder / EVALUATION, datasets).items():
        evaluated[model] = evaluated.get(model, {}) | measured
    summaries = []
    for run, last in steps.items():
        finished = False
        values: dict[str, list[float]] = {measure: [] for measure in ALL_MEASURES}
        for seed in seeds:
            name = folder_name(run, seed)
            if last not in evaluation_errors(folder / name):
                continue
            finished, errors = True, latest_evaluation(folder / name, last)
            if errors.get("baseline_mse"):
                values["gain"].append(100 * (1 - errors["mse"] / errors["baseline_mse"]))
            measured = evaluated.get((name, last), {})
            for measure, value in (("minutes", minutes.get(name)), *measured.items()):
                if value is not None:
                    values[measure].append(value)
        if finished:
            summaries.append(Summary(run, values))
    if still := evaluated.get((BASELINE, None)):
        others: dict[str, list[float]] = {measure: [] for measure in ALL_MEASURES}
        summaries.append(Summary(BASELINE, others | {key: [value] for key, value in still.items()}))
    return summaries


def wall_minutes(folder: pathlib.Path) -> dict[str, float]:
    """Returns the minutes that each training took, with compilation, over all its starts.

    A killed experiment does not record its last starts, but the trainings do.
    """
    minutes: dict[str, float] = {}
    for start in json_rows(folder / TRAININGS):
        name, seconds = start.get("name"), start.get("seconds")
        if isinstance(name, str) and isinstance(seconds, (int, float)):
            minutes[name] = minutes.get(name, 0.0) + seconds / 60
    for name in minutes:
        seconds = sum(start.recorded - start.began for start in read_starts(folder / name))
        minutes[name] = max(minutes[name], seconds / 60)
    return minutes


def minutes_at_steps(run: pathlib.Path) -> dict[int, float]:
    """Returns the minutes of training, with compilation, until every logged step of a run.

    If the run is part of an experiment, its wall time is known. The part of it that no update took, mostly
    compilation, counts as time before the first update.

    Args:
      run: the run's work directory.
    """
    minutes, steps = [0.0], [0]
    for step, row in metrics_rows(run):
        seconds = row.get("train/seconds_per_step")
        if isinstance(seconds, (int, float)):
            minutes.append(minutes[-1] + (step - steps[-1]) * seconds / 60)
            steps.append(step)
    compilation = max(0.0, wall_minutes(run.parent).get(run.name, 0.0) - minutes[-1])
    return {step: compilation + passed for step, passed in zip(steps[1:], minutes[1:])}


def correspondence(
    folder: pathlib.Path, datasets: Collection[str], predictor: PredictorName
) -> dict[tuple[str, int | None], dict[str, float]]:
    """Returns `px` and `px_10` of every evaluated model, by its name and step, pooled over datasets.

    Every pair of a point and a view has the same weight. A model that was not evaluated on all datasets is
    left out. The baseline has a predictor of its own.

    Raises:
      UserError: if results cannot be read, or no model has the predictor.
    """
    units = _units(folder, "correspondence", datasets)
    everything = {_measured_on(unit) for unit in units}
    rows: dict[tuple[str, int | None], dict[Any, ResultRow]] = {}
    for unit in units:
        found = _find_row(unit, PredictorName("still", ALL) if unit.model.name == BASELINE else predictor)
        if found is not None:
            rows.setdefault((unit.model.name, unit.model.step), {})[_measured_on(unit)] = found
    networks = [unit for unit in units if unit.model.name != BASELINE]
    if networks and all(name == BASELINE for name, _ in rows):
        known = {f"{row.labels['predictor']} {row.labels['layer']}": None for row in networks[0].rows}
        raise UserError(
            f"--predictor={' '.join(predictor)!r} was not measured: choose from {', '.join(known)}"
        )
    return {model: _pool(found.values()) for model, found in rows.items() if found.keys() == everything}


def geometry(
    folder: pathlib.Path, datasets: Mapping[str, str]
) -> dict[tuple[str, int | None], dict[str, float]]:
    """Returns GEOMETRY_MEASURES of every evaluated model, by its name and step.

    Pairs of views have the same weight in AUC, and groups in L1. A model that was not evaluated on all
    datasets is left out.

    Args:
      folder: work directory of the evaluation.
      datasets: ROOMS or RECORDINGS, by name of the dataset.

    Raises:
      UserError: if results cannot be read.
    """
    units = _units(folder, "geometry", datasets)
    everything = {_measured_on(unit) for unit in units}
    found: dict[tuple[str, int | None], dict[Any, ResultUnit]] = {}
    for unit in units:
        found.setdefault((unit.model.name, unit.model.step), {})[_measured_on(unit)] = unit
    return {
        model: {
            f"{kind}_{metric}": value
            for kind in (ROOMS, RECORDINGS)
            for metric, value in _pool_geometry(
                [unit.rows[0] for unit in of_model.values() if datasets[unit.setting["dataset"]] == kind]
            ).items()
        }
        for model, of_model in found.items()
        if of_model.keys() == everything
    }


def _pool_geometry(rows: Sequence[ResultRow]) -> dict[str, float]:
    """Returns the metrics of GEOMETRY over the datasets of all rows; those that no row has are missing."""
    values = {}
    for metric in GEOMETRY:
        weight = "point_groups" if metric == "l1_mean" else "view_pairs"
        known = [(row.values[metric], row.values[weight]) for row in rows if metric in row.values]
        if known:
            values[metric] = sum(value * count for value, count in known) / sum(count for _, count in known)
    return values


def _units(folder: pathlib.Path, evaluator: str, datasets: Collection[str]) -> list[ResultUnit]:
    """Returns the results of an evaluator on some datasets; none if nothing was evaluated yet."""
    if not any(folder.glob(results_file.FILES)):
        return []
    return [
        unit
        for unit in results_file.read(folder)
        if unit.evaluator == evaluator and unit.setting["dataset"] in datasets
    ]


def _measured_on(unit: ResultUnit) -> tuple[Any, ...]:
    keys = ("dataset", "views", "height", "width", "enlarge", "orientations")
    return tuple(unit.setting.get(key) for key in keys)


def _find_row(unit: ResultUnit, predictor: PredictorName) -> ResultRow | None:
    """Returns the row of a predictor over all pairs of points and views, under protocol "targets"."""
    wanted = {"predictor": predictor.predictor, "protocol": "targets", "angle": ALL, "points": ALL}
    measured = [text for row in unit.rows if (text := str(row.labels.get("layer"))).isdigit()]
    layer = predictor.layer_of(unit.model.layers or max(map(int, measured), default=0))
    for row in unit.rows:
        matches = all(row.labels.get(key) == value for key, value in wanted.items())
        if matches and str(row.labels.get("layer")) == layer:
            return row
    return None


def _pool(rows: Iterable[ResultRow]) -> dict[str, float]:
    values = [row.values for row in rows]
    pairs = sum(each["pairs"] for each in values)
    mean = lambda metric: sum(each["pairs"] * each[metric] for each in values) / pairs
    return {"px": mean("px_ate"), "px_10": mean("px_10")}


def markdown_table(summaries: Sequence[Summary]) -> str:
    """Returns a table with one line per run: mean ± standard deviation over seeds."""
    measured = {measure for summary in summaries for measure in ALL_MEASURES if summary.values.get(measure)}
    measures = {key: value for key, value in GEOMETRY_MEASURES.items() if key in measured}
    if measured & MEASURES.keys() - {"minutes"} or not measured:
        measures = MEASURES
    titles = [title for title, _ in measures.values()]
    lines = [f"| run | seeds | {' | '.join(titles)} |", "| --- | ---: |" + " ---: |" * len(titles)]
    for summary in summaries:
        cells = [number_text(summary, measure) for measure in measures]
        seeds = "" if summary.name == BASELINE else str(summary.seeds)
        lines.append(f"| {summary.name} | {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def number_text(summary: Summary, measure: str) -> str:
    """Returns text such as "66.5 ± 1.2"; "66.5" for one seed, "" without a value."""
    mean, deviation, decimals = summary.mean(measure), summary.deviation(measure), ALL_MEASURES[measure][1]
    if mean is None:
        return ""
    return f"{mean:.{decimals}f}" + ("" if deviation is None else f" ± {deviation:.{decimals}f}")


def write_summaries(path: pathlib.Path, summaries: Sequence[Summary], predictor: PredictorName) -> None:
    """Writes the values of every seed as JSON, for figures."""
    runs = {
        summary.name: {key: list(values) for key, values in summary.values.items()} for summary in summaries
    }
    path.write_text(json.dumps({"predictor": " ".join(predictor), "runs": runs}, indent=1) + "\n")


def _finite(values: Iterable[float]) -> list[float]:
    return [float(x) for x in values if math.isfinite(x)]


def read_summaries(path: pathlib.Path) -> tuple[str, list[Summary]]:
    """Returns the predictor and the summaries of a file of `write_summaries`.

    Raises:
      UserError: if it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        runs = []
        for name, values in content["runs"].items():
            measured = [key for key in ALL_MEASURES if key in MEASURES or key in values]
            runs.append(Summary(name, {key: _finite(values[key]) for key in measured}))
        return str(content["predictor"]), runs
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is not a summary of an experiment: run muskie experiment first") from error
