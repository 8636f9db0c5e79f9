"""Commands run as a user runs them, in a process of their own or, faster, in this one."""

import contextlib
import importlib
import io
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from unittest import mock

from absl import flags
from absl.testing import flagsaver

from conftest import ROOT


def run_module(module: str, *arguments, **environment: str) -> subprocess.CompletedProcess:
    """Runs `python -m <module> <arguments>` in the repository's root, with more environment variables."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def call_module(module: str, *arguments) -> subprocess.CompletedProcess:
    """Does what `run_module` does, in this process: for commands that end before they use devices.

    Args:
      module: one with a function `main` that reads `sys.argv`, or a package whose `__main__` has one.
      *arguments: of the command.
    """
    out, err, status = io.StringIO(), io.StringIO(), 0
    is_package = hasattr(importlib.import_module(module), "__path__")
    with (
        contextlib.chdir(ROOT),
        mock.patch.object(sys, "argv", [module, *map(str, arguments)]),
        mock.patch.object(logging.root, "handlers", list(logging.root.handlers)),  # absl adds its own
        flagsaver.flagsaver(),
        _flags_of(f"{module}.__main__" if is_package else module),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            importlib.import_module(f"{module}.__main__" if is_package else module).main()
        except SystemExit as end:
            status = end.code or 0
    return subprocess.CompletedProcess((module, *arguments), status, out.getvalue(), err.getvalue())


_DEFINED: dict[str, list[tuple[str, flags.Flag]]] = {}  # module -> flags that importing it defined


@contextlib.contextmanager
def _flags_of(module: str) -> Iterator[None]:
    """Defines the flags of a command; removes them again, since other commands use some of their names."""
    known = set(flags.FLAGS)
    importlib.import_module(module)
    if module not in _DEFINED:
        by_module = flags.FLAGS.flags_by_module_dict().items()
        defined = [
            (owner, flag) for owner, listed in by_module for flag in listed if flag.name not in known
        ]
        _DEFINED[module] = defined
    for owner, flag in _DEFINED[module]:
        if flag.name not in flags.FLAGS:
            flags.FLAGS[flag.name] = flag
            flags.FLAGS.register_flag_by_module(owner, flag)
    try:
        yield
    finally:
        for _, flag in _DEFINED[module]:
            delattr(flags.FLAGS, flag.name)


def complaint_of(done: subprocess.CompletedProcess) -> str:
    """Returns the single line with which a command refuses."""
    assert done.returncode == 2 and done.stdout == "", done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "Traceback" not in done.stderr
    return line
