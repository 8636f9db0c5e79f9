"""Job `evaluate`: models x evaluators x settings, one unit of work after the other, and a report.

Every unit is a line of `results.jsonl`, written when it is done. What is there is not done again: a sweep
that was killed goes on where it stopped. Hosts share the work, each into a file of its own.
"""

import datetime
import functools
import hashlib
import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from PIL import Image

import muskie_jax
from muskie_jax import config as config_lib
from muskie_jax.data.held_out import held_out_scenes
from muskie_jax.data.mixture import build_mixture
from muskie_jax.data.posed import PosedSet, open_posed
from muskie_jax.errors import UserError
from muskie_jax.evaluators.correspondence import CorrespondenceEvaluator
from muskie_jax.evaluators.models import Model, find_models
from muskie_jax.evaluators.reconstruction_curves import CurveSettings, ReconstructionCurves
from muskie_jax.evaluators.results import Figure, ResultRow, Setting, SweepEvaluator
from muskie_jax.evaluators.settings import parse_shard
from muskie_jax.evaluators.subjects import Subject
from muskie_jax.files import atomic_write, create_workdir
from muskie_jax.fingerprint import digest
from muskie_jax.report import results_file
from muskie_jax.report.write import write_report
from muskie_jax.sharding import make_mesh
from muskie_jax.writers import duration, log_main

JPEG_QUALITY = 90  # of figures
FIGURES = "figures"
VERSION = 1  # of what evaluators compute: raised when results are no longer those of before


class Unit(NamedTuple):
    """What is done in one go.

    Attributes:
      model, evaluator, setting: what by what, and how.
      question: see `question_of`.
      identity: the same for the same work, in every run of the same version of the evaluation.
    """

    model: Model
    evaluator: SweepEvaluator
    setting: Setting
    question: str
    identity: str


