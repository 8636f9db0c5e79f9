"""Loads groups of views ahead of use."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Key = TypeVar("Key")
Loaded = TypeVar("Loaded")
THREADS = 4


def load_in_order(
    load: Callable[[Key], Loaded], keys: Iterable[Key], parallel: bool, ahead: int = 0
) -> Iterator[Loaded]:
    """Yields `load(key)` for each key, in order.

    Args:
      load: function that loads one key.
      keys: keys, in the order of the results.
      parallel: whether threads may call `load` concurrently. Otherwise the caller's thread loads each key
        on demand.
      ahead: number of keys to load ahead of use, in addition to one per thread.
    """
    if not parallel:
        yield from map(load, keys)
        return
    remaining, pending = iter(keys), collections.deque()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        while True:
            for key in itertools.islice(remaining, THREADS + ahead - len(pending)):
                pending.append(pool.submit(load, key))
            if not pending:
                return
            yield pending.popleft().result()
