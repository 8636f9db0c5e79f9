"""Loads config files, which are Python modules with a function `get_config`."""

import difflib
import importlib.util
import inspect
import os
import pathlib
from types import ModuleType

from ml_collections import ConfigDict

from muskie_jax.errors import UserError

CONFIGS = "configs"  # folder of config files, in the working directory or next to the package


def load_config(file: str | os.PathLike) -> ConfigDict:
    """Returns the config of a file.

    Args:
      file: the value of --config, such as "configs/benchmark.py" or, with an argument,
        "configs/benchmark.py:remat".

    Raises:
      UserError: if it does not exist, is not a Python file or takes no argument.
      Exception: any exception that the file itself raises.
    """
    path, colon, argument = str(file).partition(":")
    get_config = load_module(path).get_config
    if colon and not inspect.signature(get_config).parameters:
        raise UserError(takes_no_argument(path))
    return get_config(argument) if colon else get_config()


def takes_no_argument(path: str) -> str:
    """Returns the message for an argument of a config file that takes none."""
    return f"{path} takes no argument: pass --config {path}"


def load_module(path: str | os.PathLike) -> ModuleType:
    """Executes a config file and returns its module, which is not added to `sys.modules`.

    Raises:
      UserError: if it does not exist or is not a Python file.
      Exception: any exception that the file itself raises.
    """
    check_config_file(os.fspath(path))
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    assert spec is not None and spec.loader is not None, "it is a Python file"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_config_file(file: str) -> None:
    """Raises UserError if a config file does not exist or is not Python.

    The message says which file was probably meant.

    Args:
      file: the value of --config: a path, and an argument after a colon if there is one.
    """
    path, colon, argument = file.partition(":")
    if pathlib.Path(path).is_file():
        if not path.endswith(".py"):
            raise UserError(f"{path} is not a Python file: choose one such as configs/quickstart.py")
        return
    beside = pathlib.Path(__file__).parents[1] / CONFIGS
    folder = pathlib.Path(CONFIGS) if pathlib.Path(CONFIGS).is_dir() else beside
    known = {each.stem: each for each in sorted(folder.glob("*.py"))}
    near = difflib.get_close_matches(pathlib.Path(path).stem, known, n=1)
    if near:
        raise UserError(f"no config file {path!r}: pass --config {known[near[0]]}{colon}{argument}")
    listed = f", such as one of {folder}: {', '.join(known)}" if known else ""
    raise UserError(f"no config file {path!r}: pass the path of a Python file{listed}")
