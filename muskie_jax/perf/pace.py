"""How fast something endless goes, once it goes steadily."""

import contextlib
import time
from collections.abc import Generator


def items_per_second(items: Generator, seconds: float) -> float:
    """Speed of a generator over at least so many seconds: after its first item, and half that time.

    The generator is closed.
    """
    with contextlib.closing(items):
        next(items)
        for length in (seconds / 2, seconds):
            count, start = 0, time.perf_counter()
            while (passed := time.perf_counter() - start) < length:
                next(items)
                count += 1
    return count / passed
