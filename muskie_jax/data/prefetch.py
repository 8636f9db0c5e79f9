"""Prepares items for the training loop ahead of time, in a background thread."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

POLL_SECONDS = 0.2  # how often a thread whose queue is full checks whether to stop


@contextlib.contextmanager
def prefetch(items: Iterable[T], prepare: Callable[[T], U], ahead: int) -> Iterator[Iterator[U]]:
    """Yields an iterator over prepared items, up to `ahead` of which are prepared in advance.

    The order of items is kept. An exception in the thread is raised by the iterator, after the items
    that precede it. The thread stops when the context ends.

    Args:
      items: the items, possibly endless. If the iterable has a `close` method, as generators do, the thread
        calls it.
      prepare: function that the thread calls on each item, for example to copy it to a device.
      ahead: capacity of the queue of prepared items.
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

    def results() -> Iterator[U]:
        while True:
            value, error = ready.get()
            if isinstance(error, StopIteration):
                return
            if error is not None:
                raise error
            yield value

    thread = threading.Thread(target=work, name="prefetch", daemon=True)
    thread.start()
    try:
        yield results()
    finally:
        done.set()
        thread.join(timeout=10)
