"""Whatever ends a run while its state is good saves first, and a new start continues bit for bit."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time
from typing import ClassVar

import jax
import pytest

from conftest import ROOT, python_path, write_scene, xla_flags
from muskie_jax.data.pipeline import Pipeline
from muskie_jax.data.workers import DIED
from muskie_jax.errors import Hung, NotFinite, SaveFailed, UserError
from muskie_jax.programs import Programs
from muskie_jax.train import saved_on_error, train
from muskie_jax.writers import Writers
from muskie_tests.commands import run_in_process
from muskie_tests.runs import NANO_FLAGS, nano_config

STEPS = 9
FAULT = 6  # the fault happens while this update is prepared, so the state of the update before is saved


def small_config(root):
    config = nano_config(root)
    config.buckets.update({"resolutions": (((32, 32),),), "views": (4,)})
    config.evaluation.pictures = 0
    config.duration = f"{STEPS} steps"
    config.checkpoint.every = 1000
    return config


def run(root, workdir):
    return train(small_config(root), workdir, jax.devices()[:1])


def saved_steps(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir() if path.name.isdigit())


@pytest.fixture(scope="module")
def undisturbed(photo_folder, tmp_path_factory):
    """The parameters' digest after a run without faults."""
    return run(photo_folder, tmp_path_factory.mktemp("undisturbed"))["params_digest"]


@pytest.fixture
def fault(monkeypatch):
    """Makes a function of the pipeline run once, before the pipeline yields update FAULT."""
    updates, faults = Pipeline.updates, []

    def faulty(self, first=0, stop=None):
        for number, update in enumerate(updates(self, first, stop), start=first + 1):
            if number == FAULT and stop is not None and faults:  # an evaluation has no last update
                faults.pop()(self)
            yield update

    monkeypatch.setattr(Pipeline, "updates", faulty)
    return faults.append


def raise_error(error):
    def act(pipeline):
        raise error

    return act


