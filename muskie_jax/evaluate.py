"""Job `evaluate`: runs every evaluator, with every setting, on every model, and writes a report.

A unit of work is one model, one evaluator and one setting. The result of each finished unit is appended to
`results.jsonl`. Finished units are not repeated, so a killed run resumes where it stopped. Several hosts
split the units; each writes its own file.
"""

import datetime
import functools
import itertools
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict
from PIL import Image

import muskie_jax
from muskie_jax import config as config_lib
from muskie_jax.checkpoints.ownership import require_outside_of_checkpoints
from muskie_jax.data.held_out import held_out_scenes
from muskie_jax.data.mixture import NOT_READ, build_mixture, index_folder
from muskie_jax.data.posed import PosedSet, open_posed
from muskie_jax.errors import UserError
from muskie_jax.evaluators.contexts import ViewSet
from muskie_jax.evaluators.correspondence import CorrespondenceEvaluator
from muskie_jax.evaluators.digests import protocol_digest, unit_identity
from muskie_jax.evaluators.epipolar import EpipolarEvaluator
from muskie_jax.evaluators.eval_models import STILL, EvalModel
from muskie_jax.evaluators.headline import headline
from muskie_jax.evaluators.model_specs import ModelSpec, find_models
from muskie_jax.evaluators.point_maps import PointMapEvaluator
from muskie_jax.evaluators.pose_probe import PoseProbeEvaluator
from muskie_jax.evaluators.recall import RecallEvaluator
from muskie_jax.evaluators.reconstruction_curves import CurveSettings, ReconstructionCurves
from muskie_jax.evaluators.results import Figure, ResultRow, Setting, SweepEvaluator
from muskie_jax.evaluators.settings import parse_shard
from muskie_jax.evaluators.training_scenes import choose_holdouts, trained_folders
from muskie_jax.files import atomic_write
from muskie_jax.gpu.determinism import require_deterministic_programs
from muskie_jax.processes.workdir_lock import exclusive
from muskie_jax.report import results_file
from muskie_jax.report.results_file import TRAINING_GROUPS, FigureFile, ResultUnit
from muskie_jax.report.write import write_report
from muskie_jax.sharding import make_mesh
from muskie_jax.storage.address import prepare_workdir
from muskie_jax.storage.mirror import LocalFiles, local_files
from muskie_jax.writers import duration, log_main

JPEG_QUALITY = 90  # JPEG quality of figures
FIGURES = "figures"
EARLIER_FILES = (results_file.FILES, f"{FIGURES}/*")  # files that an evaluation continues
DID_NOT_MOVE = "did not move=still"  # the trivial baseline, part of every sweep of these evaluators
WITH_BASELINE = (CorrespondenceEvaluator.name, PointMapEvaluator.name)


class WorkUnit(NamedTuple):
    """A unit of work.

    Attributes:
      model, evaluator, setting: the model, and how to evaluate it.
      protocol_digest: result of the function `protocol_digest`.
      identity: digest of the unit, the same in all runs of this version of the evaluation.
    """

    model: ModelSpec
    evaluator: SweepEvaluator
    setting: Setting
    protocol_digest: str
    identity: str


