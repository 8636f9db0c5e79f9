"""Runs commands side by side, one or more on each GPU of this computer."""

import collections
import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from muskie_jax.processes import interrupt

POLL_SECONDS = 0.1
GPU_MEMORY = 0.9  # fraction of a GPU's memory that jobs share
FULL_DISK_BYTES = 2**20  # a disk with less free space counts as full


class Job(NamedTuple):
    """A command.

    Attributes:
      name: its name in messages.
      command: the program and its arguments.
      log: file that the command's output is appended to.
    """

    name: str
    command: tuple[str, ...]
    log: pathlib.Path


class Ended(NamedTuple):
    """A command that ended.

    Attributes:
      job: the command.
      status: its exit status; negative: the signal that killed it.
      seconds: its wall time.
      log_start: position in its log at which its output begins.
    """

    job: Job
    status: int
    seconds: float
    log_start: int

    def reason(self) -> str:
        """Returns why the command failed: its last line with an error, or else its last line."""
        path = self.job.log
        try:
            with path.open("rb") as log:
                log.seek(self.log_start)
                text = log.read().decode("utf-8", errors="replace")
            free = shutil.disk_usage(path.parent).free
        except OSError as error:
            return f"{path} cannot be read ({error.strerror or error})"
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        reasons = [line for line in lines if line.startswith("error:")][-1:]
        if free < FULL_DISK_BYTES:  # the error may be missing from the log
            reasons.insert(0, f"the disk of {path} is full")
        elif self.status < 0 and not reasons:
            reasons = [f"killed by {signal.Signals(-self.status).name}"]
        return "; ".join(reasons or lines[-1:]) or "no message"


class _Running(NamedTuple):
    job: Job
    process: subprocess.Popen
    start: float
    log_start: int


def run_jobs(
    jobs: Sequence[Job],
    gpus: Sequence[str],
    on_start: Callable[[Job, str], None],
    on_end: Callable[[Ended], None],
) -> bool:
    """Runs all jobs, in order, each as soon as a GPU is free. A failing job does not stop the others.

    After a stop signal, such as Ctrl-C, no job is started any more, and every such signal is passed on to
    the running jobs as SIGTERM: a training saves and stops after the first, and others do not interrupt it.
    After an exception, such as one of `on_end`, the running jobs get SIGTERM and are waited for. If this
    process is killed, they get it too, if they call `muskie_jax.processes.interrupt.stop_with_starter`.

    Args:
      jobs: the jobs.
      gpus: numbers of the GPUs, as in CUDA_VISIBLE_DEVICES. "" stands for whatever JAX finds. A GPU that is
        named twice runs two jobs at a time, each with half of its memory.
      on_start, on_end: called when a job starts, with its GPU, and when it ends.

    Returns:
      Whether a signal stopped the queue.
    """
    waiting = collections.deque(jobs)
    running: dict[int, _Running] = {}  # by position in `gpus`
    passed_on = 0
    with _stop_requests() as requests, _ended_after_an_error(running):
        while running or (waiting and not requests):
            for slot, gpu in enumerate(gpus):
                if waiting and not requests and slot not in running:
                    job = waiting.popleft()
                    on_start(job, gpu)
                    running[slot] = _start(job, gpu, gpus.count(gpu))
            for _ in requests[passed_on:]:
                passed_on += 1
                for each in running.values():
                    each.process.send_signal(signal.SIGTERM)
            for slot, (job, process, start, log_start) in list(running.items()):
                status = process.poll()
                if status is not None:
                    process.communicate()  # closes its standard input
                    del running[slot]
                    on_end(Ended(job, status, time.monotonic() - start, log_start))
            time.sleep(POLL_SECONDS)
        return bool(requests)


def _start(job: Job, gpu: str, sharing: int) -> _Running:
    """Starts a job, one of `sharing` on its GPU.

    In a session of its own, it does not receive the terminal's Ctrl-C beside ours. Its standard input is a
    pipe that ends when this process does.
    """
    environment = os.environ | {interrupt.STOP_WITH_STARTER: "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": gpu} if gpu else {}
    if sharing > 1:
        environment |= {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{GPU_MEMORY / sharing:.2f}"}
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        log_start = log.tell()
        process = subprocess.Popen(
            job.command,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
    return _Running(job, process, time.monotonic(), log_start)


@contextlib.contextmanager
def _ended_after_an_error(running: Mapping[int, _Running]) -> Iterator[None]:
    """A context after whose errors the running jobs save and stop, and are waited for."""
    try:
        yield
    except BaseException:
        for each in running.values():
            each.process.send_signal(signal.SIGTERM)
        for each in running.values():
            each.process.communicate()
        raise


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Yields a list that receives the number of every stop signal while the context is open."""
    requests: list[int] = []
    handle = lambda number, frame: requests.append(number)
    previous = {number: signal.signal(number, handle) for number in interrupt.signals_to_handle()}
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
