"""Job `train`: trains a network."""

import contextlib
import functools
import importlib.util
import math
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from muskie_jax import config as config_lib
from muskie_jax import goodput as goodput_lib
from muskie_jax.checkpoint import Checkpointer
from muskie_jax.checkpoints.disk import check_disk
from muskie_jax.checkpoints.ownership import exclusive_run, require_outside_of_checkpoints
from muskie_jax.checkpoints.saved_steps import METRICS, SPIKE
from muskie_jax.checkpoints.schedule import SaveSchedule, evaluates_first, is_multiple
from muskie_jax.data import changes
from muskie_jax.data.mixture import Mixture, build_mixture, training_sampler
from muskie_jax.data.pipeline import Pipeline
from muskie_jax.errors import NotFinite, SaveFailed, UserError, first_line
from muskie_jax.evaluators.geometry import GeometryEvaluator
from muskie_jax.evaluators.held_out import HeldOutEvaluator
from muskie_jax.evaluators.reconstruction import ReconstructionEvaluator
from muskie_jax.fingerprint import LoweredExaminations, digest
from muskie_jax.goodput import Goodput
from muskie_jax.gpu.determinism import require_deterministic_programs
from muskie_jax.interop.best_weights import write_best_weights
from muskie_jax.interop.initial_backbone import read_backbone, start_from
from muskie_jax.metrics import MetricsQueue, check_final_error, describe_skipped, scalars
from muskie_jax.optim import learning_rate_schedule, make_optimizer
from muskie_jax.perf.profiling import StepProfile
from muskie_jax.processes.interrupt import StopSignal
from muskie_jax.processes.peers import raise_together
from muskie_jax.processes.same_run import require_same_config, require_shared
from muskie_jax.processes.watchdog import Watchdog
from muskie_jax.programs import (
    FINGERPRINTS,
    INITIAL_STATE,
    Lower,
    Programs,
    batch_shapes,
    explain_out_of_memory,
    fast_compilation,
    training_programs,
)
from muskie_jax.progress import Progress, describe_attention, describe_changes, describe_parameters
from muskie_jax.reconstruction.settings import has_geometry
from muskie_jax.reconstruction.task import ReconstructTask
from muskie_jax.rendering import BatchPlacer
from muskie_jax.sharding import check_batch, make_mesh
from muskie_jax.storage.address import prepare_workdir
from muskie_jax.storage.mirror import LocalFiles, local_files
from muskie_jax.supply import Supply
from muskie_jax.train_step import Pretraining, StateInitializer, Task, make_task
from muskie_jax.wandb_run import RUN_FILE
from muskie_jax.writers import Writers, log_main, save_picture

LOCK = "train.lock"
CONTINUED_FILES = (METRICS, RUN_FILE, goodput_lib.FILE, changes.FILE)  # files that a resumed run reads


def train(
    config: ConfigDict, workdir: pathlib.Path, devices: Sequence[jax.Device] | None = None
) -> dict[str, Any]:
    """Trains to the last step, from the newest intact checkpoint of the work directory if there is one.

    Args:
      config: the config, see `muskie_jax.config.default_config`.
      workdir: folder of checkpoints, metrics and pictures; may be in object storage.
      devices: devices to train on; all devices by default.

    Returns:
      The final figures: `step`; `loss`, `mse` and `baseline_mse` on held-out scenes; `train_loss`;
      `views_per_second`; `params_digest`. If a signal stopped the run early, `stopped` names it and
      the three evaluation figures are None.

    Raises:
      UserError: if the config, the data or the work directory does not allow training, or if another job
        trains in it.
      NotFinite: if the loss is not finite, and the state is then not saved; or if the final evaluation is
        not finite, after everything was saved.
      SaveFailed: if a checkpoint cannot be saved.
      Hung: if no batch arrives within `config.watchdog.batch_minutes`.
      RunFailed: in all of several processes, if an error of the data ended the run after all have saved.

    With one process, every other error in the loop saves the state before it is raised.
    """
    config_lib.validate(config)
    if config.deterministic:
        require_deterministic_programs()
    require_same_config(config)
    require_outside_of_checkpoints(workdir)
    workdir = prepare_workdir(workdir)
    is_main = jax.process_index() == 0
    with (
        exclusive_run(workdir, LOCK),
        local_files(workdir, CONTINUED_FILES) as files,
        Goodput(files.folder if is_main else None) as goodput,
    ):
        require_shared(workdir)
        return _train(config, workdir, files, devices, goodput)


