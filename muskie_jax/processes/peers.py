"""Ends all processes of a run when one of them fails.

Some failures leave the state intact: all processes save, and then fail together (`raise_together`). After
others, all end at once (`tell_peers`, `end_with_peers`). Otherwise, they would wait for the failed process
in their next collective operation, until JAX's service misses its heartbeats and aborts them: two minutes,
and a hundred lines each.
"""

import pathlib
import sys
import threading
import time

import jax
from jax._src import distributed  # JAX has no public way to send a text to other processes

from muskie_jax.errors import (
    MACHINE_ERROR,
    Hung,
    RunFailed,
    UserError,
    end_process,
    exit_status,
    first_line,
    one_line,
)
from muskie_jax.files import write_traceback
from muskie_jax.processes.coordination import Coordination

KEY = "muskie_jax/failure"
COLLECTIVES = ("Gloo", "NCCL", "coordination service")  # libraries that connect processes, in messages
_failed_alone = False
SECONDS = 2.0  # between looks


def tell_peers(message: str) -> None:
    """Tells all other processes why this one fails, and gives them time to read it.

    Otherwise, they might notice first that an update fails without this process.
    """
    client = distributed.global_state.client
    if client is None or jax.process_count() == 1:
        return
    try:
        client.key_value_set(KEY, f"process {jax.process_index()}: {one_line(message)}")
        time.sleep(2 * SECONDS)
    except jax.errors.JaxRuntimeError:
        pass  # another process failed first, or the service is gone


def fail_alone() -> None:
    """Notes that this one of several processes ends with an error that the others do not have.

    They are not told yet: a save in progress needs them.
    """
    global _failed_alone
    _failed_alone = jax.process_count() > 1


def failed_alone() -> bool:
    """Returns whether this process ends with an error that the others must be told."""
    return _failed_alone


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
        if not message.startswith(f"process {jax.process_index()}:"):
            print(f"error: another process failed: {message}", file=sys.stderr, flush=True)
            _outlive_others()
            end_process(MACHINE_ERROR)


def _outlive_others() -> None:
    if jax.process_index() == 0:  # it runs the service that the others read from
        time.sleep(2 * SECONDS)
