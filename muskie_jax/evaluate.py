"""Job `evaluate`: models x evaluators x settings, one unit of work after the other, and a report.

Every unit is a line of `results.jsonl`, written when it is done. What is there is not done again: a sweep
that was killed goes on where it stopped. Hosts share the work, each into a file of its own.
"""

import datetime
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
from muskie_jax.evaluators.correspondence import CorrespondenceEvaluator
from muskie_jax.evaluators.models import Model, find_models
from muskie_jax.evaluators.reconstruction_curves import CurveSettings, ReconstructionCurves
from muskie_jax.evaluators.results import Figure, Row, Setting, SweepEvaluator
from muskie_jax.evaluators.subjects import Subject
from muskie_jax.files import made_whole
from muskie_jax.fingerprint import digest
from muskie_jax.report import results_file
from muskie_jax.report.write import write_report
from muskie_jax.sharding import make_mesh
from muskie_jax.sweep_settings import share
from muskie_jax.writers import duration, tell

JPEG_QUALITY = 90  # of figures
FIGURES = "figures"
VERSION = 1  # of what evaluators compute: raised when results are no longer those of before


class Unit(NamedTuple):
    """What is done in one go.

    Attributes:
      model, evaluator, setting: what by what, and how.
      identity: the same for the same work, in every run of the same version of the evaluation.
    """

    model: Model
    evaluator: SweepEvaluator
    setting: Setting
    identity: str


