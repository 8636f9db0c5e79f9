"""Worker processes: how many cores they may use, and how they stop when their parent is killed."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def exit_with_parent() -> None:
    """Makes this worker process exit when its parent dies, even if the parent was killed.

    A killed parent cannot stop its workers, so a thread of the worker waits for its end. A parent that
    died while the worker was starting has ended, too. Its process id would not show this: by now, the
    worker's parent is another process.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "called in a process of multiprocessing"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def available_cores() -> list[int]:
    """Returns the indices of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