def evaluate(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Evaluates what the work directory has no results of yet, and writes the report.

    Args:
      config: see `muskie_jax.config.default_config`, its sections `sweep` and `posed`.
      workdir: gets `results.jsonl`, `figures/`, and the report.

    Returns:
      `units` of the sweep; `done`, those of this call; the paths of the report's files; `workdir`.

    Raises:
      UserError: for models or data that are not there, before anything is done; for what could not be
        loaded or used, after all else was done and the report written.
    """
    # --- What there is to do -------------------------------------------------------------------------
    config_lib.validate(config)
    create_workdir(workdir)
    models = find_models(config.evaluate.models, config.evaluate.checkpoints, config.evaluate.dtype)
    evaluators = make_evaluators(config, workdir)
    units = [
        plan_unit(model, evaluator, setting, config)
        for model in models
        for evaluator in evaluators
        if evaluator.accepts(model.kind)
        for setting in evaluator.settings()
    ]
    if not units:
        raise UserError(
            "nothing to evaluate: config.evaluate.evaluators has only 'reconstruction', which needs a "
            "Muskie among config.evaluate.models"
        )
    part, parts = shard_of(config)
    mine = units[len(units) * part // parts : len(units) * (part + 1) // parts]
    has_results = any(workdir.glob(results_file.FILES))
    known = {unit.unit for unit in results_file.read(workdir)} if has_results else set()
    waiting = [unit for unit in mine if unit.identity not in known]
    log_main(f"{len(models)} models, {len(units)} units of work; to do here: {len(waiting)} of {len(mine)}")

    # --- Do it, and report ---------------------------------------------------------------------------
    path = workdir / ("results.jsonl" if part == 0 else f"results.{part}.jsonl")
    failed = run_units(waiting, config, workdir, path)
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("evaluated")
    done = len(waiting) - len(failed)
    result = {"job": "evaluate", "units": len(units), "done": done, "workdir": str(workdir)}
    if jax.process_index() == 0 and any(workdir.glob(results_file.FILES)):
        written = write_report(workdir)
        for place in written.values():
            log_main(f"  {place}")
        result |= {name: str(place) for name, place in written.items()}
    if failed:
        more = f" (and {len(failed) - 1} more units could not be done)" if len(failed) > 1 else ""
        raise UserError(f"{failed[0]}{more}; the other {done} units are done and in the report")
    return result


def plan_unit(model: Model, evaluator: SweepEvaluator, setting: Setting, config: ConfigDict) -> Unit:
    """A unit of work and its digests."""
    question = question_of(evaluator, setting, config)
    return Unit(
        model, evaluator, setting, question, identity_of(question, setting, model, config.evaluate.dtype)
    )


def shard_of(config: ConfigDict) -> tuple[int, int]:
    """Which part of the units this process does, from 0, and how many parts there are."""
    if jax.process_count() > 1:
        return jax.process_index(), jax.process_count()
    return parse_shard(config.evaluate.shard)


def question_of(evaluator: SweepEvaluator, setting: Setting, config: ConfigDict) -> str:
    """A digest of all that results depend on but for the model: figures of one question can be compared."""
    names = {setting["dataset"], *(text.rpartition(" ")[0] for text in setting.get("distractors", ()))}
    data = {name: config.posed.get(name) or config.sources.get(name) for name in names}
    known = {
        "version": VERSION,
        "evaluator": evaluator.name,
        "setting": {name: value for name, value in setting.items() if name not in evaluator.apart},
        "data": {name: each and each.to_dict() for name, each in data.items()} | {"": config.data.root},
    }
    return _digest(known)


def identity_of(question: str, setting: Setting, model: Model, dtype: str) -> str:
    """A digest of a unit of work."""
    about = [model.name, model.kind, model.step, model.source, model.version, dtype]
    return _digest([question, setting, about])


def _digest(known: Any) -> str:
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:16]


def run_units(
    units: Sequence[Unit], config: ConfigDict, workdir: pathlib.Path, path: pathlib.Path
) -> list[str]:
    """Does units in order, and appends what comes of each to a file.

    Returns:
      Why units failed, a message for each that did.
    """
    subject, tried, start, failed = None, None, time.monotonic(), []
    for number, unit in enumerate(units, 1):
        began = time.monotonic()
        try:
            if unit.model is not tried:
                subject, tried = None, unit.model  # the last one goes before, so that there is memory
                subject = unit.model.load()
                about = describe(subject, unit.model)
                log_main(title(about))
            if subject is None:  # it could not be loaded
                failed.append(failed[-1])
                continue
            line, rows = measure(unit, subject, about, config, workdir)
        except UserError as error:
            log_main(f"  FAILED: {error}")
            failed.append(str(error))
            continue
        seconds = time.monotonic() - began
        try:
            results_file.append(path, line._replace(seconds=round(seconds, 3)))
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
        left = (time.monotonic() - start) / number * (len(units) - number)
        what = " ".join(str(unit.setting[key]) for key in ("dataset", "views", "height", "width"))
        log_main(
            f"  {number}/{len(units)}  {unit.evaluator.name}, {what}: {headline(rows)}  {seconds:.1f} s, "
            f"{duration(left)} left"
        )
    return failed


def measure(
    unit: Unit,
    subject: Subject,
    about: results_file.MeasuredModel,
    config: ConfigDict,
    workdir: pathlib.Path,
) -> tuple[results_file.Unit, tuple[ResultRow, ...]]:
    """The line of results of a unit, its pictures saved; and its rows."""
    found = list(unit.evaluator.evaluate(subject, unit.setting))
    rows = tuple(one for one in found if isinstance(one, ResultRow))
    pictures = [one for one in found if isinstance(one, Figure)]
    names = [f"{unit.identity}_{place}" for place in range(len(pictures))]
    posed = config.posed.get(unit.setting["dataset"])
    line = results_file.Unit(
        unit=unit.identity,
        model=about,
        evaluator=unit.evaluator.name,
        setting={**unit.setting, "question": unit.question, "reader": posed and posed.reader},
        rows=rows,
        figures=tuple(save_figure(workdir, *pair) for pair in zip(names, pictures)),
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        device=f"{jax.local_device_count()} {jax.devices()[0].device_kind}",
        version=muskie_jax.__version__,
    )
    return line, rows


def describe(subject: Subject, model: Model) -> results_file.MeasuredModel:
    """What the report says of a subject."""
    leaves = jax.tree.leaves(subject.params)
    return results_file.MeasuredModel(
        name=model.name,
        kind=model.kind,
        step=subject.step if subject.step is not None else model.step,
        source=model.source,
        parameters=sum(leaf.size for leaf in leaves),
        digest=digest(subject.params) if leaves else "",
    )


def title(model: results_file.MeasuredModel) -> str:
    return model.name if model.step is None else f"{model.name} (step {model.step})"


def headline(rows: Sequence[ResultRow]) -> str:
    """The figure of a unit that is looked at first: that of a plain predictor, over all that counts."""
    whole = [
        row
        for row in rows
        if {row.labels.get(key, "all") for key in ("angle", "points", "overlap")} == {"all"}
    ]
    points = [row for row in whole if "px_ate" in row.values and "+" not in row.labels["predictor"]]
    if points:
        rank = lambda row: (
            row.labels["protocol"] != "targets",
            row.labels["layer"] != "all",
            row.values["px_ate"],
        )
        row = min(points, key=rank)
        labels = row.labels
        layer = "" if labels["layer"] == "all" else f" of layer {labels['layer']}"
        share = f"{row.values['px_10']:.1f}% within 10 px"
        return f"{labels['predictor']}{layer} {share} ({labels['protocol']})"
    if whole:
        means = {row.labels["context"]: row.values["mse"] for row in whole}  # those of the most whole views
        return "masked error " + ", ".join(f"{mse:.4f} ({context})" for context, mse in means.items())
    return "nothing to measure"


def save_figure(workdir: pathlib.Path, name: str, figure: Figure) -> results_file.FigureFile:
    """Writes a picture, whole or not at all."""
    place = f"{FIGURES}/{name}.jpg"
    with atomic_write(workdir / place, force=True) as part:
        Image.fromarray(figure.pixels).save(part, quality=JPEG_QUALITY)
    return results_file.FigureFile(place, figure.kind, figure.labels, figure.caption)


OpenSets = Callable[[int], list[PosedSet]]  # all of config.posed, in groups of so many views


def make_evaluators(config: ConfigDict, workdir: pathlib.Path) -> list[SweepEvaluator]:
    """Those of config.evaluate; what is opened for one, which may read much depth, serves the other."""

    @functools.cache
    def open_sets(views: int) -> list[PosedSet]:
        return [open_posed(name, each, views, config.data.root) for name, each in config.posed.items()]

    return [EVALUATORS[name](config, workdir, open_sets) for name in config.evaluate.evaluators]


def make_correspondence(
    config: ConfigDict, workdir: pathlib.Path, open_sets: OpenSets
) -> CorrespondenceEvaluator:
    """On config.posed."""
    del workdir
    sweep = config.evaluate
    return CorrespondenceEvaluator(
        {views: open_sets(views) for views in sweep.views},
        sweep.sizes,
        points=sweep.points,
        layers=sweep.layers,
        protocols=sweep.protocols,
        pictures=sweep.pictures,
    )


def make_reconstruction(
    config: ConfigDict, workdir: pathlib.Path, open_sets: OpenSets
) -> ReconstructionCurves:
    """On config.posed and the held-out scenes of config.sources."""
    sweep = config.evaluate
    settings = CurveSettings(sizes=sweep.sizes, pictures=sweep.pictures, **sweep.reconstruction)
    most = max(settings.views)
    mesh = make_mesh(ConfigDict({"data": -1, "fsdp": 1, "view": 1}), jax.local_devices())
    sets = [*open_sets(most)]
    if config.sources:
        sets += held_out_scenes(build_mixture(config, workdir), most, settings.groups)
    return ReconstructionCurves(sets, settings, mesh)


EVALUATORS: dict[str, Callable[[ConfigDict, pathlib.Path, OpenSets], SweepEvaluator]] = {
    "correspondence": make_correspondence,
    "reconstruction": make_reconstruction,
}
