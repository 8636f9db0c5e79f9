"""Processes of a run, as threads that share what JAX's coordination service does for them."""

import threading
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    """Returns when a condition is true; fails if it is not within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class Store:
    """What JAX's coordination service does for this package."""

    def __init__(self, processes):
        self.values, self.changed = {}, threading.Condition()
        self.barrier = threading.Barrier(processes)

    def key_value_set(self, key, value, allow_overwrite=False):
        with self.changed:
            self.values[key] = value
            self.changed.notify_all()

    def blocking_key_value_get(self, key, timeout_in_ms):
        with self.changed:
            if not self.changed.wait_for(lambda: key in self.values, timeout_in_ms / 1000):
                raise RuntimeError("DEADLINE_EXCEEDED")
            return self.values[key]

    def wait_at_barrier(self, barrier_id, timeout_in_ms):
        self.barrier.wait(timeout_in_ms / 1000)
