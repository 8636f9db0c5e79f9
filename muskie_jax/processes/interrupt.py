"""Ends a program on a signal, and loses no work.

Before and after training there is nothing to save: a signal ends the program at once. During training, the
run saves and stops after an update, the same in all its processes. Further signals do not interrupt that.

This module does not import JAX, so that signals are handled while a program imports it.
"""

import atexit
import contextlib
import errno
import math
import os
import signal
import termios
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from muskie_jax.errors import end_process, first_line
from muskie_jax.processes.coordination import Coordination
from muskie_jax.processes.standard_streams import is_read

# Schedulers send the last three before a time limit (`sbatch --signal=USR1@300`, `ulimit -S -t`).
SIGNALS = (
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU
)  # fmt: skip
OF_USERS = (signal.SIGUSR1, signal.SIGUSR2)  # Python code of a user may have handlers for them
STANDARD_INPUT, STANDARD_OUTPUT, STANDARD_ERROR = 0, 1, 2
STOP_WITH_STARTER = "MUSKIE_JAX_STOP_WITH_STARTER"  # environment variable, see `stop_with_starter`
TIME_LIMIT = "config.max_minutes"
FAILURE = "a failure of one process"
STOPPED_EXIT_CODE = "--stopped_exit_code"
NOT_TRAINING = -1  # in place of an update's number
POLL_SECONDS = 0.5
CLOSE_SECONDS = 5.0
# Process 0 hosts the coordination service. If it ended before the others, they would abort.
SECONDS_FOR_OTHERS_TO_END = 2.0


class SignalHandler:
    """The reaction of a process to stop signals, before, during and after training.

    Args:
      exit_code: exit status when a signal ends the program, outside of training or after saving; None to
        handle signals during training alone, in programs that are not ours.

    Attributes:
      since: time of its creation, in seconds since 1970, soon after the start of a program of ours.
      name: what requested a stop, such as "SIGTERM" or "config.max_minutes"; empty before.
      training: whether the training loop runs.
      stopping: whether the training loop was told to stop. It then saves.
    """

    def __init__(self, exit_code: int | None = None):
        self.since = time.time()
        self.exit_code = exit_code
        self.name = ""
        self.training = self.stopping = False
        self._agreement: _Agreement | None = None
        self._previous: dict[int, Any] = {}
        self._leaving = False

    def install(self) -> None:
        for number in signals_to_handle():
            try:
                self._previous[number] = signal.signal(number, self._handle)
            except ValueError:  # only the main thread may set signal handlers
                break

    def restore(self) -> None:
        """Brings back the earlier handlers."""
        self.part()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def ignore(self) -> None:
        """Ignores the signals from now on. Python resets other handlers at its very end."""
        for number in self._previous:
            signal.signal(number, signal.SIG_IGN)

    def join(self, coordination: Coordination) -> None:
        """Stops together with the other processes of a run from now on."""
        if self._agreement is None:
            self._agreement = _Agreement(self, coordination)

    def part(self) -> None:
        """Stops alone again, at the end of a run. Does not return while a signal is ending the program."""
        while self._leaving:
            time.sleep(POLL_SECONDS)
        if self._agreement:
            self._agreement.close()
            self._agreement = None

    def begin_training(self) -> None:
        self.training, self.stopping = True, False

    def requested(self, step: int) -> bool:
        """Returns whether to save and stop after update `step`; the same in every process."""
        if self._agreement:
            self.stopping |= self._agreement.reached(step)
        else:
            self.stopping |= bool(self.name)
        return self.stopping

    def end_training(self) -> None:
        """Ends the program if a stop was requested that the training loop did not see: all is saved."""
        self.training = False
        if self.stopping:
            return
        if self._agreement:
            self._agreement.end_training()
        elif self.name:
            self.leave()

    def leave(self) -> None:
        """Ends the process. It does not return if the program is ours."""
        if self.exit_code is None:
            self.restore()
            if self.name in signal.Signals.__members__:
                signal.raise_signal(signal.Signals[self.name])
            return
        self._leaving = True
        say(f"{self.name}: stopping; nothing is left to save, and the same command continues")
        if self._agreement:
            self._agreement.wait_for_others()
        end_process(self.exit_code)

    def _handle(self, number, frame) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGHUP:
            leave_closed_terminal()
        if self.name:
            if name == self.name == signal.SIGXCPU.name:
                return  # the system sends it every second
            say(f"{name}: already stopping after {self.name}; only SIGKILL ends the run without saving")
            return
        self.request(name)
        if self._agreement:
            return
        if self.training:
            announce_stop(name)
        else:
            self.leave()

    def request(self, name: str) -> None:
        """Requests a stop, of all processes of the run."""
        self.name = name
        if self._agreement:
            self._agreement.request(name)

    def settled(self) -> bool:
        """Returns whether the processes of the run have agreed on their last update."""
        return self._agreement is not None and self._agreement.settled.is_set()

    def wait_until_settled(self) -> None:
        if self._agreement:
            self._agreement.settled.wait()


