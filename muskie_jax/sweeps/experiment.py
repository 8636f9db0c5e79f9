"""Trains the runs of a sweep with several seeds, evaluates all networks, and prints a table.

    muskie experiment --config configs/controls.py --workdir runs/controls

--config is a file with a function sweep(), such as configs/controls.py, configs/recipe.py and
configs/ablations.py. A row of the table is a run: mean ± standard deviation over the seeds. One training
runs on each GPU of --gpus at a time, or two on a GPU that is named twice. Trainings that are finished are
skipped, so the same command resumes an experiment; other settings need another --workdir. --recordings is a
folder of recorded sequences to measure on; docs/experiments.md lists them. Without it, networks are
measured on synthetic rooms alone: by correspondence, or by cameras and point maps if their task is
"reconstruct". Settings such as --config.duration='100 steps' apply to all runs.
"""

import functools
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from muskie_jax import config_file
from muskie_jax.checks import require
from muskie_jax.command_line import CONFIG, FLAGS, INTERRUPTED, WORKDIR, run_command
from muskie_jax.config import total_steps, validate
from muskie_jax.errors import MACHINE_ERROR, UserError, fail
from muskie_jax.evaluators.predictions import ALL
from muskie_jax.files import create_workdir, user_path
from muskie_jax.interop.metadata import latest_evaluation
from muskie_jax.interop.sources import SourceKind, identify_source
from muskie_jax.models.muskie import VARIANTS
from muskie_jax.reconstruction.settings import has_geometry, initial_backbone
from muskie_jax.sweeps import is_complete, sweep_configs
from muskie_jax.sweeps.job_queue import Ended, Job, run_jobs
from muskie_jax.sweeps.outcomes import (
    BASELINE,
    EVALUATION,
    RECORDINGS,
    ROOMS,
    SUMMARIES,
    TRAININGS,
    folder_name,
    markdown_table,
    summarise,
    write_summaries,
)
from muskie_jax.sweeps.predictor import DEFAULT_PREDICTOR, PREDICTOR_HELP, PredictorName
from muskie_jax.sweeps.trained_settings import require_same_settings
from muskie_jax.writers import duration, log

_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds of each run: 0, 1, ...", lower_bound=1)
_RUNS = flags.DEFINE_list("runs", None, "Names of runs to train, such as recipe,adamw; by default all.")
_GPUS = flags.DEFINE_list("gpus", None, "GPUs to use, such as 0,1; by default one training runs at a time.")
_RECORDINGS = flags.DEFINE_string("recordings", None, "Folder of recorded sequences to evaluate on.")
_EVALUATION = flags.DEFINE_string(
    "evaluation",
    None,
    "Config of the evaluation; by default configs/evaluate.py, with an argument that fits.",
)
_PREDICTOR = flags.DEFINE_string("predictor", DEFAULT_PREDICTOR, PREDICTOR_HELP)
_ONLY_TABLE = flags.DEFINE_bool(
    "only_table", False, "Print the table of finished trainings, and start none."
)

NEEDED = {"config": "configs/controls.py", "workdir": "runs/controls"}
OPTIONAL = ("seeds", "runs", "gpus", "recordings", "evaluation", "predictor", "only_table")
CORRESPONDENCE, GEOMETRY = "correspondence", "geometry"  # evaluators
# Argument of configs/evaluate.py, by evaluator, and whether there are recordings.
DEFAULT_ARGUMENTS = {
    (CORRESPONDENCE, False): "",
    (CORRESPONDENCE, True): ":recordings",
    (GEOMETRY, False): ":geometry",
    (GEOMETRY, True): ":geometry_recordings",
}
STOPPED = 75  # exit status of a training that a signal or its time limit stopped
TABLE = "table.md"


