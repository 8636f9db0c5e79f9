"""Steady-state throughput of an endless generator."""

import contextlib
import time
from collections.abc import Generator


def items_per_second(items: Generator[object, None, None], seconds: float) -> float:
    """Returns the throughput of a generator, measured over at least `seconds`, and closes the generator.

    The first item and another `seconds / 2` are a warm-up, in which workers start and fill their queues.
    """
    with contextlib.closing(items):
        next(items)
        count, elapsed = 0, 0.0
        for length in (seconds / 2, seconds):
            count, elapsed, start = 0, 0.0, time.perf_counter()
            while elapsed < length:
                next(items)
                count += 1
                elapsed = time.perf_counter() - start
    return count / elapsed