@pytest.mark.parametrize(
    "error",
    [
        UserError("scene 'attic' of photos: none of its images can be read"),
        RuntimeError(f"{DIED} with exit code -9."),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_the_data_saves_the_last_update(photo_folder, tmp_path, fault, undisturbed, error):
    fault(raise_error(error))
    with pytest.raises(type(error), match=re.escape(str(error))):
        run(photo_folder, tmp_path)
    assert saved_steps(tmp_path) == [FAULT - 1]
    assert run(photo_folder, tmp_path)["params_digest"] == undisturbed


def test_too_many_unreadable_images_save_the_last_update(photo_folder, tmp_path, monkeypatch, undisturbed):
    check, calls = Pipeline.check_bad_fraction, []

    def too_many(self, fraction):
        calls.append(fraction)
        if len(calls) == FAULT:
            raise UserError("40 of 376 images drawn were unreadable")

    monkeypatch.setattr(Pipeline, "check_bad_fraction", too_many)
    with pytest.raises(UserError, match="40 of 376"):
        run(photo_folder, tmp_path)
    assert saved_steps(tmp_path) == [FAULT]
    monkeypatch.setattr(Pipeline, "check_bad_fraction", check)
    assert run(photo_folder, tmp_path)["params_digest"] == undisturbed


def test_figures_that_cannot_be_written_do_not_lose_the_state(
    photo_folder, tmp_path, monkeypatch, undisturbed, capsys
):
    scalars = Writers.scalars

    def no_space(*_):
        raise OSError(28, "No space left on device")

    def at_fault(self, step, part, values):
        (no_space if step == FAULT else scalars)(self, step, part, values)

    with monkeypatch.context() as broken, pytest.raises(OSError, match="No space left"):
        broken.setattr(Writers, "scalars", at_fault)
        broken.setattr(Writers, "flush", no_space)
        run(photo_folder, tmp_path)
    log = capsys.readouterr().err
    assert f"WARNING: the figures until step {FAULT} could not be" in log and "state could not" not in log
    assert saved_steps(tmp_path) == [FAULT]
    assert run(photo_folder, tmp_path)["params_digest"] == undisturbed


def test_without_a_finished_update_nothing_is_saved(photo_folder, tmp_path, fault, monkeypatch):
    monkeypatch.setitem(globals(), "FAULT", 1)
    fault(raise_error(UserError("nothing can be read")))
    with pytest.raises(UserError):
        run(photo_folder, tmp_path)
    assert saved_steps(tmp_path) == []


def test_a_state_that_the_devices_have_lost_leaves_the_error_as_it_is(
    photo_folder, tmp_path, monkeypatch, capsys
):
    update = Programs.update

    def broken(self, state, batches):
        if int(jax.device_get(state.step)) == 2:
            update(self, state, batches)  # takes the state's memory
            raise RuntimeError("the device fell off the bus")
        return update(self, state, batches)

    monkeypatch.setattr(Programs, "update", broken)
    with pytest.raises(RuntimeError, match="fell off the bus"):
        run(photo_folder, tmp_path)
    assert saved_steps(tmp_path) == []
    assert "The state could not be saved: " in capsys.readouterr().err


def test_a_save_that_fails_is_not_repeated(photo_folder, tmp_path, monkeypatch):
    attempts = []

    def fail(self, state, config):
        attempts.append(int(jax.device_get(state.step)))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("muskie_jax.checkpoint.Checkpointer.save", fail)
    with pytest.raises(OSError, match="No space left"):
        run(photo_folder, tmp_path)
    assert attempts == [STEPS]


@pytest.mark.parametrize("error", [NotFinite("the loss is not finite"), SaveFailed("the disk is full")])
def test_states_that_are_not_good_and_failed_saves_are_not_saved(error):
    saved = []
    with pytest.raises(type(error)), saved_on_error(lambda: saved.append(True), lambda: True):
        raise error
    assert not saved


def test_sigterm_while_a_batch_is_awaited_saves_and_stops(photo_folder, tmp_path, fault, undisturbed):
    def hang(pipeline):
        while saved_updates(tmp_path) < FAULT - 1:  # the loop has finished all batches before
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)
        hang_until_abandoned(pipeline)

    fault(hang)
    result = run(photo_folder, tmp_path)
    assert result["stopped"] == "SIGTERM" and result["step"] == FAULT - 1
    assert saved_steps(tmp_path) == [FAULT - 1]
    assert run(photo_folder, tmp_path)["params_digest"] == undisturbed


def hang_until_abandoned(pipeline):
    deadline = time.time() + 60
    while not pipeline._abandoned and time.time() < deadline:
        time.sleep(0.05)


def saved_updates(workdir):
    """Returns the number of updates in metrics.jsonl."""
    path = workdir / "metrics.jsonl"
    return path.read_text().count("train/loss") if path.exists() else 0


def test_no_batch_within_the_limit_saves_and_ends_the_run(
    photo_folder, tmp_path, fault, undisturbed, monkeypatch
):
    fault(hang_until_abandoned)
    monkeypatch.setattr("muskie_jax.train.config_lib.validate", limit_batches)
    with pytest.raises(Hung, match=r"no batch within 0\.02 minutes, because of .*stacks_.*\.txt"):
        run(photo_folder, tmp_path)
    assert saved_steps(tmp_path) == [FAULT - 1]
    monkeypatch.undo()
    assert run(photo_folder, tmp_path)["params_digest"] == undisturbed


def limit_batches(config):
    config.watchdog.batch_minutes = 0.02


def test_an_error_that_nobody_foresaw_is_one_line_and_a_file(photo_folder, tmp_path, monkeypatch):
    def crash(config, workdir):
        workdir.mkdir()
        raise ZeroDivisionError("division by zero\nand more lines")

    monkeypatch.setattr("muskie_jax.train.train", crash)
    workdir = tmp_path / "run"
    arguments = ["--config", "configs/quickstart.py", "--workdir", workdir]
    done = run_in_process("muskie_jax.main", *arguments)
    (file,) = workdir.glob("error_*.txt")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"error: ZeroDivisionError: division by zero (traceback: {file})\n"
    text = file.read_text()
    assert text.startswith("Traceback") and "in crash" in text and "and more lines" in text


# --- Complete runs of the command, with worker processes ------------------------------------------------

SETTINGS = [
    *NANO_FLAGS,
    "--config.checkpoint.every=50_000",
    "--config.data.workers=2",
]


class Command:
    """A training in a process of its own."""

    started: ClassVar[list[subprocess.Popen]] = []

    def __init__(self, photos, workdir, *flags, steps=200, program=("-m", "muskie_jax.main"), **streams):
        self.workdir = workdir
        command = [
            sys.executable, *program, "--config", "configs/photos.py", "--workdir", workdir,
            f"--config.sources.photos.root={photos}", f"--config.duration={steps} steps", *SETTINGS, *flags,
        ]  # fmt: skip
        environment = os.environ | {"XLA_FLAGS": xla_flags(1), "PYTHONPATH": python_path(ROOT)}
        environment.pop("PYTHONUNBUFFERED", None)  # so that the streams are buffered, as usual
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | streams
        self.process = subprocess.Popen(list(map(str, command)), cwd=ROOT, env=environment, **streams)
        Command.started.append(self.process)

    def wait_for_updates(self, count):
        deadline = time.time() + 200
        while saved_updates(self.workdir) < count:
            assert self.process.poll() is None, self.process.communicate()
            assert time.time() < deadline
            time.sleep(0.05)
        return self

    def workers(self):
        """Returns the process ids of the data workers."""
        children = pathlib.Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        threads = children.parent.parent.glob("*/children")
        found = [int(child) for file in threads for child in file.read_text().split()]
        is_worker = lambda child: b"spawn_main" in pathlib.Path(f"/proc/{child}/cmdline").read_bytes()
        return [child for child in found if is_worker(child)]

    def end(self, seconds=120):
        """Returns the exit status, the last line of standard output and standard error."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, (out or "").splitlines()[-1:], err or ""


@pytest.fixture(autouse=True)
def no_process_is_left():
    yield
    while Command.started:
        Command.started.pop().kill()


def result_of(command):
    code, (last,), err = command.end()
    assert code == 0, err
    return json.loads(last)


@pytest.fixture(scope="module")
def many_photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    for number in range(4):
        write_scene(root / f"scene{number}", 8, number)
    return root


needs_linux = pytest.mark.skipif(not pathlib.Path("/proc").exists(), reason="finds workers in /proc")


@pytest.mark.slow
@needs_linux
def test_a_worker_killed_in_a_run_changes_nothing(many_photos, tmp_path):
    expected = result_of(Command(many_photos, tmp_path / "undisturbed"))
    disturbed = Command(many_photos, tmp_path / "killed").wait_for_updates(20)
    os.kill(disturbed.workers()[0], signal.SIGKILL)
    code, (last,), err = disturbed.end()
    assert code == 0 and "A data worker died (exit code -9" in err
    found = json.loads(last)
    assert found["params_digest"] == expected["params_digest"] and found["mse"] == expected["mse"]


@pytest.mark.slow
@needs_linux
def test_a_worker_stopped_in_a_run_ends_it_with_the_state_saved(many_photos, tmp_path):
    limit = "--config.watchdog.batch_minutes=0.5"  # on a busy machine, workers start in ten seconds
    hung = Command(many_photos, tmp_path, limit, steps=100_000).wait_for_updates(5)
    stopped = hung.workers()[0]
    os.kill(stopped, signal.SIGSTOP)
    code, out, err = hung.end()
    last = err.splitlines()[-1]
    assert code == 75 and out == []
    assert last.startswith("error: no batch within 0.5 minutes, because of data worker ")
    assert f"process {stopped} (stopped by a signal)" in last
    assert saved_steps(tmp_path) == [saved_updates(tmp_path)]
    assert not pathlib.Path(f"/proc/{stopped}").exists()


@pytest.mark.slow
@needs_linux
def test_sigterm_to_a_run_whose_worker_is_stopped_saves_and_stops(many_photos, tmp_path):
    hung = Command(many_photos, tmp_path, "--stopped_exit_code=75", steps=100_000).wait_for_updates(5)
    os.kill(hung.workers()[0], signal.SIGSTOP)
    time.sleep(5.0)  # the batches that were read ahead are used up
    hung.process.terminate()
    code, (last,), err = hung.end(30)
    assert code == 75, err
    assert saved_steps(tmp_path) == [json.loads(last)["step"]] == [saved_updates(tmp_path)]


HANGING = """
import threading, sys
import jax
from muskie_jax import main, programs
from muskie_jax.processes import watchdog
watchdog.POLL_SECONDS = 0.2
update = programs.Programs.update

def hangs(*_):
    threading.Event().wait()

def hang(self, state, batches):
    state, metrics = update(self, state, batches)
    if int(jax.device_get(state.step)) != 12:
        return state, metrics
    wait = jax.jit(lambda loss: jax.pure_callback(hangs, jax.ShapeDtypeStruct((), "float32"), loss))
    with jax.transfer_guard("allow"):
        return state, [*metrics, {"loss": type(metrics[0]["loss"])(wait(1.0), 1.0)}]

programs.Programs.update = hang
main.main()
"""


@pytest.mark.slow
def test_a_device_that_hangs_ends_the_run_and_the_next_start_continues(many_photos, tmp_path):
    flags = ["--config.checkpoint.every=10", "--config.watchdog.step_minutes=0.1"]
    hung = Command(many_photos, tmp_path, *flags, steps=20, program=["-c", HANGING])
    code, out, err = hung.end()
    last = err.splitlines()[-1]
    assert code == 75 and out == [], err
    assert last.startswith("error: update 12 has not finished within 0.1 minutes: the run is ended, and")
    assert f"continues from step 10 in {tmp_path}/checkpoints (stacks of all threads: {tmp_path}/" in last
    assert saved_steps(tmp_path) == [10]
    assert result_of(Command(many_photos, tmp_path, *flags, steps=20))["step"] == 20


@pytest.mark.slow
def test_closed_streams_do_not_end_a_run(many_photos, tmp_path):
    reading, writing = os.pipe()
    run = Command(many_photos, tmp_path, steps=60, stdout=writing, stderr=writing).wait_for_updates(3)
    os.close(reading)
    os.close(writing)
    assert run.end()[0] == 0
    assert saved_steps(tmp_path) == [60]
