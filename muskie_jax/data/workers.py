"""The worker processes that load photographs: how they start, what they do, and how often they die."""

import collections
import contextlib
import faulthandler
import multiprocessing
import os
import pathlib
import signal
import sys
import time

from muskie_jax.data.allocation import keep_freed_memory
from muskie_jax.data.processes import exit_with_parent
from muskie_jax.errors import UserError
from muskie_jax.processes.interrupt import SIGNALS

SECONDS_TO_SAVE = 300  # time that a worker process keeps running after SIGTERM
MAX_DEATHS, DEATHS_MINUTES = 5, 10  # more deaths of workers than this, within so many minutes, end a run
DIED = "Worker process was terminated unexpectedly"  # start of Grain's message
DUMP_SECONDS = 1.0  # time that workers get to write their stacks
WORKER_NAME = "grain-process-prefetch"  # beginning of the names that Grain gives to its processes
STATES = {"T": "stopped by a signal", "D": "waiting for a disk or a server", "Z": "dead"}


def start_worker(folder: str, index: int, count: int) -> None:
    """Initialises a worker process of Grain.

    Stop signals may reach workers as well as the training process: Ctrl-C, the closing of a terminal, and
    those of a scheduler. The training process needs batches until it has saved, and several processes take
    some updates to agree on the step to save. So workers exit some minutes after SIGTERM, and ignore the
    others. They exit at once when the training process is killed, since it cannot stop them then.

    On SIGUSR1, a worker writes the stacks of its threads to a file.

    Args:
      folder: see `describe_worker`; the worker writes its process id to a file there.
      index: number of the worker, from 0.
      count: number of workers.
    """
    del count
    keep_freed_memory()
    for number in SIGNALS:
        if number != signal.SIGTERM:
            signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SECONDS_TO_SAVE))
    with contextlib.suppress(OSError):  # only messages need the files
        faulthandler.register(signal.SIGUSR1, file=_stacks_file(folder, index).open("w"))
        _process_file(folder, index).write_text(str(os.getpid()))
    exit_with_parent()


def keep_quiet_about_unread_groups() -> None:
    """Suppresses a warning of Python's resource tracker about the memory of groups that nobody has read.

    The tracker is a process of its own, which frees this memory when the program ends.
    """
    option = "ignore:resource_tracker"
    if option not in sys.warnoptions:
        sys.warnoptions.append(option)  # passed to the processes that multiprocessing starts


def kill_workers() -> None:
    """Kills the workers of this process, also those that are stopped or hang while they start."""
    for process in multiprocessing.active_children():
        if process.name.startswith(WORKER_NAME):
            process.kill()


def _process_file(folder: str | os.PathLike, index: int) -> pathlib.Path:
    return pathlib.Path(folder, f"process_{index}")


def _stacks_file(folder: str | os.PathLike, index: int) -> pathlib.Path:
    return pathlib.Path(folder, f"stacks_{index}")


def _process_of(folder: str | os.PathLike, index: int) -> int | None:
    """Returns the process id of a worker; None if it is unknown."""
    try:
        return int(_process_file(folder, index).read_text())
    except (OSError, ValueError):
        return None


def describe_worker(folder: str | os.PathLike, index: int, count: int) -> str:
    """Describes a worker and its state, such as "data worker 2 of 8, process 4711 (stopped by a signal)".

    Args:
      folder: the folder that the workers were started with.
      index: number of the worker, from 0; messages count from 1.
      count: number of workers.
    """
    name = f"data worker {index + 1} of {count}"
    process = _process_of(folder, index)
    if process is None:
        return f"{name}, which has not started"
    try:
        stat = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:  # it is dead, or the system has no /proc
        return f"{name}, process {process}"
    state = STATES.get(stat.rpartition(")")[2].split()[0], "running")
    return f"{name}, process {process} ({state})"


def worker_stacks(folder: str | os.PathLike, count: int) -> str:
    """Returns the stacks of all threads of all workers; a stopped process cannot write its stacks."""
    for index in range(count):
        process = _process_of(folder, index)
        if process is not None:
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGUSR1)
    time.sleep(DUMP_SECONDS)
    parts = []
    for index in range(count):
        with contextlib.suppress(OSError):
            written = _stacks_file(folder, index).read_text(errors="replace")
            parts.append(f"{describe_worker(folder, index, count)}\n{written or 'wrote no stacks'}\n")
    return "\n".join(parts)


class Deaths:
    """Counts deaths of workers, of which a run survives MAX_DEATHS within DEATHS_MINUTES."""

    def __init__(self) -> None:
        self._times: collections.deque[float] = collections.deque()

    def add(self, error: RuntimeError) -> None:
        """Counts a death that Grain reported.

        Raises:
          UserError: if workers died too often.
        """
        now = time.monotonic()
        self._times.append(now)
        while now - self._times[0] > 60 * DEATHS_MINUTES:
            self._times.popleft()
        if len(self._times) > MAX_DEATHS:
            raise UserError(
                f"data workers died {len(self._times)} times within {DEATHS_MINUTES} minutes "
                f"({reason_of_death(error)}): lower config.data.workers or config.data.threads, or give "
                "the job more memory"
            ) from error


def reason_of_death(error: RuntimeError) -> str:
    """Returns how a worker ended, from Grain's message, such as "exit code -9, killed"."""
    code = str(error).partition("exit code ")[2].partition(".")[0]
    killed = ", killed, often for lack of memory" if code == str(-signal.SIGKILL) else ""
    return f"exit code {code or 'unknown'}{killed}"
