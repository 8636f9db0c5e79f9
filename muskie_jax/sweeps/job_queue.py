"""Runs commands side by side, one or more on each GPU of this computer."""

import collections
import contextlib
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from muskie_jax import interrupt

POLL_SECONDS = 0.1
GPU_MEMORY = 0.9  # fraction of a GPU's memory that jobs share


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
    """A command that ended, with its exit status (negative: the signal that killed it) and wall time."""

    job: Job
    status: int
    seconds: float


class _Running(NamedTuple):
    job: Job
    process: subprocess.Popen
    start: float


def run_jobs(
    jobs: Sequence[Job],
    gpus: Sequence[str],
    on_start: Callable[[Job, str], None],
    on_end: Callable[[Ended], None],
) -> bool:
    """Runs all jobs, in order, each as soon as a GPU is free. A failing job does not stop the others.

    After a stop signal, such as Ctrl-C, no job is started any more, and every such signal is passed on to
    the running jobs as SIGTERM: a training saves and stops after the first, and others do not interrupt it.

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
    with _stop_requests() as requests:
        while running or (waiting and not requests):
            for slot, gpu in enumerate(gpus):
                if waiting and not requests and slot not in running:
                    job = waiting.popleft()
                    on_start(job, gpu)
                    process = _start(job, gpu, gpus.count(gpu))
                    running[slot] = _Running(job, process, time.monotonic())
            for _ in requests[passed_on:]:
                passed_on += 1
                for each in running.values():
                    each.process.send_signal(signal.SIGTERM)
            for slot, (job, process, start) in list(running.items()):
                status = process.poll()
                if status is not None:
                    del running[slot]
                    on_end(Ended(job, status, time.monotonic() - start))
            time.sleep(POLL_SECONDS)
        return bool(requests)


def _start(job: Job, gpu: str, sharing: int) -> subprocess.Popen:
    """Starts a job, one of `sharing` on its GPU.

    In a session of its own, it does not receive the terminal's Ctrl-C beside ours.
    """
    environment = os.environ | ({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})
    if sharing > 1:
        environment |= {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{GPU_MEMORY / sharing:.2f}"}
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as log:
        return subprocess.Popen(
            job.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )


@contextlib.contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Yields a list that receives the number of every stop signal while the context is open."""
    requests: list[int] = []
    handle = lambda number, frame: requests.append(number)
    previous = {number: signal.signal(number, handle) for number in interrupt.SIGNALS}
    try:
        yield requests
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
