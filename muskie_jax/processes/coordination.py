"""Connects the processes of a distributed run, which then exchange short texts through JAX.

Importing this module does not import JAX.
"""

import itertools
import math
import os
import re
import sys
import threading
import time
from typing import Any

from muskie_jax.errors import MACHINE_ERROR, UserError

LONGEST_WAIT_MINUTES = 55.0  # for other processes; JAX's coordination service waits for an hour
FIRST_MESSAGE_SECONDS, MESSAGE_SECONDS = 10.0, 30.0
COORDINATOR_SECONDS = 10.0  # process 0 waits longer: when it ends, JAX aborts the processes that wait
JAX_SECONDS = 240.0  # JAX waits longer than we do, because it would abort the process
PREFIX = "muskie"
WAIT_MILLISECONDS = 1_000
LEAVE_MILLISECONDS = 600_000
_runs = itertools.count()


class Coordination:
    """Exchanges texts with the other processes of a run.

    Every process must create its objects in the same order, since each has keys of its own.

    Args:
      client: client of JAX's coordination service.
      process: index of this process.
      processes: number of processes.
    """

    def __init__(self, client: Any, process: int, processes: int):
        self.process, self.processes = process, processes
        self._client = client
        self._prefix = f"{PREFIX}/{next(_runs)}"

    @classmethod
    def of_jax(cls) -> "Coordination | None":
        """Returns one for the run that JAX is connected to; None without other processes."""
        from jax._src import distributed  # JAX has no public access to its key-value store

        state, client = distributed.global_state, client_of_peers()
        return cls(client, state.process_id, state.num_processes) if client else None

    def publish(self, key: str, text: str) -> None:
        self._client.key_value_set(f"{self._prefix}/{key}", text, allow_overwrite=True)

    def wait_for(self, key: str) -> str | None:
        """Returns a text as soon as a process has published it; None if that takes more than a second."""
        try:
            return self._client.blocking_key_value_get(f"{self._prefix}/{key}", WAIT_MILLISECONDS)
        except Exception as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            return None

    def gather(self, key: str, text: str) -> list[str]:
        """Returns the texts of all processes, none of them empty. Each process must call it."""
        self.publish(f"{key}/{self.process}", text)
        texts, due = [], time.monotonic() + MESSAGE_SECONDS
        for process in range(self.processes):
            while not (other := self.wait_for(f"{key}/{process}")):
                if time.monotonic() > due:
                    _log(f"process {self.process} waits for process {process} ({key})")
                    due += MESSAGE_SECONDS
            texts.append(other)
        return texts

    def wait_for_all(self, key: str) -> None:
        """Waits until all processes have called this."""
        self._client.wait_at_barrier(f"{self._prefix}/{key}", LEAVE_MILLISECONDS)


def client_of_peers() -> Any | None:
    """Returns JAX's client of the service that connects this process to others; None without others."""
    from jax._src import distributed

    state = distributed.global_state
    return state.client if state.num_processes > 1 else None


def connect(coordinator: str | None, processes: int | None, process: int | None, minutes: float) -> None:
    """Connects this process to the others of its run, which may start later.

    If not all connect in time, it ends the process with one line and exit status 1.

    Args:
      coordinator: "host:port" of process 0; None to detect it.
      processes: number of processes; None to detect it.
      process: index of this process; None to detect it.
      minutes: how long to wait for the other processes.

    Raises:
      UserError: if the arguments do not describe the processes and JAX cannot detect them.
    """
    import jax

    if coordinator is not None and not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator={coordinator} must be HOST:PORT, such as node1:8476")
    if not math.isfinite(minutes):
        raise UserError(f"--connect_minutes={minutes} must be a finite number")
    # JAX's service would handle SIGTERM alone, and miss it in a resumed run that has not made an update.
    jax.config.update("jax_enable_preemption_service", False)
    limit = 60 * minutes + COORDINATOR_SECONDS * (process in (0, None))
    start = time.monotonic()
    errors: list[Exception] = []

    def initialize() -> None:
        try:
            jax.distributed.initialize(
                coordinator, processes, process, initialization_timeout=round(limit + JAX_SECONDS)
            )
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=initialize, name="connect", daemon=True)
    thread.start()
    everyone = f"all {processes} processes" if processes else "all processes"
    place = f" at {coordinator}" if coordinator else ""
    thread.join(min(FIRST_MESSAGE_SECONDS, limit))
    while thread.is_alive():
        waited = time.monotonic() - start
        if waited >= limit:
            _log(
                f"error: not {everyone} connected{place} within {waited:.0f} s: start the missing ones, "
                "check --coordinator, or pass a larger --connect_minutes"
            )
            os._exit(MACHINE_ERROR)  # JAX cannot be asked to stop waiting
        _log(f"waiting for {everyone} to connect{place}: {waited:.0f} s of at most {limit:.0f} s")
        thread.join(min(MESSAGE_SECONDS, limit - waited))
    for error in errors:
        if not isinstance(error, (ValueError, IndexError)):
            raise error
        raise UserError(
            f"--distributed needs --coordinator=HOST:PORT --num_processes=N --process_id=I, I < N ({error})"
        ) from error


def _log(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
