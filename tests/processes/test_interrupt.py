"""A signal requests a stop, of one process or of all processes of a run, and never interrupts saving."""

import functools
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from conftest import ROOT
from muskie_jax.processes import interrupt
from muskie_jax.processes.coordination import Coordination
from muskie_jax.processes.interrupt import FAILURE, SignalHandler, StopSignal, stopped_exit_code
from muskie_tests.processes import Store, wait_until


@pytest.fixture(autouse=True)
def usual_handler_of_ctrl_c():
    """A shell without job control starts programs in the background with Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_time_limit_requests_a_stop(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    stop, endless = StopSignal(max_minutes=2), StopSignal()
    with stop:
        now[0] = 119.0
        assert not stop.requested(1)
        now[0] = 121.0
        assert stop.requested(2) and stop.name == "config.max_minutes"
    assert not endless.requested(2)


STOP_SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"]


class Busy:
    """A standard error that is in the middle of a write."""

    def write(self, text):
        raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stderr>'>")

    flush = write


@pytest.mark.parametrize("name", STOP_SIGNALS)
def test_a_signal_during_a_write_requests_a_stop(monkeypatch, capfd, name):
    with StopSignal() as stop:
        assert not stop.requested(1)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", Busy())
            signal.raise_signal(signal.Signals[name])
        assert stop.requested(2) and stop.name == name
    assert f"{name}: saving after this step" in capfd.readouterr().err


def test_a_second_signal_only_gives_a_line(capfd):
    with StopSignal() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested(2)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.name == "SIGTERM"
    first, *others = capfd.readouterr().err.splitlines()
    assert first.startswith("SIGTERM: saving")
    assert [line.partition(":")[0] for line in others] == ["SIGTERM", "SIGINT"]
    assert all("already stopping after SIGTERM; only SIGKILL ends" in line for line in others)


def test_a_signal_after_the_last_step_takes_its_usual_effect_when_all_is_saved():
    stop = StopSignal()
    with pytest.raises(KeyboardInterrupt), stop:
        assert not stop.requested(2)
        signal.raise_signal(signal.SIGINT)
        saved = True
    assert saved


def test_an_error_in_the_loop_is_not_replaced_by_a_signal():
    with pytest.raises(ZeroDivisionError), StopSignal():
        signal.raise_signal(signal.SIGINT)
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested(1)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("asked", [True, False])
def test_a_program_stops_when_the_one_that_started_it_has_ended(asked):
    """The end of standard input stands for that of the starter; only some starters want this."""
    command = [sys.executable, "-m", "muskie_jax.main", "--stopped_exit_code=75"]
    environment = os.environ | ({interrupt.STOP_WITH_STARTER: "1"} if asked else {})
    done = subprocess.run(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment, text=True,
        timeout=120,
    )  # fmt: skip
    assert done.returncode == (75 if asked else 2), done.stderr
    assert ("SIGTERM: stopping; nothing is left to save" in done.stderr) == asked


def test_processes_that_a_program_starts_do_not_take_its_standard_input_for_a_starter(monkeypatch):
    reading, writing = os.pipe()
    sent, ended = [], threading.Event()
    monkeypatch.setattr(interrupt, "STANDARD_INPUT", reading)
    monkeypatch.setattr(
        "os.kill", lambda *signal_and_process: (sent.append(signal_and_process), ended.set())
    )
    monkeypatch.setenv(interrupt.STOP_WITH_STARTER, "1")
    interrupt.stop_with_starter()
    assert interrupt.STOP_WITH_STARTER not in os.environ
    os.write(writing, b"x")
    assert not ended.wait(0.1)
    os.close(writing)
    assert ended.wait(10) and sent == [(os.getpid(), signal.SIGTERM)]
    os.close(reading)


def test_handlers_of_a_users_program_for_its_own_signals_stay(monkeypatch):
    received = []
    before = signal.signal(signal.SIGUSR1, lambda *_: received.append("SIGUSR1"))
    try:
        with StopSignal() as stop:
            signal.raise_signal(signal.SIGUSR1)
            assert received == ["SIGUSR1"] and not stop.requested(1)
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize(
    "arguments, code",
    [
        ([], 0),
        (["--stopped_exit_code=75"], 75),
        (["-stopped_exit_code", "75"], 75),
        (["--stopped_exit_code=x"], 0),
        (["--stopped_exit_code"], 0),
    ],
)
def test_the_exit_code_is_known_before_flags_are_parsed(arguments, code):
    assert stopped_exit_code(["program", "--config", "x", *arguments]) == code


# --- The whole program --------------------------------------------------------------------------------

PROGRAM = """
import sys, time
from muskie_jax.errors import AT_END
from muskie_jax.processes.interrupt import StopSignal, handle_all_signals
assert "jax" not in sys.modules, "it would be imported before signals are handled"
handler = handle_all_signals(["--stopped_exit_code=75"])
AT_END.append(lambda: print("released", flush=True))
print("ready", flush=True)
"""
STARTING = "time.sleep(60)"
SAVING = """
with StopSignal() as stop:
    step = 0
    while not stop.requested(step):
        step += 1
        time.sleep(0.01)
    print("saving", flush=True)
    for _ in range(100): time.sleep(0.01)
