"""The command `python -m muskie_jax.main`, which runs the job of a config (`muskie_jax/jobs.py`).

Every data worker of a run imports this module again, so it imports little.
"""

import sys

from muskie_jax.fast_imports import fast_imports
from muskie_jax.processes.interrupt import handle_all_signals, stop_with_starter


def main() -> None:
    """Parses `sys.argv` and runs the job of its config."""
    with fast_imports():
        from muskie_jax import jobs
    jobs.main()


if __name__ == "__main__":
    handle_all_signals(sys.argv)  # before the slow imports, during which signals may arrive
    stop_with_starter()
    main()
