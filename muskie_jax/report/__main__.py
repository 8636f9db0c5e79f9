"""Writes a report from stored results: `python -m muskie_jax.report --workdir runs/evaluation`.

The folder is the work directory of the job `evaluate`, finished or not. The command writes results.csv,
tables.md, tables.tex and report.html into it, and prints their paths as JSON.
"""

import json

from absl import logging

from muskie_jax.command_line import WORKDIR, run_command
from muskie_jax.errors import UserError, fail
from muskie_jax.files import user_path
from muskie_jax.report.write import write_report

NEEDED = {"workdir": "runs/evaluation"}


def report() -> None:
    """Writes the report of --workdir; flags must be parsed."""
    logging.set_verbosity(logging.WARNING)
    assert WORKDIR.value is not None, "a needed flag"
    try:
        paths = write_report(user_path(WORKDIR.value))
    except UserError as error:
        fail(str(error))
    print(json.dumps({kind: str(path) for kind, path in paths.items()}))


def main(invocation: str = "python -m muskie_jax.report") -> None:
    """Writes the report of the folder in `sys.argv`. `invocation` is how messages refer to the program."""
    run_command(invocation, __doc__ or "", report, NEEDED)


if __name__ == "__main__":
    main()