class _Agreement:
    """Makes all processes of a run stop after the same update.

    A thread of every process waits for a request by any of them. Then each publishes the last update that
    its training loop has started, and holds the loop until all have. The run stops after the update that
    follows the newest of these. If no process trains, all end at once.
    """

    def __init__(self, handler: SignalHandler, coordination: Coordination):
        self._handler, self._coordination = handler, coordination
        self._step = NOT_TRAINING
        self._last: int | None = None  # last update, once agreed upon
        self._trained = self._closed = self._failed = False
        self.settled = threading.Event()  # set when it is agreed upon, or never will be
        self._turn = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="stop agreement", daemon=True)
        self._thread.start()

    def request(self, name: str) -> None:
        with contextlib.suppress(Exception):  # JAX ends a process that has lost the others
            self._coordination.publish("stop", name)

    def reached(self, step: int) -> bool:
        with self._turn:
            self._step = step
            return self._last is not None and step >= self._last

    def end_training(self) -> None:
        with self._turn:
            self._step, self._trained = NOT_TRAINING, True
            if self._last is not None and not self._failed:
                self._handler.leave()

    def close(self) -> None:
        self._closed = True
        self._thread.join(timeout=CLOSE_SECONDS)

    def wait_for_others(self) -> None:
        with contextlib.suppress(Exception):
            self._coordination.wait_for_all("leave")
        if self._coordination.process == 0:
            time.sleep(SECONDS_FOR_OTHERS_TO_END)

    def _watch(self) -> None:
        try:
            if self._handler.name:  # a signal came just before
                self.request(self._handler.name)
            while not self._closed:
                name = self._coordination.wait_for("stop")
                if name:
                    self._handler.name = name
                    return self._agree()
        except Exception as error:
            say(f"signals are no longer handled: other processes do not answer: {first_line(error)}")
        finally:
            self.settled.set()

    def _agree(self) -> None:
        handler = self._handler
        with self._turn:
            answers = self._coordination.gather("step", f"{self._step} {handler.name}")
            newest = max(int(answer.partition(" ")[0]) for answer in answers)
            self._last = newest + 1
            # A failure is raised after the loop, so all processes make one update at least.
            self._failed = any(answer.partition(" ")[2] == FAILURE for answer in answers)
            nothing_to_save = not self._failed and (self._trained or newest == NOT_TRAINING)
            if nothing_to_save and handler.exit_code is not None:
                handler.leave()
        if self._coordination.process == 0:
            announce_stop(handler.name)


def signals_to_handle() -> list[signal.Signals]:
    """Returns those of SIGNALS that a program of ours handles.

    A program that `nohup` started ignores SIGHUP. Handlers of users for their own signals stay.
    """

    def is_handled(number: signal.Signals) -> bool:
        if number == signal.SIGHUP:
            return signal.getsignal(number) != signal.SIG_IGN
        return number not in OF_USERS or signal.getsignal(number) == signal.SIG_DFL

    return [number for number in SIGNALS if is_handled(number)]


def stop_with_starter() -> None:
    """Sends this process SIGTERM when the program that started it ends, even if that was killed.

    The starter must have set the environment variable STOP_WITH_STARTER, or nothing happens. It keeps the
    other end of a pipe open that is this process's standard input, and writes nothing. So a starter that
    has ended earlier is noticed too.
    """
    if os.environ.pop(STOP_WITH_STARTER, None) is None:  # not for processes that this one starts
        return

    def watch() -> None:
        while os.read(STANDARD_INPUT, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="starter", daemon=True).start()


