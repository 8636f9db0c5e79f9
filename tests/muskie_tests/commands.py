"""Runs commands as a user does, in a subprocess or, faster, in this process."""

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from unittest import mock

from absl import flags
from absl.testing import flagsaver

from conftest import ROOT
from muskie_jax.__main__ import COMMANDS
from muskie_jax.command_line import FLAGS


def run_module(module: str, *arguments, **environment: str) -> subprocess.CompletedProcess:
    """Runs `python -m <module> <arguments>` in the repository's root, with more environment variables."""
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def run_in_process(module: str, *arguments) -> subprocess.CompletedProcess:
    """Does what `run_module` does, in this process: for commands that end before they use devices.

    Args:
      module: one with a function `main` that reads `sys.argv`, or a package whose `__main__` has one.
      *arguments: of the command.
    """
    out, err, status = io.StringIO(), io.StringIO(), 0
    main_module = _main_module(module)
    defines_flags = "muskie_jax.jobs" if main_module == "muskie_jax.main" else main_module
    if main_module == "muskie_jax.__main__" and arguments and arguments[0] in COMMANDS:
        defines_flags = COMMANDS[arguments[0]].module
    with (
        contextlib.chdir(ROOT),
        mock.patch.object(sys, "argv", [module, *map(str, arguments)]),
        mock.patch.object(logging.root, "handlers", list(logging.root.handlers)),  # absl adds its own
        _flags_of(defines_flags),
        flagsaver.flagsaver(),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            importlib.import_module(main_module).main()
        except SystemExit as end:
            status = end.code or 0
    return subprocess.CompletedProcess((module, *arguments), status, out.getvalue(), err.getvalue())


def _main_module(module: str) -> str:
    spec = importlib.util.find_spec(module)  # an import would define the flags of a module
    is_package = spec is not None and spec.submodule_search_locations is not None
    return f"{module}.__main__" if is_package else module


_DEFINED: dict[str, list[tuple[str, flags.Flag]]] = {}  # module -> flags that importing it defined


@contextlib.contextmanager
def _flags_of(module: str) -> Iterator[None]:
    """Defines the flags of a command; removes them again, since other commands use some of their names."""
    known = set(FLAGS)  # among them the flags of every command, which command_line defines
    importlib.import_module(module)
    if module not in _DEFINED:
        by_module = FLAGS.flags_by_module_dict().items()
        defined = [
            (owner, flag)
            for owner, listed in by_module
            for flag in listed
            if flag.name not in known and owner.startswith("muskie_jax")
        ]
        _DEFINED[module] = defined
    for owner, flag in _DEFINED[module]:
        if flag.name not in FLAGS:
            FLAGS[flag.name] = flag
            FLAGS.register_flag_by_module(owner, flag)
    try:
        yield
    finally:
        for _, flag in _DEFINED[module]:
            delattr(FLAGS, flag.name)


def free_port() -> int:
    """Returns a port of this computer that no program listens on."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def complaint_of(done: subprocess.CompletedProcess) -> str:
    """Returns the single error line of a command that exited with code 2 and printed no result."""
    assert done.returncode == 2 and done.stdout == "", done.stdout + done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert "Traceback" not in done.stderr
    return line
