"""Runs commands in a subprocess, as a user does."""

import os
import subprocess
import sys

from conftest import ROOT


def run_module(module: str, *arguments, **environment: str) -> subprocess.CompletedProcess:
    """Runs `python -m <module> <arguments>` in the repository's root, with extra environment variables."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def complaint_of(done: subprocess.CompletedProcess) -> str:
    """Returns the single error line of a command that exited with code 2 and printed no result."""
    assert done.returncode == 2 and done.stdout == "", done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "Traceback" not in done.stderr
    return line