def evaluate(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Evaluates what the work directory has no results of yet, and writes the report.

    Args:
      config: see `muskie_jax.config.default_config`, its sections `sweep` and `posed`.
      workdir: gets `results.jsonl`, `figures/`, and the report.

    Returns:
      `units` of the sweep; `done`, those of this call; the paths of the report's files; `workdir`.

    Raises:
      UserError: for models or data that are not there, or cannot be used.
    """
    config_lib.validate(config)
    models = find_models(config.sweep.models, config.sweep.checkpoints, config.sweep.dtype)
    evaluators = [EVALUATORS[name](config, workdir) for name in config.sweep.evaluators]
    units = [
        Unit(model, evaluator, setting, identity_of(model, evaluator, setting, config))
        for model in models
        for evaluator in evaluators
        if evaluator.accepts(model.kind)
        for setting in evaluator.settings()
    ]
    part, parts = share_of(config)
    mine = units[len(units) * part // parts : len(units) * (part + 1) // parts]
    has_results = any(workdir.glob(results_file.FILES))
    known = {unit.unit for unit in results_file.read(workdir)} if has_results else set()
    waiting = [unit for unit in mine if unit.identity not in known]
    tell(f"{len(models)} models, {len(units)} units of work; to do here: {len(waiting)} of {len(mine)}")
    done = run_units(
        waiting, workdir, workdir / ("results.jsonl" if part == 0 else f"results.{part}.jsonl")
    )
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("evaluated")
    result = {"job": "evaluate", "units": len(units), "done": done, "workdir": str(workdir)}
    if jax.process_index() == 0:
        written = write_report(workdir)
        for place in written.values():
            tell(f"  {place}")
        result |= {name: str(place) for name, place in written.items()}
    return result


def share_of(config: ConfigDict) -> tuple[int, int]:
    """Which part of the units this process does, from 0, and how many parts there are."""
    if jax.process_count() > 1:
        return jax.process_index(), jax.process_count()
    return share(config.sweep.share)


def identity_of(model: Model, evaluator: SweepEvaluator, setting: Setting, config: ConfigDict) -> str:
    """A digest of all that results depend on, but for the version of the program."""
    name = setting["dataset"]
    data = config.posed.get(name) or config.sources.get(name)
    known = {
        "version": VERSION,
        "model": [model.name, model.kind, model.step, model.source, model.version, config.sweep.dtype],
        "evaluator": evaluator.name,
        "setting": setting,
        "data": [config.data.root, None if data is None else data.to_dict()],
    }
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:16]


def run_units(units: Sequence[Unit], workdir: pathlib.Path, path: pathlib.Path) -> int:
    """Does units in order, and appends what comes of each to a file. Returns how many gave results."""
    subject, loaded, about = None, None, None
    start, done = time.monotonic(), 0
    for number, unit in enumerate(units, 1):
        if unit.model is not loaded:
            subject = None  # before the next one comes, so that there is memory for it
            subject, loaded = unit.model.load(), unit.model
            about = describe(subject, unit.model)
        began = time.monotonic()
        found = list(unit.evaluator.evaluate(subject, unit.setting))
        rows = tuple(one for one in found if isinstance(one, Row))
        pictures = [one for one in found if isinstance(one, Figure)]
        files = tuple(
            save_figure(workdir, f"{unit.identity}_{place}", picture)
            for place, picture in enumerate(pictures)
        )
        seconds = time.monotonic() - began
        line = results_file.Unit(
            unit=unit.identity,
            model=about,
            evaluator=unit.evaluator.name,
            setting=dict(unit.setting),
            rows=rows,
            figures=files,
            seconds=round(seconds, 3),
            finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            device=f"{jax.local_device_count()} {jax.devices()[0].device_kind}",
            version=muskie_jax.__version__,
        )
        results_file.append(path, line)
        done += 1
        left = (time.monotonic() - start) / number * (len(units) - number)
        what = " ".join(str(unit.setting[key]) for key in ("dataset", "views", "height", "width"))
        tell(
            f"{number}/{len(units)}  {title(about)}  {unit.evaluator.name} {what}: {headline(rows)}"
            f"  {seconds:.1f} s, {duration(left)} left"
        )
    return done


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


def headline(rows: Sequence[Row]) -> str:
    """The figure of a unit that is looked at first."""
    for name, text in (("px_10", "{:.1f}% within 10 px"), ("mse", "masked error {:.4f}")):
        for row in rows:
            if name in row.values:
                return text.format(row.values[name])
    return "nothing to measure"


def save_figure(workdir: pathlib.Path, name: str, figure: Figure) -> results_file.FigureFile:
    """Writes a picture, whole or not at all."""
    place = f"{FIGURES}/{name}.jpg"
    with made_whole(workdir / place, force=True) as part:
        Image.fromarray(figure.pixels).save(part, quality=JPEG_QUALITY)
    return results_file.FigureFile(place, figure.kind, figure.labels, figure.caption)


def posed_sets(config: ConfigDict, views: int) -> list[PosedSet]:
    """All of config.posed, in groups of so many views."""
    return [open_posed(name, each, views, config.data.root) for name, each in config.posed.items()]


def make_correspondence(config: ConfigDict, workdir: pathlib.Path) -> CorrespondenceEvaluator:
    """On config.posed."""
    del workdir
    sweep = config.sweep
    return CorrespondenceEvaluator(
        {views: posed_sets(config, views) for views in sweep.views},
        sweep.sizes,
        points=sweep.points,
        layers=sweep.layers,
        protocols=sweep.protocols,
        pictures=sweep.pictures,
    )


def make_reconstruction(config: ConfigDict, workdir: pathlib.Path) -> ReconstructionCurves:
    """On config.posed and the held-out scenes of config.sources."""
    sweep = config.sweep
    settings = CurveSettings(
        sizes=sweep.sizes,
        views=sweep.reconstruction.views,
        references=sweep.reconstruction.references,
        modes=sweep.reconstruction.modes,
        groups=sweep.reconstruction.groups,
        pictures=sweep.pictures,
    )
    most = max(settings.views)
    mesh = make_mesh(ConfigDict({"data": -1, "fsdp": 1, "view": 1}), jax.local_devices())
    sets = posed_sets(config, most)
    if config.sources:
        sets += held_out_scenes(build_mixture(config, workdir), most, settings.groups)
    return ReconstructionCurves(sets, settings, mesh)


EVALUATORS: dict[str, Callable[[ConfigDict, pathlib.Path], SweepEvaluator]] = {
    "correspondence": make_correspondence,
    "reconstruction": make_reconstruction,
}
