"""Writes a report again from results alone: `python -m muskie_jax.report --workdir runs/evaluation`.

The folder is that of a job `evaluate`, finished or not. results.csv, tables.md, tables.tex and report.html
come into it.
"""

import functools
import json

from absl import app, flags, logging

from muskie_jax.command_line import CONFIG, OUT, WORKDIR, fail, parse_flags
from muskie_jax.errors import UserError
from muskie_jax.files import user_path
from muskie_jax.report.write import write_report

flags.declare_key_flag(WORKDIR.name)  # so that --help shows it


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        fail(f"{argv[1]!r} is no flag: write --workdir {argv[1]}")
    for flag in (CONFIG, OUT):
        if flag.present:
            fail(f"--{flag.name} is not for muskie_jax.report: write --workdir alone")
    logging.set_verbosity(logging.WARNING)
    try:
        paths = write_report(user_path(WORKDIR.value))
    except UserError as error:
        fail(str(error))
    print(json.dumps({kind: str(path) for kind, path in paths.items()}))


if __name__ == "__main__":
    parse = functools.partial(
        parse_flags, needed={"workdir": "runs/evaluation"}, program="muskie_jax.report"
    )
    app.run(main, flags_parser=parse)
