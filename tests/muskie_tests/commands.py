"""Commands run as a user runs them."""

import contextlib
import importlib
import io
import os
import subprocess
import sys
from unittest import mock

from absl import app
from absl.testing import flagsaver

from conftest import ROOT
from muskie_jax.command_line import run_program


def run_module(module: str, *arguments, **environment: str) -> subprocess.CompletedProcess:
    """`python -m <module> <arguments>` in the repository's root, with more environment variables."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def complaint_of(done: subprocess.CompletedProcess) -> str:
    """The single line with which a command refuses."""
    assert done.returncode == 2 and done.stdout == "", done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "Traceback" not in done.stderr
    return line


def run_in_process(package: str, *arguments) -> subprocess.CompletedProcess:
    """`run_module` of a package with `COMMANDS`, without the seconds that a new interpreter takes."""
    argv = [package, *map(str, arguments)]
    # Flags that are defined inside of flagsaver would be removed again.
    app.define_help_flags()
    program = importlib.import_module(f"{package}.__main__")
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        flagsaver.flagsaver(),
        mock.patch.object(sys, "argv", argv),
        contextlib.chdir(ROOT),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            run_program(package, program.__doc__ or "", program.COMMANDS)
        except SystemExit as stopped:
            code = int(stopped.code or 0)
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())