print("saved", flush=True)
sys.exit(75)
"""
FINISHED = """
with StopSignal() as stop:
    assert not stop.requested(1)
    print("saving", flush=True)
    time.sleep(1)
    print("saved", flush=True)
print("evaluated", flush=True)
"""


def start(code):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM + code],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", STOP_SIGNALS)
def test_a_signal_before_training_ends_the_program_at_once(name):
    process = start(STARTING)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.Signals[name])
    out, err = process.communicate(timeout=20)
    assert process.returncode == 75 and out == "released\n"
    assert err.startswith(f"{name}: stopping; nothing is left to save") and err.count("\n") == 1


def test_signals_do_not_interrupt_saving():
    process = start(SAVING)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    process.terminate()
    assert process.stdout.readline() == "saving\n"
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        process.send_signal(signal.Signals[name])
        time.sleep(0.1)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 75 and out == "saved\n", err
    assert err.count("already stopping after SIGTERM") == 3


def test_a_signal_during_the_last_save_ends_the_program_when_it_is_saved():
    process = start(FINISHED)
    assert process.stdout.readline() == "ready\n" and process.stdout.readline() == "saving\n"
    process.terminate()
    out, err = process.communicate(timeout=20)
    assert process.returncode == 75 and out == "saved\nreleased\n", err


# --- Several processes, as threads that share a store ----------------------------------------------------


@pytest.fixture
def run_of(monkeypatch):
    """Makes the signal handlers of a run's processes, and a list of the processes that ended."""
    monkeypatch.setattr(interrupt, "SECONDS_FOR_OTHERS_TO_END", 0.0)
    handlers = []

    def make(processes):
        store, left = Store(processes), []
        for process in range(processes):
            coordination = Coordination(store, process, processes)
            coordination._prefix = ""
            handler = SignalHandler(exit_code=75)
            handler.leave = functools.partial(_leave, handler, left, process)
            handler.join(coordination)
            handlers.append(handler)
        return handlers, left

    yield make
    for handler in handlers:
        handler.part()


def _leave(handler, left, process):
    handler._agreement.wait_for_others()
    left.append(process)


def train(handler, first, last, stopped, seconds):
    handler.begin_training()
    for step in range(first + 1, last + 1):
        time.sleep(seconds)
        if handler.requested(step):
            stopped.append(step)
            break
    handler.end_training()


@pytest.mark.parametrize("first", [0, 1000])
@pytest.mark.parametrize("when", ["before", "during"])
def test_all_processes_stop_after_one_update_soon(run_of, first, when):
    """With `before`, one process trains when the signal arrives, and the others do not yet."""
    handlers, left = run_of(3)
    stopped = []
    threads = [
        threading.Thread(target=train, args=(handler, first, first + 400, stopped, 0.005 * (1 + process)))
        for process, handler in enumerate(handlers)
    ]
    threads[0].start()
    time.sleep(0.1)
    if when == "before":
        handlers[1].request("SIGTERM")
        time.sleep(0.1)
    threads[1].start()
    threads[2].start()
    if when == "during":
        time.sleep(0.1)
        newest = handlers[0]._agreement._step
        handlers[2].request("SIGINT")
    for thread in threads:
        thread.join(timeout=20)
    assert len(stopped) == 3 and len(set(stopped)) == 1 and left == [], stopped
    if when == "during":
        assert stopped[0] - newest < 10
    assert {handler.name for handler in handlers} == {"SIGTERM" if when == "before" else "SIGINT"}


def test_all_processes_end_if_none_trains(run_of):
    handlers, left = run_of(3)
    handlers[1].request("SIGHUP")
    wait_until(lambda: sorted(left) == [0, 1, 2], 20)


def test_processes_end_together_if_one_is_still_in_the_loop(run_of):
    """When the signal arrives, one process has left the loop, and the other is in its last update."""
    handlers, left = run_of(2)
    train(handlers[0], 0, 3, [], 0)
    handlers[1].begin_training()
    assert not handlers[1].requested(3)
    handlers[0].request("SIGTERM")
    wait_until(lambda: handlers[1].name, 20)
    time.sleep(0.1)
    assert left == [], "the second process may still be saving"
    handlers[1].end_training()
    wait_until(lambda: sorted(left) == [0, 1], 20)


def test_a_failure_after_the_last_update_does_not_end_a_process_before_it_is_reported(run_of):
    handlers, left = run_of(2)
    threads = [threading.Thread(target=train, args=(handler, 0, 3, [], 0.1)) for handler in handlers]
    for thread in threads:
        thread.start()
    wait_until(lambda: handlers[1]._agreement._step == 2, 20)
    handlers[1].request(FAILURE)
    for thread in threads:
        thread.join(timeout=20)
    assert all(handler._agreement.settled.is_set() for handler in handlers) and left == []


def test_a_failure_before_the_first_update_stops_after_it(run_of):
    handlers, left = run_of(2)
    handlers[0].request(FAILURE)
    handlers[0].wait_until_settled()
    stopped = []
    for handler in handlers:
        handler.wait_until_settled()
        train(handler, 10, 20, stopped, 0)
    assert stopped == [11, 11] and left == []
