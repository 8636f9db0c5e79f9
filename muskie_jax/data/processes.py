"""Worker processes: how many there may be, and that they do not outlive the one that they work for."""

import os
import threading
import time

PARENT_POLL_SECONDS = 1.0


def exit_with_parent() -> None:
    """Runs in a worker process: ends it when its parent was killed and could not do so itself."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_POLL_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def available_cores() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count())]
