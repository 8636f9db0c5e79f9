"""Worker processes: how many cores they may use, and how they stop when their parent is killed."""

import os
import threading
import time

PARENT_POLL_SECONDS = 1.0


def exit_with_parent() -> None:
    """Makes this worker process exit when its parent dies, even if the parent was killed.

    A killed parent cannot stop its workers. So a thread in the worker polls the parent's process id.
    """
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def available_cores() -> list[int]:
    """Returns the indices of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
