"""Work ahead of the training loop, in a thread."""

import contextlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")

POLL_SECONDS = 0.2  # how often a thread with nothing to do looks whether it should end


@contextlib.contextmanager
def prefetch(items: Iterable[T], prepare: Callable[[T], U], ahead: int) -> Iterator[Iterator[U]]:
    """Prepares up to `ahead` items before they are asked for; the order is kept.

    Args:
      items: may be endless; closed in the thread if it can be, as generators can.
      prepare: called in the thread, for example to copy to a device.

    An exception in the thread is raised where the item it belongs to would have been returned. The
    thread ends with the context.
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
