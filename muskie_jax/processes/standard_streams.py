"""Keeps a program running when nobody reads its output: a closed or stopped terminal, a full disk."""

import contextlib
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, TextIO

DESCRIPTORS = (0, 1, 2)  # of standard input, output and error
PATIENCE_SECONDS = 10.0  # after which lines are dropped that a reader does not take, such as after Ctrl-S
LONGEST_PIECE = 1_000  # characters, so that a pipe that is not full takes a piece at once


def is_read(descriptor: int, seconds: float = 0.0) -> bool:
    """Returns whether a write of LONGEST_PIECE would not block; waits for it, at most for some seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(1_000 * seconds))


class LastingStream(io.TextIOBase):
    """A text stream that discards what cannot be written, and all that follows.

    Args:
      stream: the stream.
      may_drop: whether to drop what its reader does not take for PATIENCE_SECONDS. Otherwise, writes wait.
    """

    def __init__(self, stream: TextIO, may_drop: bool = False):
        self._stream, self._may_drop = stream, may_drop
        self._has_dropped = False  # since the reader stopped

    def write(self, text: str) -> int:
        try:
            if self._may_drop:
                self._write_or_drop(text)
            else:
                self._stream.write(self._encodable(text))
        except (OSError, ValueError):  # ValueError: Python closed it
            self._discard()
        return len(text)

    def _write_or_drop(self, text: str) -> None:
        descriptor = self._stream.fileno()
        for start in range(0, len(text), LONGEST_PIECE):
            if not is_read(descriptor, 0.0 if self._has_dropped else PATIENCE_SECONDS):
                self._has_dropped = True
                continue
            if self._has_dropped:
                self._stream.write("\n(lines that were not read in time are left out)\n")
                self._has_dropped = False
            self._stream.write(self._encodable(text[start : start + LONGEST_PIECE]))
            self._stream.flush()

    def _encodable(self, text: str) -> str:
        """Returns a text with escapes for characters that the stream's encoding, such as ASCII, lacks."""
        encoding = self._stream.encoding or "utf-8"
        return text.encode(encoding, "backslashreplace").decode(encoding)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except (OSError, ValueError):
            self._discard()

    def _discard(self) -> None:
        """Makes the stream's descriptor write to nowhere, so that the rest of its buffer can be flushed."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return not self._stream.closed and self._stream.isatty()

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._stream.encoding


def has_descriptor(stream: TextIO) -> bool:
    """Returns whether a stream is one of the operating system."""
    try:
        return stream.fileno() >= 0
    except (OSError, ValueError):
        return False


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """A context in which writing to standard output and standard error never fails.

    Standard error does not wait for its reader either: results are on standard output.
    """
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    out, err = (stream or io.StringIO() for stream in before)  # None if closed when Python started
    sys.stdout, sys.stderr = LastingStream(out), LastingStream(err, may_drop=has_descriptor(err))
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def _open_closed_descriptors() -> None:
    """Opens closed standard descriptors; other files would get their numbers, and libraries' messages."""
    for descriptor in DESCRIPTORS:
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number