def evaluate(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Runs all units without results in the work directory, and writes the report.

    Args:
      config: the config (`muskie_jax.config.default_config`), mainly its sections `evaluate` and `posed`.
      workdir: folder of `results.jsonl`, `figures/` and the report; may be in object storage.

    Returns:
      `units`, the number of units in the sweep; `done`, the number that this call finished; `held_out`,
      whether no model is evaluated on scenes that it was trained on, as far as is known; the paths of the
      report's files; and `workdir`.

    Raises:
      UserError: before any work, if models or data do not exist, or if another job writes the same
        results. If a model or data could not be loaded or used, it is raised after all other units are done
        and the report is written.
    """
    config_lib.validate(config)
    if config.deterministic:
        require_deterministic_programs()
    require_outside_of_checkpoints(workdir)
    workdir = prepare_workdir(workdir)
    shard, shards = work_shard(config)
    name = "results" if shard == 0 else f"results.{shard}"
    with exclusive(workdir / f"{name}.lock"), local_files(workdir, EARLIER_FILES) as files:
        result = _evaluate(config, files, files.folder / f"{name}.jsonl", shard, shards)
    return result | {"workdir": str(workdir)}


def _evaluate(
    config: ConfigDict, files: LocalFiles, path: pathlib.Path, shard: int, shards: int
) -> dict[str, Any]:
    workdir = files.folder
    # --- Plan ----------------------------------------------------------------------------------------
    models = find_models(config.evaluate.models, config.evaluate.checkpoints, config.evaluate.dtype)
    config = choose_holdouts(config, models)
    evaluators = make_evaluators(config, workdir)
    units = list(plan_units(models, evaluators, config))
    if not units:
        raise UserError(
            "nothing to evaluate: none of config.evaluate.evaluators applies to config.evaluate.models; "
            "'reconstruction' and 'geometry' need a Muskie among them"
        )
    needs_baseline = any(name in WITH_BASELINE for name in config.evaluate.evaluators)
    if needs_baseline and all(model.kind != STILL for model in models):
        baseline = find_models([DID_NOT_MOVE], "last", config.evaluate.dtype)
        models += baseline
        units += plan_units(baseline, evaluators, config)
    trained_on = count_training_groups(units, index_folder(config, workdir))
    mine = units[len(units) * shard // shards : len(units) * (shard + 1) // shards]
    has_results = any(workdir.glob(results_file.FILES))
    finished = {unit.identity for unit in results_file.read(workdir)} if has_results else set()
    pending = [unit for unit in mine if unit.identity not in finished]
    log_main(f"{len(models)} models, {len(units)} units of work; to do here: {len(pending)} of {len(mine)}")

    # --- Run, and report -----------------------------------------------------------------------------
    failures = run_units(pending, config, workdir, path, trained_on)
    files.upload()
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices("evaluated")
    done = len(pending) - len(failures)
    result: dict[str, Any] = {"job": "evaluate", "units": len(units), "done": done}
    result["held_out"] = not any(trained_on.values())
    if jax.process_index() == 0:
        files.download(EARLIER_FILES)  # of other processes and shards
    if jax.process_index() == 0 and any(workdir.glob(results_file.FILES)):
        report = write_report(workdir)
        for file in report.values():
            log_main(f"  {files.shown(file)}")
        result |= {name: files.shown(file) for name, file in report.items()}
    if failures:
        more = f" (and {len(failures) - 1} more units failed)" if len(failures) > 1 else ""
        raise UserError(f"{failures[0]}{more}; the other {done} units are done and in the report")
    return result


def plan_units(
    models: Sequence[ModelSpec], evaluators: Sequence[SweepEvaluator], config: ConfigDict
) -> Iterator[WorkUnit]:
    """Yields all units of a sweep, model by model."""
    for model in models:
        for evaluator in evaluators:
            if not evaluator.accepts(model.kind):
                continue
            for setting in evaluator.settings():
                digest = protocol_digest(evaluator, setting, config)
                identity = unit_identity(digest, setting, model, config.evaluate.dtype)
                yield WorkUnit(model, evaluator, setting, digest, identity)


def count_training_groups(units: Sequence[WorkUnit], cache: pathlib.Path | None) -> dict[str, int]:
    """Returns, by a unit's identity, how many of its groups show scenes that its model was trained on.

    Logs a line per dataset and model with such groups. Units without any are left out.
    """
    folders = {id(unit): unit.evaluator.image_folders(unit.setting) for unit in units}
    evaluated = frozenset(itertools.chain.from_iterable(folders.values()))
    trained = functools.cache(lambda model: trained_folders(model, evaluated, cache))
    counts, lines = {}, []
    for unit in units if evaluated else ():
        count = sum(folder in trained(unit.model) for folder in folders[id(unit)])
        if count:
            counts[unit.identity] = count
            lines.append(
                f"{unit.setting['dataset']}: {count} of {len(folders[id(unit)])} groups show scenes that "
                f"{unit.model.name} was trained on"
            )
    for line in dict.fromkeys(lines):
        log_main(f"WARNING: {line}")
    return counts


def work_shard(config: ConfigDict) -> tuple[int, int]:
    """Returns the index of this process's shard of the units, from 0, and the number of shards."""
    if jax.process_count() > 1:
        return jax.process_index(), jax.process_count()
    return parse_shard(config.evaluate.shard)


def run_units(
    units: Sequence[WorkUnit],
    config: ConfigDict,
    workdir: pathlib.Path,
    path: pathlib.Path,
    trained_on: Mapping[str, int],
) -> list[str]:
    """Runs units in order, and appends each result to a file.

    A unit that raises UserError does not stop later units. `trained_on` is the result of
    `count_training_groups`.

    Returns:
      One error message per failed unit.
    """
    spec: ModelSpec | None = None
    model: EvalModel | None = None
    start, failures = time.monotonic(), []
    for number, unit in enumerate(units, 1):
        unit_start = time.monotonic()
        try:
            if unit.model is not spec:
                spec, model = unit.model, None  # frees the previous model before the next is loaded
                model = spec.load()
                log_main(model.info.title)
            if model is None:  # an earlier unit of this model failed to load it
                failures.append(failures[-1])
                continue
            result = run_unit(unit, model, config, workdir, trained_on.get(unit.identity, 0))
        except UserError as error:
            if str(error) not in failures:  # units that share data fail alike
                log_main(f"  FAILED: {error}")
            failures.append(str(error))
            continue
        seconds = time.monotonic() - unit_start
        try:
            results_file.append(path, result._replace(seconds=round(seconds, 3)))
        except OSError as error:
            raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
        remaining = (time.monotonic() - start) / number * (len(units) - number)
        setting = " ".join(str(unit.setting[key]) for key in ("dataset", "views", "height", "width"))
        log_main(
            f"  {number}/{len(units)}  {unit.evaluator.name}, {setting}: {headline(result.rows)}  "
            f"{seconds:.1f} s, {duration(remaining)} left"
        )
    return failures


def run_unit(
    unit: WorkUnit, model: EvalModel, config: ConfigDict, workdir: pathlib.Path, training_groups: int
) -> ResultUnit:
    """Evaluates one unit, saves its figures and returns its result, without its duration."""
    outputs = list(unit.evaluator.evaluate(model, unit.setting))
    figures = [output for output in outputs if isinstance(output, Figure)]
    posed = config.posed.get(unit.setting["dataset"])
    # Results files call the protocol's digest "question".
    more = {"question": unit.protocol_digest, "reader": posed and posed.reader}
    more |= {TRAINING_GROUPS: training_groups} if training_groups else {}
    return ResultUnit(
        identity=unit.identity,
        model=model.info,
        evaluator=unit.evaluator.name,
        setting={**unit.setting, **more},
        rows=tuple(output for output in outputs if isinstance(output, ResultRow)),
        figures=tuple(
            save_figure(workdir, f"{unit.identity}_{number}", figure)
            for number, figure in enumerate(figures)
        ),
        finished=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        device=f"{jax.local_device_count()} {jax.devices()[0].device_kind}",
        version=muskie_jax.__version__,
    )


def save_figure(workdir: pathlib.Path, name: str, figure: Figure) -> FigureFile:
    """Writes a figure atomically: a JPEG file, and its page beside it."""
    file = f"{FIGURES}/{name}.jpg"
    with atomic_write(workdir / file, force=True) as part:
        Image.fromarray(figure.pixels).save(part, quality=JPEG_QUALITY)
    page = f"{FIGURES}/{name}.html" if figure.page else ""
    if page:
        with atomic_write(workdir / page, force=True) as part:
            part.write_text(figure.page, encoding="utf-8")
    return FigureFile(file, figure.kind, figure.labels, figure.caption, page)


OpenSets = Callable[[int], list[PosedSet]]  # view count -> all of config.posed, in groups of that size


def make_evaluators(config: ConfigDict, workdir: pathlib.Path) -> list[SweepEvaluator]:
    """Returns the evaluators of config.evaluate. They share datasets, which are slow to open."""

    @functools.cache
    def open_sets(views: int) -> list[PosedSet]:
        return [open_posed(name, each, views, config.data.root) for name, each in config.posed.items()]

    names = config.evaluate.evaluators
    return [each for name in names for each in EVALUATORS[name](config, workdir, open_sets)]


def make_correspondence(
    config: ConfigDict, workdir: pathlib.Path, open_sets: OpenSets
) -> list[SweepEvaluator]:
    """Returns the correspondence evaluator, on config.posed; for recordings without depth, another one."""
    del workdir
    settings = config.evaluate
    sets = {views: open_sets(views) for views in settings.views}
    choose = lambda has_depth: {
        views: [each for each in opened if each.has_depth == has_depth] for views, opened in sets.items()
    }
    options = {key: settings[key] for key in ("points", "layers", "pictures", "enlarge", "orientations")}
    return [
        CorrespondenceEvaluator(choose(True), settings.sizes, protocols=settings.protocols, **options),
        EpipolarEvaluator(choose(False), settings.sizes, **options),
    ]


def make_reconstruction(
    config: ConfigDict, workdir: pathlib.Path, open_sets: OpenSets
) -> list[SweepEvaluator]:
    """Returns the reconstruction evaluator, on config.posed and the held-out scenes of config.sources."""
    curves: Mapping[str, Any] = config.evaluate.reconstruction
    settings = CurveSettings(sizes=config.evaluate.sizes, pictures=config.evaluate.pictures, **curves)
    max_views = max(settings.views)
    mesh = make_mesh(ConfigDict({"data": -1, "fsdp": 1, "view": 1}), jax.local_devices())
    sets: list[ViewSet] = [*open_sets(max_views)]
    if config.sources:
        mixture = build_mixture(config, workdir)
        for note in mixture.notes:
            if NOT_READ in note:  # the other notes are about training
                log_main(note)
        whole = [name for name, source in config.sources.items() if source.get("holdout") == 0]
        sets += held_out_scenes(mixture, max_views, settings.groups, whole)
    return [ReconstructionCurves(sets, settings, mesh)]


def make_posed_evaluator(
    kind: type[PointMapEvaluator | RecallEvaluator | PoseProbeEvaluator],
    config: ConfigDict,
    workdir: pathlib.Path,
    open_sets: OpenSets,
) -> list[SweepEvaluator]:
    """Returns an evaluator that needs only config.posed."""
    del workdir
    return [kind.of(config.evaluate, {views: open_sets(views) for views in config.evaluate.views})]


EVALUATORS: dict[str, Callable[[ConfigDict, pathlib.Path, OpenSets], list[SweepEvaluator]]] = {
    "correspondence": make_correspondence,
    "reconstruction": make_reconstruction,
    **{
        kind.name: functools.partial(make_posed_evaluator, kind)
        for kind in (PointMapEvaluator, RecallEvaluator, PoseProbeEvaluator)
    },
}
