"""Errors that end a run with one line instead of a traceback."""

import contextlib
import multiprocessing
import os
import sys
from collections.abc import Callable
from typing import NoReturn

USAGE_ERROR = 2  # exit status: the same command fails again
MACHINE_ERROR = 1  # exit status: a disk or a device failed, and the same command may continue
TRY_AGAIN = 75  # exit status of a run that launchers start again, as after a stop by a signal


def printable(text: str) -> str:
    """Returns text with non-printable characters escaped, so that file names cannot affect a terminal."""
    escaped = lambda c: c.encode("unicode_escape").decode()
    return "".join(c if c.isprintable() else escaped(c) for c in text)


def one_line(message: str) -> str:
    """Returns a message as one printable line, with runs of white space as single spaces."""
    return printable(" ".join(message.split()))


def first_line(error: BaseException) -> str:
    """Returns the first line of a library's exception, or the exception's type if it has no message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


class UserError(Exception):
    """The config, the data or the work directory is wrong.

    The message is one line: what is wrong, with its value, and what to do instead.
    """

    def __init__(self, message: str):
        super().__init__(one_line(message))


class SaveFailed(UserError):
    """A checkpoint could not be saved. Earlier checkpoints are intact."""


class NotFinite(Exception):
    """A loss or a training state is infinite or NaN. The state was not saved."""


class Hung(Exception):
    """A run has waited for too long, for data, a device or a disk; the same command may continue it."""


class RunFailed(Exception):
    """A failure of one process of a run, after which all its processes have saved; raised by all of them.

    Attributes:
      status: the exit status.
    """

    def __init__(self, message: str, status: int):
        super().__init__(one_line(message))
        self.status = status


def exit_status(error: Exception) -> int:
    """Returns the exit status of a run that ends with an error."""
    if isinstance(error, Hung):
        return TRY_AGAIN
    is_usage = isinstance(error, (UserError, NotFinite)) and not isinstance(error, SaveFailed)
    return USAGE_ERROR if is_usage else MACHINE_ERROR


def fail(message: str, status: int = USAGE_ERROR) -> NoReturn:
    """Prints one line on standard error and exits."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(status)


AT_END: list[Callable[[], object]] = []  # what `end_process` does first, such as removing a lock file


def end_process(status: int) -> NoReturn:
    """Ends the process at once, after what AT_END lists.

    A usual exit waits for threads, and those may wait for ever, for a disk, a device or another process.
    """
    for each in tuple(AT_END):
        with contextlib.suppress(Exception):
            each()
    os._exit(status)


def fail_at_once(message: str, status: int = MACHINE_ERROR) -> NoReturn:
    """Prints one line on standard error, kills worker processes, and ends the process at once."""
    with contextlib.suppress(OSError, ValueError):  # nobody may read the message
        print(f"error: {one_line(message)}", file=sys.stderr, flush=True)
        sys.stdout.flush()
    for worker in multiprocessing.active_children():
        with contextlib.suppress(OSError, ValueError):  # it is dead
            worker.kill()  # also ends a stopped process
    end_process(status)