_program: SignalHandler | None = None


def handle_all_signals(arguments: Sequence[str]) -> SignalHandler:
    """Handles stop signals until the program ends. Its command line may have --stopped_exit_code."""
    global _program
    _program = SignalHandler(stopped_exit_code(arguments))
    _program.install()
    atexit.register(_program.ignore)
    return _program


@contextlib.contextmanager
def handle_signals(arguments: Sequence[str]) -> Iterator[SignalHandler]:
    """Handles stop signals within the context, unless the whole program does; see `handle_all_signals`."""
    global _program
    if _program:
        yield _program
        return
    handler = handle_all_signals(arguments)
    try:
        yield handler
    finally:
        _program = None
        if not handler.stopping:  # a second signal must not change the exit status of a stopped run
            handler.restore()


def program() -> SignalHandler | None:
    """Returns the handler of the program; None in Python code of a user."""
    return _program


def stopped_exit_code(arguments: Sequence[str]) -> int:
    """Returns the value of --stopped_exit_code, which is needed before flags can be parsed."""
    for argument, following in zip(arguments, [*arguments[1:], ""]):
        name, equals, value = argument.partition("=")
        if name in (STOPPED_EXIT_CODE, STOPPED_EXIT_CODE[1:]):
            value = value if equals else following
            return int(value) if value.isdecimal() else 0
    return 0


class StopSignal:
    """A context around the training loop, in which a signal or the time limit asks it to save and stop.

    Args:
      max_minutes: minutes from now after which to stop; 0 for no limit.
    """

    def __init__(self, max_minutes: float = 0.0):
        self._deadline = time.monotonic() + 60 * max_minutes if max_minutes else math.inf
        self._handler = SignalHandler()

    @property
    def name(self) -> str:
        """What requested the stop, such as "SIGTERM" or "config.max_minutes"; empty before."""
        return self._handler.name

    def __enter__(self) -> "StopSignal":
        if _program:
            self._handler = _program
        else:
            self._handler.install()
            coordination = Coordination.of_jax()
            if coordination:
                self._handler.join(coordination)
        self._handler.begin_training()
        return self

    def __exit__(self, kind, *_) -> None:
        if kind is None:  # an error that ends the loop also ends the program
            self._handler.end_training()
        self._handler.training = False
        if self._handler is not _program:
            self._handler.restore()

    def request(self, name: str) -> None:
        """Requests a stop for another reason than a signal, in all processes of the run."""
        self._handler.request(name)

    def request_for_failure(self) -> None:
        """Requests a stop of all processes, unless one was requested. May be called by other threads."""
        if not self._handler.name:
            self.request(FAILURE)

    def settled(self) -> bool:
        """Returns whether several processes have agreed on their last update; False for one process."""
        return self._handler.settled()

    def wait_until_settled(self) -> None:
        """Waits until the processes have agreed on their last update, after a request of one of them."""
        self._handler.wait_until_settled()

    def requested(self, step: int) -> bool:
        """Returns whether to save and stop after update `step`; every process gets the same answer."""
        if not self._handler.name and time.monotonic() > self._deadline:
            self.request(TIME_LIMIT)
        return self._handler.requested(step)


def leave_closed_terminal() -> None:
    """Discards output from now on if its terminal was closed: writing to it would be an error."""
    for stream in (STANDARD_OUTPUT, STANDARD_ERROR):
        try:
            termios.tcgetattr(stream)
        except termios.error as error:
            if error.args[0] == errno.EIO:
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream)


def announce_stop(name: str) -> None:
    say(f"{name}: saving after this step, then stopping")


def say(message: str) -> None:
    """Writes a line to standard error, unless nobody reads it.

    A signal may interrupt a write to Python's buffered stderr.
    """
    with contextlib.suppress(OSError):
        if is_read(STANDARD_ERROR):
            os.write(STANDARD_ERROR, f"{message}\n".encode())
