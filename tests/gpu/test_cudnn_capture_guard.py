"""Copies and the first run of a program exclude each other; later runs overlap with copies."""

import threading
import time

import jax.numpy as jnp
import pytest

from muskie_jax.gpu.cudnn_capture_guard import CudnnCaptureGuard


def in_thread(function):
    """Starts a function in a thread; returns a function that waits for its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()

    def wait():
        thread.join(timeout=20)
        return results[0]

    return wait


def logged_sleep(log, name, seconds):
    """Returns a function that logs its start and end, and sleeps between them."""

    def work(*_):
        log.append(f"{name} starts")
        time.sleep(seconds)
        log.append(f"{name} ends")
        return jnp.ones(())

    return work


def overlaps(guard, key):
    """Returns whether a copy starts during a program, and whether a program starts during a copy."""
    log = []
    program = in_thread(lambda: guard.run_program(key, logged_sleep(log, "program", 0.3)))
    time.sleep(0.1)
    guard.run_copy(logged_sleep(log, "copy", 0.0))
    program()
    during_program = log.index("copy starts") < log.index("program ends")
    log.clear()
    copy = in_thread(lambda: guard.run_copy(logged_sleep(log, "copy", 0.3)))
    time.sleep(0.1)
    guard.run_program(key, logged_sleep(log, "program", 0.0))
    copy()
    return during_program, log.index("program starts") < log.index("copy ends")


def test_first_runs_and_copies_wait_for_each_other():
    guard = CudnnCaptureGuard(["a", "b"])
    assert overlaps(guard, "a")[0] is False
    assert overlaps(guard, "b")[0] is False
    assert overlaps(guard, "a") == (True, True), "all programs have run, so nothing waits"
    log = []
    guard = CudnnCaptureGuard(["a"])
    copy = in_thread(lambda: guard.run_copy(logged_sleep(log, "copy", 0.3)))
    time.sleep(0.1)
    guard.run_program("a", logged_sleep(log, "program", 0.0), None)
    copy()
    assert log.index("copy ends") < log.index("program starts")


def test_without_copies_blocks_copies_even_after_all_first_runs():
    guard, log = CudnnCaptureGuard([]), []
    with guard.without_copies():
        copy = in_thread(lambda: guard.run_copy(logged_sleep(log, "copy", 0.0)))
        guard.run_program("a", logged_sleep(log, "program", 0.1))
        assert "copy starts" not in log
    copy()
    assert log[-1] == "copy ends"


def test_a_program_whose_first_run_fails_is_guarded_again():
    guard = CudnnCaptureGuard(["a"])

    def fails():
        raise RuntimeError("no memory")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="no memory"):
            guard.run_program("a", fails)
    assert overlaps(guard, "a")[0] is False


class Copy:
    """A copy in progress, which logs when it is waited for."""

    def __init__(self, log):
        self.log = log

    def block_until_ready(self):
        self.log.append("waited")


def test_copies_are_waited_for_only_before_a_first_run():
    log, guard = [], CudnnCaptureGuard(["a"])
    guard.run_copy(Copy, log)
    assert log == ["waited"]
    guard.run_program("a", lambda: None)
    log.clear()
    guard.run_copy(Copy, log)
    assert log == [], "the copying thread is free to load the next batch"
    with guard.without_copies():
        assert log == ["waited"]
