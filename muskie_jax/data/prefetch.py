"""Prepares items for the training loop ahead of time, in a background thread."""

import collections
import contextlib
import math
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")
U = TypeVar("U")

POLL_SECONDS = 0.2  # how often a thread that waits for a queue checks whether to stop
CLOSE_SECONDS = 10.0  # time for a thread to stop, and again after it was abandoned


class Prefetched(Iterator[U], Generic[U]):
    """An iterator over the items of a queue, which `prefetch` fills."""

    def __init__(self, ready: queue.Queue[tuple[Any, BaseException | None]]):
        self._ready = ready
        self._next: tuple[Any, BaseException | None] | None = None  # taken from the queue, not returned yet

    def __next__(self) -> U:
        value, error = self._next or self._ready.get()
        if error is not None:
            self._next = (None, error)  # an iterator that has ended stays so
            raise error
        self._next = None
        return value

    def arrives(self, seconds: float) -> bool:
        """Returns whether an item, or an error, is there within a time."""
        try:
            return self.wait(seconds)
        except TimeoutError:
            return False

    def wait(self, seconds: float = math.inf, cancelled: Callable[[], bool] = lambda: False) -> bool:
        """Waits for the next item, or for an error; returns whether there is one before `cancelled()`.

        Args:
          seconds: the longest time to wait.
          cancelled: function that is called every POLL_SECONDS while there is no item.

        Raises:
          TimeoutError: if there is no item after `seconds`.
        """
        deadline = time.monotonic() + seconds
        while self._next is None:
            with contextlib.suppress(queue.Empty):
                self._next = self._ready.get(timeout=POLL_SECONDS)
                break
            if cancelled():
                return False
            if time.monotonic() > deadline:
                raise TimeoutError
        return True


def hold_back(items: Iterable[T], count: int, on_error: Callable[[Exception], object]) -> Iterator[T]:
    """Yields each item when `count` further ones are there, so that an error is known `count` items ahead.

    On an error, `on_error` is called, the items that are left are yielded, and then the error is raised. If
    there are fewer than `count` items before it, it is raised at once.

    Args:
      items: the items. If the iterable has a `close` method, as generators do, it is called at the end.
      count: number of items to hold back.
      on_error: function that is called with the error.
    """
    held: collections.deque[T] = collections.deque()
    failure = None
    try:
        for item in items:
            held.append(item)
            if len(held) > count:
                yield held.popleft()
    except Exception as error:
        if len(held) < count:
            raise
        failure = error
        on_error(error)
    finally:
        close = getattr(items, "close", None)
        if close:
            close()
    while held:
        yield held.popleft()
    if failure is not None:
        raise failure


@contextlib.contextmanager
def prefetch(
    items: Iterable[T],
    prepare: Callable[[T], U],
    ahead: int,
    abandon: Callable[[], object] = lambda: None,
) -> Iterator[Prefetched[U]]:
    """Yields an iterator over prepared items, up to `ahead` of which are prepared in advance.

    The order of items is kept. An exception in the thread is raised by the iterator, after the items
    that precede it. The thread stops when the context ends.

    Args:
      items: the items, possibly endless. If the iterable has a `close` method, as generators do, the thread
        calls it.
      prepare: function that the thread calls on each item, for example to copy it to a device.
      ahead: capacity of the queue of prepared items.
      abandon: function that is called if the thread does not stop within CLOSE_SECONDS, such as one that
        kills the processes that it waits for.
    """
    ready: queue.Queue = queue.Queue(maxsize=ahead)
    done = threading.Event()

    def put(entry) -> None:
        while not done.is_set():
            try:
                return ready.put(entry, timeout=POLL_SECONDS)
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                put((prepare(item), None))
                if done.is_set():
                    return
            put((None, StopIteration()))
        except BaseException as error:
            put((None, error))
        finally:
            close = getattr(items, "close", None)
            if close:
                close()

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        yield Prefetched(ready)
    finally:
        done.set()
        thread.join(CLOSE_SECONDS)
        if thread.is_alive():
            abandon()
            thread.join(CLOSE_SECONDS)
