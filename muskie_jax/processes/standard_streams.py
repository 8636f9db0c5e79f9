"""Keeps a program running when nobody can read its output: a closed terminal or pipe, a full disk."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO

DESCRIPTORS = (0, 1, 2)  # of standard input, output and error


class LastingStream(io.TextIOBase):
    """A text stream that discards what cannot be written, and all that follows."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
        except (OSError, ValueError):  # ValueError: Python closed it
            self._discard()
        return len(text)

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


@contextlib.contextmanager
def lasting_streams() -> Iterator[None]:
    """A context in which writing to standard output and standard error never fails."""
    _open_closed_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (
        LastingStream(stream or io.StringIO())  # None if it was closed when Python started
        for stream in before
    )
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
