"""Runs commands as a user runs them."""

import contextlib
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Iterator
from unittest import mock

from absl import app, flags
from absl.testing import flagsaver

import muskie_jax.command_line  # noqa: F401  (its flags belong to all commands, so they must outlive each run)
from conftest import ROOT


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


def call_module(module: str, *arguments) -> subprocess.CompletedProcess:
    """`run_module` without a new interpreter, which takes seconds to import JAX."""
    argv = [module, *map(str, arguments)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(_own_flags())
        stack.enter_context(mock.patch.object(sys, "argv", argv))
        stack.enter_context(contextlib.chdir(ROOT))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            runpy.run_module(module, run_name="__main__")
        except SystemExit as exit:
            code = exit.code or 0
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _own_flags() -> Iterator[None]:
    """Restores flags, and forgets those that are defined meanwhile, together with the modules that did.

    Commands of several programs have flags of the same name, such as --size.
    """
    app.define_help_flags()  # absl defines them once per process
    with flagsaver.flagsaver():
        known = _modules_with_flags()
        try:
            yield
        finally:
            for name in _modules_with_flags() - known:
                sys.modules.pop(name, None)


def _modules_with_flags() -> set[str]:
    return {name for name, defined in flags.FLAGS.flags_by_module_dict().items() if defined}
