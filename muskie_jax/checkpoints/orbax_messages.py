"""Keeps Orbax's tracebacks off the terminal, and writes them to a file when a save or a restore failed.

Orbax logs an error in each thread that it passes, and abandons coroutines, which complain when they are
collected ("Event loop is closed"): hundreds of lines around the one that matters.
"""

import collections
import datetime
import functools
import logging
import pathlib
import sys
import threading
import traceback
from typing import Any

import jax
from absl import logging as absl_logging

from muskie_jax.files import or_temporary
from muskie_jax.storage.address import append_text

ERRORS = "errors.txt"  # file in the work directory
MOST_MESSAGES = 100  # messages kept for the file
MOST_CHARACTERS = 16_000  # of an entry of the file: a disk may be nearly full


class OrbaxMessages(logging.Filter):
    """Collects Orbax's errors instead of printing them; see `collect_orbax_messages`.

    Attributes:
      failure: the first error that Orbax logged since the last `clear`, such as that of a save in the
        background; None if there was none.
    """

    def __init__(self):
        super().__init__()
        self.failure: BaseException | None = None
        self._texts: collections.deque[str] = collections.deque(maxlen=MOST_MESSAGES)

    def clear(self) -> None:
        self.failure = None
        self._texts.clear()

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether to print a record; collects those of Orbax and asyncio that report errors."""
        if record.levelno < logging.ERROR or not ("orbax" in record.pathname or record.name == "asyncio"):
            return True
        self._texts.append(logging.Formatter().format(record))
        if record.exc_info and record.name != "asyncio" and self.failure is None:
            self.failure = record.exc_info[1]
        return False

    def install(self) -> None:
        for logger in (absl_logging.get_absl_logger(), logging.getLogger("asyncio")):
            logger.addFilter(self)
        sys.unraisablehook = functools.partial(self._ignored, sys.unraisablehook)
        threading.excepthook = functools.partial(self._ended_thread, threading.excepthook)

    def _ignored(self, print_it: Any, unraisable: Any) -> None:
        what = unraisable.err_msg or "Exception ignored in"
        code = getattr(unraisable.object, "cr_code", None)  # of an abandoned coroutine
        source = code.co_filename if code else ""
        text = f"{what}: {unraisable.object!r} {source}: {unraisable.exc_value!r}"
        if "orbax" in text or "Event loop is closed" in text:
            self._texts.append(text)
        else:
            print_it(unraisable)

    def _ended_thread(self, print_it: Any, ended: threading.ExceptHookArgs) -> None:
        text = "".join(traceback.format_exception(ended.exc_type, ended.exc_value, ended.exc_traceback))
        if "orbax" in text:
            self._texts.append(text)
        else:
            print_it(ended)

    def write(self, workdir: pathlib.Path, error: BaseException) -> str:
        """Appends an error's traceback and the collected messages to a file; returns where, for a message.

        The file is `<workdir>/errors.txt`, or one in the folder of temporary files if that cannot be
        written. Returns "" if neither can.
        """
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        text = "\n".join([f"--- {now}", *traceback.format_exception(error), *self._texts])
        text = text[:MOST_CHARACTERS] + "\n"
        number = jax.process_index()
        name = ERRORS if number == 0 else f"errors.{number}.txt"
        for folder in or_temporary(workdir):
            path = folder / (name if folder == workdir else f"muskie_{workdir.name}_{name}")
            try:
                append_text(path, text)
                return f"; details: {path}"
            except OSError:
                continue
        return ""


@functools.cache
def collect_orbax_messages() -> OrbaxMessages:
    """Returns the collector of this process; installs it on the first call."""
    messages = OrbaxMessages()
    messages.install()
    return messages
