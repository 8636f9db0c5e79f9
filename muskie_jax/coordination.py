"""Short texts that the processes of a distributed run exchange, through JAX's coordination service."""

import itertools
from typing import Any

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

        state = distributed.global_state
        if state.client is None or state.num_processes == 1:
            return None
        return cls(state.client, state.process_id, state.num_processes)

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
        texts = []
        for process in range(self.processes):
            while not (other := self.wait_for(f"{key}/{process}")):
                pass
            texts.append(other)
        return texts

    def wait_for_all(self, key: str) -> None:
        """Waits until all processes have called this."""
        self._client.wait_at_barrier(f"{self._prefix}/{key}", LEAVE_MILLISECONDS)
