"""Errors that end a run with one line instead of a traceback."""

import multiprocessing
import os
import sys
from typing import NoReturn

USAGE_ERROR = 2  # exit status: the same command fails again
MACHINE_ERROR = 1  # exit status: a disk or a device failed, and the same command may continue


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


def fail(message: str) -> NoReturn:
    """Prints one line on standard error and exits with status 2."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def fail_at_once(message: str) -> NoReturn:
    """Prints one line on standard error, and ends the process with status 1 without waiting for threads.

    Threads that save in the background can wait for ever after a failure, for a disk or another process.
    """
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    for worker in multiprocessing.active_children():
        worker.terminate()
    os._exit(MACHINE_ERROR)