def _train(
    config: ConfigDict,
    workdir: pathlib.Path,
    files: LocalFiles,
    devices: Sequence[jax.Device] | None,
    goodput: Goodput,
) -> dict[str, Any]:
    # --- Config, data, devices ---------------------------------------------------------------------
    stop = StopSignal(config.max_minutes)  # the time limit includes compilation
    total_steps = config_lib.total_steps(config)
    mesh = make_mesh(config.mesh, devices)
    check_batch(config, mesh)
    mixture = build_mixture(config, files.folder)
    for note in mixture.notes:
        log_main(note)
    sampler = training_sampler(config, mixture)
    geometry = has_geometry(config)
    placer = BatchPlacer(config.batch.groups, mixture.worlds, mixture.photos, mesh, geometry)
    log_main(f"Devices: {mesh.size} {mesh.devices.flat[0].device_kind}, mesh {dict(mesh.shape)}")

    # --- Model and optimizer -----------------------------------------------------------------------
    task = make_task(config, mesh, len(mixture.names))
    model, optimizer = task.model, make_optimizer(config)
    initialise = StateInitializer(model, optimizer, mesh)
    state_shapes = initialise.shapes
    describe_parameters(state_shapes.params)
    describe_attention(task.backbone, sampler.schedule.all())

    # --- Start or continue -------------------------------------------------------------------------
    saving = config.checkpoint
    checkpoints = Checkpointer(workdir, saving.keep, saving.keep_every, saving.keep_best)
    restored = checkpoints.restore(state_shapes, config)
    first_step = 0
    if restored:
        first_step, old_config = int(restored[0].step), restored[1]
        log_main(f"Continuing from step {first_step} in {checkpoints.folder}")
        if first_step > 0:  # at step 0 the weights are imported, and the saved config was never used
            describe_changes(old_config, config)
    if jax.process_index() == 0:
        differences = changes.data_changes(mixture, files.folder)
        for difference in differences if first_step > 0 else ():
            log_main(f"  {difference}")
    checkpoints.measure_on(changes.measured_on(config, mixture), first_step)
    if first_step > total_steps:
        raise UserError(
            f"{checkpoints.folder} is at step {first_step}, beyond config.duration="
            f"{config.duration!r} ({total_steps} steps): use a longer duration or another --workdir"
        )
    check_disk(workdir, state_shapes, saving, checkpoints.delete_old)

    goodput.continue_from(first_step, finished=first_step == total_steps)
    given = {} if restored else read_backbone(config, state_shapes.params)
    writers = Writers(files.folder, first_step, config)

    # --- Programs ----------------------------------------------------------------------------------
    loaded = config.batch
    shapes = {
        bucket: batch_shapes(bucket, loaded.groups, loaded.views, config.model.patch, mesh, geometry)
        for bucket in sampler.schedule.all()
    }
    evaluator = make_evaluator(config, task, mixture, mesh)
    others: dict[str, Lower] = {
        **placer.to_compile(sampler.schedule.all(), config.batch.views),
        **evaluator.to_compile(state_shapes.params),
        FINGERPRINTS: functools.partial(LoweredExaminations, state_shapes),  # so that no save compiles
    }
    per_update = sampler.schedule.batches_per_update
    training = training_programs(task, optimizer, state_shapes, shapes, per_update, mesh)
    key = jax.random.key(config.seed)
    if not restored:
        others[INITIAL_STATE] = functools.partial(initialise.lower, key)
    options = fast_compilation(mesh) if config.fast_compile else None
    programs = Programs(training, others, compiler_options=options)
    if first_step < total_steps:
        with goodput.during(goodput_lib.COMPILE):
            programs.compile()
        programs.check_memory(state_shapes, mesh.local_devices[0], config)
    state = restored[0] if restored else start_from(given, initialise(key))

    # --- Loop: take a batch, start the update, report, evaluate, save --------------------------------
    watchdog = Watchdog(config.watchdog, files.folder, checkpoints.describe_restart)
    with watchdog, watchdog.batches("loading held-out images", "batch_minutes", evaluator.total_batches):
        evaluator.load()  # an unreadable held-out image ends the run now, not hours later
    pipeline = Pipeline(sampler, placer.rows, config.data.workers, config.data.threads)
    progress = Progress(task.model, mesh.devices.flat[0], mesh.size, first_step, total_steps)
    learning_rate = jax.jit(learning_rate_schedule(config))  # one program instead of one for each operation
    metrics = MetricsQueue(sources=mixture.names, max_skipped=config.optim.max_skipped)
    schedule = SaveSchedule(saving.every, saving.keep_every, saving.minutes, config.log.every)
    profile = StepProfile(config.profile.steps, files.folder / "profile")

    def copy_to_devices(update):
        return [(bucket, placer(bucket, batch)) for bucket, batch in update]

    guarded_copy = functools.partial(programs.capture_guard.run_copy, copy_to_devices)
    supply = Supply(pipeline, guarded_copy, stop, metrics.lag, config, files.folder)
    step, train_loss, stopping = first_step, math.nan, False
    saved_step = first_step  # without a finished update, there is nothing to save

    def save() -> None:
        nonlocal saved_step
        metrics.wait()
        checkpoints.spike = metrics.spike or checkpoints.spike
        saved_step = step  # also if the save fails: it would fail again
        with (
            progress.paused(),
            goodput.during(goodput_lib.SAVE),
            watchdog.save(step, checkpoints.is_saving),
        ):
            try:  # first: a run that continues from the checkpoint does not repeat these lines
                writers.flush()
                files.upload()
            except OSError as error:  # the state is worth more
                log_main(f"WARNING: the figures until step {step} could not be written: {error}")
            checkpoints.save(state, config)

    def evaluate_now(while_writing: contextlib.AbstractContextManager[None] | None = None) -> None:
        with (
            progress.paused(),
            goodput.during(goodput_lib.EVALUATION),
            programs.capture_guard.without_copies(),
        ):
            values = evaluate(evaluator, state.params, step, writers, files.folder, watchdog, while_writing)
        checkpoints.errors[step] = values[evaluator.error]

    with (
        explain_out_of_memory("this batch, with everything else in memory,"),
        stop,
        watchdog,
        contextlib.closing(profile),
        contextlib.closing(checkpoints),  # waits for a save in progress, even after an error
        supply.open(first_step, total_steps),
        jax.transfer_guard("disallow"),  # implicit copies hide in loops and cost time
        saved_on_error(save, is_needed=lambda: step != saved_step),
    ):
        with watchdog.batches("agreeing whether to evaluate at the start", "step_minutes", 1):
            evaluated = evaluates_first(first_step, config.evaluation, checkpoints.errors)
        if evaluated and first_step < total_steps:
            evaluate_now()
        goodput.begin(goodput_lib.STEPS)
        while step < total_steps and not stopping:
            with progress.waiting(), goodput.during(goodput_lib.DATA_WAIT):
                update = supply.take(step)
            if update is None:
                stopping = True
                break
            profile.before(step + 1)
            with watchdog.update(step + 1) as watch:
                state, measured = programs.update(state, update)
                watch(measured)
            step += 1
            profile.after(step, measured)
            metrics.add(step, measured, " and ".join(str(bucket) for bucket, _ in update))
            progress.count(update)
            stopping = stop.requested(step)
            last = stopping or step == total_steps
            if step % config.log.every == 0 or last:
                values = scalars(metrics.drain(), mixture.names, task.shown) | progress.interval(step)
                values["skipped"] = len(metrics.skipped)
                goodput.reached(step, finished=step == total_steps)
                values["goodput"] = goodput.share()
                train_loss = values["loss"]
                log_main(progress.line(values, task.shown))
                if metrics.skipped:
                    values[SPIKE] = float(metrics.spike or 0)
                    log_main(describe_skipped(metrics.skipped))
                values["learning_rate"] = float(jax.device_get(learning_rate(jax.device_put(step - 1))))
                writing = watchdog.batches(f"writing the figures of update {step}", "step_minutes", 1)
                with supply.stops_all(), writing:
                    writers.scalars(step, "train", values)
                    pipeline.check_bad_fraction(config.data.max_bad_fraction)
            evaluated = is_multiple(step, config.evaluation.every) and not last
            if evaluated:
                metrics.wait()
                evaluate_now(supply.stops_all())
            checkpoints.check()
            with watchdog.batches(f"agreeing whether to save after update {step}", "step_minutes", 1):
                due = schedule.is_due(step)
            if due or last or (evaluated and saving.keep_best):
                metrics.wait()
                if metrics.streak and not last:  # this state may be ruined, and would push out a good one
                    log_main(f"step {step} is not saved, because its update was skipped")
                else:
                    save()
                    schedule.saved()
        if step != saved_step:  # a stop was requested while a batch was awaited
            save()
        goodput.begin(goodput_lib.SAVE)  # the contexts above wait for a save in progress
    goodput.begin(goodput_lib.END)
    raise_together(supply.failure, files.folder)

    # --- Summary -----------------------------------------------------------------------------------
    for line in pipeline.skipped_lines():
        log_main(line)
    result: dict[str, Any] = {"job": "train", "step": step} | dict.fromkeys(evaluator.measures)
    if stopping:
        result["stopped"] = stop.name
    else:
        with watchdog, goodput.during(goodput_lib.EVALUATION):
            result |= evaluate(evaluator, state.params, step, writers, files.folder, watchdog)
    writers.scalars(step, "goodput", goodput.seconds())
    writers.close()
    if not stopping:
        check_final_error(result[evaluator.error], step)
    if saving.export and not stopping:
        files.upload()  # the errors of checkpoints
        result["weights"] = str(write_best_weights(workdir))
    result |= {
        "train_loss": train_loss,
        "views_per_second": progress.views_per_second(),
        "goodput": goodput.share(),
        "held_out": mixture.truly_held_out,
        "params_digest": digest(state.params),
        "workdir": str(workdir),
    }
    summarise(result, total_steps, evaluator, workdir, goodput_lib.describe(goodput.starts()))
    return result


