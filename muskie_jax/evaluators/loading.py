"""Loading groups of views ahead of their turn."""

import collections
import concurrent.futures
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Key, Loaded = TypeVar("Key"), TypeVar("Loaded")
THREADS = 4


def load_in_order(
    load: Callable[[Key], Loaded], keys: Iterable[Key], parallel: bool, ahead: int = 0
) -> Iterator[Loaded]:
    """What `load` gives for each key.

    Args:
      load: of one key.
      keys: in the order of the results.
      parallel: whether threads may load side by side; otherwise keys are loaded when it is their turn, by
        the caller's thread.
      ahead: how many more than there are threads are loaded before they are asked for.
    """
    if not parallel:
        yield from map(load, keys)
        return
    keys, coming = iter(keys), collections.deque()
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        while True:
            for key in itertools.islice(keys, THREADS + ahead - len(coming)):
                coming.append(pool.submit(load, key))
            if not coming:
                return
            yield coming.popleft().result()
