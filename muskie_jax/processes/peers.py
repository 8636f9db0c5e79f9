"""Ends all processes of a run when one of them fails.

Some failures leave the state intact: all processes save, and then fail together (`raise_together`). After
others, all end at once (`tell_peers`, `end_with_peers`). Otherwise, they would wait for the failed process
in their next collective operation, until JAX's service misses its heartbeats and aborts them: two minutes,
and a hundred lines each.
"""

import contextlib
import pathlib
import sys
import threading
import time

import jax
from jax._src import distributed  # JAX has no public way to send a text to other processes

from muskie_jax.errors import (
    Hung,
    RunFailed,
    UserError,
    end_process,
    exit_status,
    first_line,
    one_line,
)
from muskie_jax.files import write_traceback
from muskie_jax.processes.coordination import Coordination, client_of_peers

KEY = "muskie_jax/failure"
COLLECTIVES = ("Gloo", "NCCL", "coordination service")  # libraries that connect processes, in messages
SECONDS = 2.0  # between looks
_ending = threading.Event()  # this process ends with an error of its own


def tell_peers(message: str, status: int) -> None:
    """Tells all other processes why this one fails, and gives them time to read it.

    Otherwise, they might wait for it, or notice first that an update fails without it.

    Args:
      message: why it fails.
      status: the exit status, which the others take over.
    """
    client = client_of_peers()
    if client is None:
        return
    _ending.set()
    text = f"{status} process {distributed.global_state.process_id}: {one_line(message)}"
    # Fails if another process failed first, or if the service is gone.
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        client.key_value_set(KEY, text)
    time.sleep(2 * SECONDS)


def raise_together(failure: Exception | None, workdir: pathlib.Path) -> None:
    """Raises the failure of any process in all processes of the run, each of which must call this.

    Args:
      failure: the failure of this process; None without one.
      workdir: folder for the traceback of an error that nobody foresaw.

    Raises:
      RunFailed: if there is more than one process, and one has a failure.
    """
    coordination = Coordination.of_jax()
    if coordination is None:
        return
    message, status = "", 0
    if failure is not None:
        message, status = str(failure), exit_status(failure)
        if not isinstance(failure, (UserError, Hung)):
            file = write_traceback(failure, workdir)
            message = f"{type(failure).__name__}: {first_line(failure)} (traceback: {file})"
    found = coordination.gather("failure", f"{status} {message}")
    if failure is not None:
        raise RunFailed(message, status) from failure
    for process, other in enumerate(found):
        status, _, message = other.partition(" ")
        if int(status):
            raise RunFailed(f"another process failed: process {process}: {message}", int(status))


def hint_of_peers(error: Exception, processes: int) -> str:
    """Returns what to say beside an error that a process has if another one has died; "" for others."""
    if processes == 1 or not any(library in str(error) for library in COLLECTIVES):
        return ""
    return (
        "; another process has probably ended first: see what it printed, then run the same command again "
        "in all processes"
    )


def end_with_peers() -> None:
    """Starts a thread that ends this process, with one line, when another process fails."""
    threading.Thread(target=_watch, name="peers", daemon=True).start()


def _watch() -> None:
    client = distributed.global_state.client
    assert client is not None, "the process is connected"
    while True:
        time.sleep(SECONDS)
        try:
            message = client.key_value_try_get(KEY)
        except jax.errors.JaxRuntimeError as error:
            if "NOT_FOUND" in str(error):
                continue
            return  # the service is gone: JAX ends this process
        if _ending.is_set():
            return  # perhaps with the same error
        status, _, reason = message.partition(" ")
        print(f"error: another process failed: {reason}", file=sys.stderr, flush=True)
        _outlive_others()
        end_process(int(status))


def _outlive_others() -> None:
    if jax.process_index() == 0:  # it runs the service that the others read from
        time.sleep(2 * SECONDS)
