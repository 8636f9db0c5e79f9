"""Two processes whose data fail in one of them save the same update and end together."""

import json
import os
import signal
import time

import pytest

from muskie_tests.attacked import Run

pytestmark = pytest.mark.slow

STEPS = 60
FAULT = 20  # of the updates of a start, that before which the data of process 1 fail
SETTINGS = ["--config.batch.groups=8", "--config.watchdog.batch_minutes=0.4"]
WITH_WORKER = "--config.data.workers=1"
ERRORS = [  # of process 1, the exit code of both processes, and their message
    ("UserError('scene attic: none of its images can be read')", 2, "scene attic: none of its images"),
    ("ValueError('unforeseen')", 1, "ValueError: unforeseen (traceback: "),
]
FAILING = """
import sys
from muskie_jax import main
from muskie_jax.data.pipeline import Pipeline
from muskie_jax.errors import UserError
updates = Pipeline.updates

def failing(self, first=0, stop=None):
    for number, update in enumerate(updates(self, first, stop), start=first + 1):
        if number == first + {fault} and stop is not None and "--process_id=1" in sys.argv:
            raise {error}
        yield update

Pipeline.updates = failing
main.main()
"""
WITHOUT_METRICS = """
from muskie_jax import main
from muskie_jax.writers import Writers
scalars = Writers.scalars

def failing(self, step, part, values):
    if step == {fault} and self._json:
        raise OSError(28, "No space left on device")
    scalars(self, step, part, values)

Writers.scalars = failing
main.main()
"""


def start(workdir, *flags, program=("-m", "muskie_jax.main")):
    return Run(workdir, STEPS, 2, [*SETTINGS, *flags], program=program)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return start(tmp_path_factory.mktemp("run")).end()["params_digest"]


def errors(run):
    assert "Traceback" not in run.log, run.log
    return [line for line in run.log.splitlines() if line.startswith("error:")]


def losses(workdir):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "train/loss" in row]


def test_an_error_of_the_data_of_one_process_saves(tmp_path, undisturbed):
    saved = 0
    for error, code, message in ERRORS:
        run = start(tmp_path, program=["-c", FAILING.format(error=error, fault=FAULT)])
        assert run.end(code, code) is None
        found = errors(run)
        assert len(found) == 2 and all(message in line for line in found), found
        assert sum("another process failed: process 1: " in line for line in found) == 1
        before, saved = saved, run.saved()[-1]
        assert before < saved < before + FAULT and losses(tmp_path)[-1] == saved
    assert start(tmp_path).end()["params_digest"] == undisturbed


def test_figures_that_process_0_cannot_write_make_both_save(tmp_path, undisturbed):
    run = start(tmp_path, program=["-c", WITHOUT_METRICS.format(fault=FAULT)])
    assert run.end(1, 1) is None
    found = errors(run)
    assert len(found) == 2 and all("No space left on device" in line for line in found), found
    (saved,) = run.saved()
    assert FAULT <= saved < 2 * FAULT
    assert start(tmp_path).end()["params_digest"] == undisturbed


def test_an_error_before_the_first_batch_ends_both_processes(tmp_path):
    began = time.monotonic()
    run = start(tmp_path, program=["-c", FAILING.format(error="UserError('no image')", fault=1)])
    run.wait_for("error: no image").end(2, 2)  # process 0 is told by process 1
    assert time.monotonic() - began < 120 and not run.saved()
    assert any("another process failed: process 1: no image" in line for line in errors(run))


def test_a_stopped_worker_of_one_process_saves(tmp_path, undisturbed):
    run = start(tmp_path, WITH_WORKER).wait_for("step 5/")
    os.kill(run.workers(1)[0], signal.SIGSTOP)
    assert run.end(75, 75) is None, "launchers start both again"
    found = errors(run)
    assert len(found) == 2 and all("no batch within 0.4 minutes" in line for line in found), found
    (saved,) = run.saved()
    assert 5 <= saved < STEPS and losses(tmp_path)[-1] == saved
    assert start(tmp_path).end()["params_digest"] == undisturbed


def test_sigterm_to_processes_of_which_one_waits_for_a_stopped_worker_saves(tmp_path):
    run = start(tmp_path, WITH_WORKER).wait_for("step 5/")
    os.kill(run.workers(1)[0], signal.SIGSTOP)
    time.sleep(5.0)  # the batches that were read ahead are used up
    began = time.monotonic()
    result = run.signal("SIGTERM").end(75, 75)
    assert time.monotonic() - began < 20, "less than the limit of the watchdog"
    assert result["stopped"] == "SIGTERM" and run.saved() == [result["step"]] == [losses(tmp_path)[-1]]
