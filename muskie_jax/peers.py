"""Ends all processes of a run when one of them fails.

The others would wait for the failed process in their next collective operation, until JAX's service misses
its heartbeats and aborts them: two minutes, and a hundred lines each.
"""

import sys
import threading
import time

import jax
from jax._src import distributed  # JAX has no public way to send a text to other processes

from muskie_jax.errors import MACHINE_ERROR, end_process, one_line

KEY = "muskie_jax/failure"
SECONDS = 2.0  # between looks


def tell_peers(message: str) -> None:
    """Tells all other processes why this one fails. Process 0 gives them time to read it."""
    client = distributed.global_state.client
    if client is None or jax.process_count() == 1:
        return
    try:
        client.key_value_set(KEY, f"process {jax.process_index()}: {one_line(message)}")
        _outlive_others()
    except jax.errors.JaxRuntimeError:
        pass  # another process failed first, or the service is gone


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
