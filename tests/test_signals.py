"""Trainings that get signals in every phase lose nothing, and two jobs never share a work directory."""

import functools
import os
import pty
import signal
import subprocess
import sys
import time

import pytest

from conftest import ROOT, xla_flags
from muskie_jax.interop.load import open_weights
from muskie_tests.attacked import STOPPED, Run
from muskie_tests.commands import free_port

pytestmark = pytest.mark.slow(minutes=2)

STEPS = 60


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The digest of the finished run, on one process; two processes have another order of sums."""
    results = {}

    def digest(processes):
        if processes not in results:
            workdir = tmp_path_factory.mktemp("undisturbed")
            results[processes] = Run(workdir, STEPS, processes).end()["params_digest"]
        return results[processes]

    return digest


@pytest.mark.parametrize("processes", [1, 2])
def test_signals_in_every_phase_of_a_run_lose_nothing(tmp_path, undisturbed, processes):
    codes, last = [STOPPED] * processes, processes - 1

    def attack(phase, name, process=last):
        start = time.monotonic()
        run = Run(tmp_path, STEPS, processes)
        if phase is None:  # during the imports
            time.sleep(0.5)
            for each in range(processes):  # not connected yet
                run.signal(name, each)
        else:
            run.wait_for(phase).signal(name, process)
        result = run.end(*codes)
        print(f"{phase} {name}: {time.monotonic() - start:.1f} s, saved {run.saved()}")
        return run, result

    for phase, name in [(None, "SIGTERM"), ("Devices:", "SIGINT"), ("Compiling", "SIGTERM")]:
        run, result = attack(phase, name)
        assert result is None and f"{name}: stopping; nothing is left to save" in run.log
        assert not run.saved()
    run, result = attack("step 3/", "SIGINT")
    assert result["stopped"] == "SIGINT" and run.saved() == [result["step"]]
    first = result["step"]
    assert 3 <= first < STEPS
    run, result = attack("Compiling", "SIGUSR1", 0)  # resumed
    assert result is None and run.saved() == [first]
    run, result = attack(f"step {first + 2}/", "SIGHUP", 0)
    assert result["stopped"] == "SIGHUP" and run.saved() == [first, result["step"]]
    run, result = attack(f"step {STEPS}/", "SIGTERM")  # the last save, or the evaluation after it
    assert run.saved()[-1] == STEPS
    assert open_weights(str(tmp_path)).params_digest == undisturbed(processes)


def test_a_second_signal_does_not_interrupt_the_save(tmp_path):
    run = Run(tmp_path, 100_000).wait_for("step 3/").signal("SIGTERM")
    deadline = time.monotonic() + 60
    while run.processes[0].poll() is None:
        run.signal("SIGTERM")
        assert time.monotonic() < deadline
        time.sleep(0.02)
    result = run.end(STOPPED)
    assert run.saved() == [result["step"]] and "SIGTERM: already stopping after SIGTERM" in run.log


def test_closing_the_terminal_saves(tmp_path):
    """Writing to a closed terminal is an error, which must not end the run before it has saved."""
    terminal, end = pty.openpty()

    # The terminal becomes that of the new session. A fork of this process, which runs JAX, might hang.
    own_terminal = (
        "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
        "os.execv(sys.argv[1], sys.argv[1:])"
    )
    command = [sys.executable, "-c", own_terminal, *Run.command(tmp_path, 100_000)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | {"XLA_FLAGS": xla_flags(1)}, start_new_session=True,
        stdin=end, stdout=end, stderr=end,
    )  # fmt: skip
    os.close(end)
    log = b""
    while b"step 3/" not in log:
        try:
            log += os.read(terminal, 4096)
        except OSError:
            break  # the run has ended
    assert b"step 3/" in log, log.decode()
    os.close(terminal)
    assert process.wait(timeout=100) == STOPPED
    (saved,) = (tmp_path / "checkpoints").iterdir()
    assert int(saved.name) >= 3


def test_processes_stop_without_the_preemption_service(tmp_path):
    run = Run(tmp_path, 100_000, 2, environment={"JAX_ENABLE_PREEMPTION_SERVICE": "0"})
    result = run.wait_for("step 3/").signal("SIGTERM", 1).end(STOPPED, STOPPED)
    assert run.saved() == [result["step"]]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_second_job_is_refused_and_a_killed_one_is_continued_at_once(tmp_path, processes):
    flags = ["--config.checkpoint.every=2"]
    run = Run(tmp_path, 100_000, processes, flags).wait_for("step 6/")
    second = Run(tmp_path, 100_000, processes, ["--config.seed=1"])
    assert second.end(*[2] * processes) is None
    owner = f"is in use by process {run.processes[0].pid} on "
    assert second.log.count(owner) == processes and "Traceback" not in second.log, second.log
    for process in run.processes:
        process.send_signal(signal.SIGKILL)
    run.end(*[-9] * processes)
    assert (tmp_path / "train.lock.1").exists()
    third = Run(tmp_path, 100_000, processes, flags).wait_for("Continuing from step")
    third.wait_for("  loss ").signal("SIGTERM").end(*[STOPPED] * processes)
    assert not (tmp_path / "train.lock.1").exists()


def test_a_late_host_is_waited_for(tmp_path):
    start = functools.partial(Run, tmp_path, 3, 2, ["--connect_minutes=10"], port=free_port())
    early = start(only=0).wait_for("waiting for all 2 processes to connect at localhost:")
    late = start(only=1)
    assert early.end(0)["step"] == 3
    late.end(0)


def test_a_missing_host_ends_the_others_with_one_line(tmp_path):
    for process in (0, 1):
        run = Run(tmp_path, 3, 2, ["--connect_minutes=0.05"], only=process)
        assert run.end(1) is None
        (line,) = [line for line in run.log.splitlines() if line.startswith("error:")]
        assert "not all 2 processes connected at localhost:" in line and "--connect_minutes" in line
        assert "Check failure" not in run.log


def test_a_signal_ends_a_process_that_waits_for_others(tmp_path):
    run = Run(tmp_path, 3, 2, only=0).wait_for("waiting for all 2 processes").signal("SIGTERM")
    assert run.end(STOPPED) is None