@contextlib.contextmanager
def saved_on_error(save: Callable[[], None], is_needed: Callable[[], bool]) -> Iterator[None]:
    """A context in which an error saves the state before it is raised.

    A state is not saved if a loss was not finite, if the devices have lost it, or after a save that failed.
    One of several processes cannot save alone.
    """
    try:
        yield
    except (NotFinite, SaveFailed):
        raise
    except Exception:
        if is_needed() and jax.process_count() == 1:
            log_main("Saving the state before the run ends with an error")
            try:
                save()
            except Exception as error:
                log_main(f"The state could not be saved: {first_line(error)}")
        raise


def make_evaluator(config: ConfigDict, task: Task, mixture: Mixture, mesh: Mesh) -> HeldOutEvaluator:
    """Returns the evaluator of a task on held-out scenes."""
    if isinstance(task, ReconstructTask):
        return GeometryEvaluator(config, task, mixture, mesh)
    assert isinstance(task, Pretraining)
    return ReconstructionEvaluator(config, task, mixture, mesh)


def evaluate(
    evaluator: HeldOutEvaluator,
    params: Any,
    step: int,
    writers: Writers,
    workdir: pathlib.Path,
    watchdog: Watchdog,
    while_writing: contextlib.AbstractContextManager[None] | None = None,
) -> dict[str, float]:
    """Runs the evaluator, writes and logs its figures, and returns them."""
    with watchdog.batches(f"the evaluation after update {step}", "step_minutes", evaluator.total_batches):
        values = dict(evaluator.run(params))
    with while_writing or contextlib.nullcontext():
        writers.scalars(step, "evaluation", values)
        for name, picture in evaluator.figures():
            writers.picture(step, name, picture)
            save_picture(workdir / "pictures" / f"{name}_{step:07d}.png", picture)
    is_finite = math.isfinite(values[evaluator.error])
    log_main(f"step {step}  evaluation: {evaluator.describe(values) if is_finite else 'not finite'}")
    return values


def summarise(
    result: dict[str, Any],
    total_steps: int,
    evaluator: HeldOutEvaluator,
    workdir: pathlib.Path,
    goodput: Sequence[str],
) -> None:
    """Prints a run's outcome, its goodput and its output folders to standard output."""
    step = result["step"]
    if "stopped" in result:
        lines = [f"Stopped by {result['stopped']} at step {step} of {total_steps}, saved."]
    else:
        scenes = "held-out scenes" if result["held_out"] else "training scenes"
        lines = [f"Trained {step} steps. On {scenes}: {evaluator.describe(result)}."]
    lines += goodput
    outputs = {"checkpoints": "checkpoints", "metrics": "metrics.jsonl", "pictures": "pictures"}
    lines += [f"  {name:12s} {workdir / path}" for name, path in outputs.items()]
    viewer = (
        "" if importlib.util.find_spec("tensorboard") else " (after: python -m pip install tensorboard)"
    )
    lines += [f"  curves       tensorboard --logdir {workdir}{viewer}"]
    if "stopped" in result:
        lines += ["  Run the same command again to continue."]
    if jax.process_index() == 0:
        print("\n".join(lines))
