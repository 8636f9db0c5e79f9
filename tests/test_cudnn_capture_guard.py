"""A program's first run is not disturbed by copies; later ones are."""

import threading
import time

import jax.numpy as jnp
import pytest

from muskie_jax.cudnn_capture_guard import CudnnCaptureGuard


def in_thread(function):
    """Starts a function; its result is what `wait` returns."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()

    def wait():
        thread.join(timeout=20)
        return results[0]

    return wait


def timed(log, name, seconds):
    def work(*_):
        log.append(f"{name} begins")
        time.sleep(seconds)
        log.append(f"{name} ends")
        return jnp.ones(())

    return work


def overlapped(runs, key):
    """Whether a copy began while a program ran, and whether a program began while a copy was under way."""
    log = []
    running = in_thread(lambda: runs.run(key, timed(log, "program", 0.3)))
    time.sleep(0.1)
    runs.copied(timed(log, "copy", 0.0))
    running()
    during_program = log.index("copy begins") < log.index("program ends")
    log.clear()
    copying = in_thread(lambda: runs.copied(timed(log, "copy", 0.3)))
    time.sleep(0.1)
    runs.run(key, timed(log, "program", 0.0))
    copying()
    return during_program, log.index("program begins") < log.index("copy ends")


def test_first_runs_and_copies_wait_for_each_other():
    runs = CudnnCaptureGuard(["a", "b"])
    assert overlapped(runs, "a")[0] is False
    assert overlapped(runs, "b")[0] is False
    assert overlapped(runs, "a") == (True, True), "all have run: nothing waits any more"
    log = []
    runs = CudnnCaptureGuard(["a"])
    copying = in_thread(lambda: runs.copied(timed(log, "copy", 0.3)))
    time.sleep(0.1)
    runs.run("a", timed(log, "program", 0.0), None)
    copying()
    assert log.index("copy ends") < log.index("program begins")


def test_an_evaluation_is_never_disturbed():
    runs, log = CudnnCaptureGuard([]), []
    with runs.undisturbed():
        copying = in_thread(lambda: runs.copied(timed(log, "copy", 0.0)))
        runs.run("a", timed(log, "program", 0.1))
        assert "copy begins" not in log
    copying()
    assert log[-1] == "copy ends"


def test_a_program_that_fails_is_run_undisturbed_again():
    runs = CudnnCaptureGuard(["a"])

    def fails():
        raise RuntimeError("no memory")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no memory"):
            runs.run("a", fails)
    assert overlapped(runs, "a")[0] is False


class Copy:
    """A copy under way, which says when somebody waits for it."""

    def __init__(self, log):
        self.log = log

    def block_until_ready(self):
        self.log.append("waited")


def test_copies_are_waited_for_only_before_something_runs_first():
    log, runs = [], CudnnCaptureGuard(["a"])
    runs.copied(lambda: Copy(log))
    assert log == ["waited"]
    runs.run("a", lambda: None)
    log.clear()
    runs.copied(lambda: Copy(log))
    assert log == [], "the thread that copies is free to load what comes next"
    with runs.undisturbed():
        assert log == ["waited"]