def experiment() -> None:
    """Runs the experiment that the flags describe; they must be parsed."""
    logging.set_verbosity(logging.WARNING)
    jax.config.update("jax_platforms", "cpu")  # of this process, so that it takes no memory of a GPU
    failed: list[str] = []
    try:
        flag, workdir = FLAGS[CONFIG.name], user_path(WORKDIR.value or "")
        file, overrides = config_flags.get_config_filename(flag), config_flags.get_override_values(flag)
        require("seed" not in overrides, "--config.seed is set by --seeds: leave it out")
        configs = sweep_configs(file, overrides, _RUNS.value or ())
        predictor, seeds = PredictorName.parse(_PREDICTOR.value), range(_SEEDS.value)
        evaluator = _evaluator(configs)
        evaluation, settings = _evaluation(evaluator)
        _check_trained_settings(configs, seeds, workdir)
        if not _ONLY_TABLE.value:
            _check_backbones(configs, seeds)
            create_workdir(workdir)
            gpus = _GPUS.value or [""]
            failed, stopped = _train(file, configs, overrides, seeds, gpus, workdir)
            if not stopped:
                evaluate = functools.partial(_evaluate, evaluation, settings, evaluator)
                evaluated, stopped = evaluate(configs, seeds, predictor, gpus[0], workdir)
                failed += evaluated
            if stopped:
                log("stopped: the same command goes on from there")
                sys.exit(INTERRUPTED)
        steps = {name: total_steps(config) for name, config in configs.items()}
        datasets = {
            name: ROOMS if each.reader == "synthetic" else RECORDINGS
            for name, each in settings.posed.items()
        }
        summaries = summarise(workdir, steps, seeds, datasets, predictor)
        require(
            any(summary.name != BASELINE for summary in summaries),
            f"no training in {workdir} is finished with these settings{_see(failed)}",
        )
        table = markdown_table(summaries)
        if not _ONLY_TABLE.value:
            write_summaries(workdir / SUMMARIES, summaries, predictor)
            (workdir / TABLE).write_text(table + "\n", encoding="utf-8")
    except UserError as error:
        fail(str(error))
    except OSError as error:  # of a disk that is full or gone
        fail(
            f"the experiment ended ({error}): fix the cause, then run the same command again", MACHINE_ERROR
        )
    print(table)
    if failed:
        fail(f"not complete: {', '.join(failed)}{_see(failed)}")


def _see(failed: Sequence[str]) -> str:
    return ": see logs/*.txt there, then run the same command again" if failed else ""


def _evaluator(configs: Mapping[str, ConfigDict]) -> str:
    """Returns the evaluator that measures what the runs are for."""
    geometric = {has_geometry(config) for config in configs.values()}
    require(len(geometric) == 1, "runs of one experiment must have one config.task: select some by --runs=")
    return GEOMETRY if geometric.pop() else CORRESPONDENCE


def _check_backbones(configs: Mapping[str, ConfigDict], seeds: Sequence[int]) -> None:
    """Raises UserError if weights that a run starts from do not exist."""
    for run, config in configs.items():
        for seed in seeds if has_geometry(config) else ():
            source = initial_backbone(config.reconstruct, seed)
            missing = (SourceKind.MISSING, SourceKind.NO_WEIGHTS)
            if source and identify_source(source).kind in missing:
                raise UserError(
                    f"run {run!r} with seed {seed} starts from the weights {source}, which do not exist: "
                    "train them first, or leave the run out, by --runs="
                )


def _check_trained_settings(
    configs: Mapping[str, ConfigDict], seeds: Sequence[int], workdir: pathlib.Path
) -> None:
    """Raises UserError if a folder of the experiment has a training of other settings."""
    for run, config in configs.items():
        for seed in seeds:
            wanted = config.copy_and_resolve_references()
            wanted.seed = seed
            require_same_settings(wanted, workdir / folder_name(run, seed))


def _evaluation(evaluator: str) -> tuple[str, ConfigDict]:
    """Returns the config file of the evaluation, with its argument, and the config."""
    default = pathlib.Path(config_file.__file__).parents[1] / config_file.CONFIGS / "evaluate.py"
    argument = DEFAULT_ARGUMENTS[evaluator, bool(_RECORDINGS.value)]
    file = _EVALUATION.value or f"{default}{argument}"
    try:
        config = config_file.load_config(file)
    except UserError as error:
        raise UserError(f"--evaluation={file}: {error}") from error
    if _RECORDINGS.value:
        root = user_path(_RECORDINGS.value)
        require(root.is_dir(), f"--recordings={root} is not a folder: choose a folder of sequences")
        config.data.root = str(root.absolute())
    validate(config)
    require(len(config.posed) > 0, f"--evaluation={file} has no config.posed: {evaluator} needs cameras")
    return file, config


