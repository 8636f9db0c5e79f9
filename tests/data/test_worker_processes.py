"""Worker processes end with their parent, whenever it is killed."""

import multiprocessing
import os
import signal
import time

import pytest

from muskie_jax.data.processes import exit_with_parent

PATIENCE = 30  # seconds


def work(parent: int, orphaned_first: bool, connection) -> None:
    """Sends its process id, and lives for minutes, unless it ends with its parent."""
    if orphaned_first:
        connection.send(os.getpid())
        os.kill(parent, signal.SIGKILL)
        while os.getppid() == parent:
            time.sleep(0.01)
    exit_with_parent()
    if not orphaned_first:
        connection.send(os.getpid())
    time.sleep(10 * PATIENCE)


def start_worker_and_wait(orphaned_first: bool, connection) -> None:
    context = multiprocessing.get_context("spawn")
    context.Process(target=work, args=(os.getpid(), orphaned_first, connection)).start()
    time.sleep(10 * PATIENCE)


@pytest.mark.parametrize("orphaned_first", [False, True], ids=["while it works", "while it starts"])
def test_a_worker_ends_when_its_parent_is_killed(orphaned_first):
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    parent = context.Process(target=start_worker_and_wait, args=(orphaned_first, sending))
    parent.start()
    assert receiving.poll(PATIENCE), "the worker has not started"
    worker = receiving.recv()
    parent.kill()
    parent.join()
    deadline = time.monotonic() + PATIENCE
    while is_running(worker):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