def _train(
    file: str,
    configs: Mapping[str, ConfigDict],
    overrides: Mapping[str, Any],
    seeds: Sequence[int],
    gpus: Sequence[str],
    workdir: pathlib.Path,
) -> tuple[list[str], bool]:
    """Trains what is not complete, seed by seed.

    Returns:
      The names of the trainings that failed, and whether a signal stopped the experiment.
    """
    separator = "," if ":" in file else ":"
    shared = [f"--config.{path}={value}" for path, value in overrides.items()]
    config_of: dict[str, ConfigDict] = {}
    jobs = []
    for seed in seeds:
        for run, config in configs.items():
            name = folder_name(run, seed)
            if is_complete(config, workdir / name):
                continue
            config_of[name] = config
            arguments = ["--config", f"{file}{separator}{run}", "--workdir", str(workdir / name)]
            arguments += [f"--stopped_exit_code={STOPPED}", f"--config.seed={seed}", *shared]
            jobs.append(_job(name, arguments, workdir))
    log(f"{len(configs) * len(seeds)} trainings, {len(jobs)} to do")
    failed: list[str] = []

    def on_end(ended: Ended) -> None:
        name = ended.job.name
        record = {"name": name, "seconds": round(ended.seconds, 1), "status": ended.status}
        try:
            with (workdir / TRAININGS).open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(record) + "\n")
        except OSError as error:  # the others go on
            log(f"  {name}: its time is not recorded ({error})")
        if ended.status == 0 and is_complete(config_of[name], workdir / name):
            outcome = _describe(latest_evaluation(workdir / name, total_steps(config_of[name])))
        else:
            failed.append(name)
            outcome = "stopped" if ended.status == STOPPED else f"FAILED: {ended.reason()}"
        log(f"  {name}: {outcome}, after {duration(ended.seconds)}")

    return failed, run_jobs(jobs, gpus, _announce, on_end)


def _evaluate(
    file: str,
    settings: ConfigDict,
    evaluator: str,
    configs: Mapping[str, ConfigDict],
    seeds: Sequence[int],
    predictor: PredictorName,
    gpu: str,
    workdir: pathlib.Path,
) -> tuple[list[str], bool]:
    """Evaluates all complete networks that have no results yet; returns as `_train`."""
    folders = [
        str(workdir.absolute() / folder_name(run, seed))
        for run, config in configs.items()
        for seed in seeds
        if is_complete(config, workdir / folder_name(run, seed))
    ]
    if not folders:
        return [], False
    arguments = ["--config", file, "--workdir", str(workdir / EVALUATION)]
    arguments += [f"--config.evaluate.models={tuple(folders)}", "--config.evaluate.checkpoints=last"]
    arguments += [f"--config.evaluate.evaluators=('{evaluator}',)", "--config.evaluate.pictures=0"]
    if evaluator == CORRESPONDENCE and predictor.layer != ALL:
        # Each other layer would take as long again.
        layers = {
            int(predictor.layer_of(VARIANTS[config.model.variant].depth)) for config in configs.values()
        }
        arguments += [f"--config.evaluate.layers={tuple(sorted(layers))}"]
    arguments += [f"--config.data.root={settings.data.root}"] if settings.data.root else []
    failed: list[str] = []

    def on_end(ended: Ended) -> None:
        if ended.status != 0:
            failed.append(ended.job.name)
            log(f"  {ended.job.name} FAILED: {ended.reason()}")

    log(f"Evaluating {len(folders)} networks")
    return failed, run_jobs([_job(EVALUATION, arguments, workdir)], [gpu], _announce, on_end)


def _job(name: str, arguments: Sequence[str], workdir: pathlib.Path) -> Job:
    command = (sys.executable, "-m", "muskie_jax.main", *arguments)
    return Job(name, command, workdir / "logs" / f"{name}.txt")


def _describe(errors: Mapping[str, float]) -> str:
    """Returns the errors on held-out scenes of a complete training as text."""
    titles = {"mse": "masked error", "baseline_mse": "visible-mean"}
    if "mse" not in errors:
        titles = {"loss": "loss", "points": "points"}
    return ", ".join(f"{title} {errors[key]:.4f}" for key, title in titles.items() if key in errors)


def _announce(job: Job, gpu: str) -> None:
    log(f"  {job.name}{f' on GPU {gpu}' if gpu else ''}: {job.log}")


def main(invocation: str = "python -m muskie_jax.sweeps.experiment") -> None:
    """Runs the experiment in `sys.argv`. `invocation` is how messages refer to the program."""
    run_command(invocation, __doc__ or "", experiment, NEEDED, OPTIONAL)


if __name__ == "__main__":
    main()
