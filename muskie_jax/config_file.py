"""Loads config files, which are Python modules with a function `get_config`."""

import contextlib
import difflib
import importlib.util
import inspect
import os
import pathlib
import re
from collections.abc import Iterator
from types import ModuleType

from ml_collections import ConfigDict

from muskie_jax.checks import renamed_setting
from muskie_jax.errors import UserError

CONFIGS = "configs"  # folder of config files, in the working directory or next to the package


def load_config(file: str | os.PathLike) -> ConfigDict:
    """Returns the config of a file.

    Args:
      file: the value of --config, such as "configs/benchmark.py" or, with an argument,
        "configs/benchmark.py:remat".

    Raises:
      UserError: if it does not exist, is not a Python file, takes no argument, or raises an exception.
    """
    path, colon, argument = str(file).partition(":")
    module = load_module(path)
    with errors_of_config():
        get_config = module.get_config
        if colon and not inspect.signature(get_config).parameters:
            raise UserError(takes_no_argument(path))
        config = get_config(argument) if colon else get_config()
    if not isinstance(config, ConfigDict):
        raise UserError(f"get_config() returned {str(config)[:80]}: return a config")
    return config


@contextlib.contextmanager
def errors_of_config() -> Iterator[None]:
    """Raises what a config file raises as UserError; it is Python, and can raise anything."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(why_not_loaded(error)) from error


def why_not_loaded(error: Exception) -> str:
    """Returns the message for an exception that a config file raised."""
    if isinstance(error, AttributeError) and "has no attribute 'get_config'" in str(error):
        return "the config file has no get_config(): define one as in configs/quickstart.py"
    if isinstance(error, (AttributeError, KeyError)):  # probably of a setting that does not exist
        name, *hints = key_error_lines(error)
        key = re.match(r"""["']*(?:Key ")?(\w+)""", "\n".join([name, *hints]))
        renamed = renamed_setting(key[1]) if key else None
        reason = renamed or f"{type(error).__name__}: {[name, *hints][-1]}"
    else:
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        reason = lines[-1] if lines else "no reason given"
        if not isinstance(error, ValueError):  # of an argument, for which the file has a message
            reason = f"{type(error).__name__}: {reason}"
    return f"the config could not be loaded: {reason}"


def key_error_lines(error: AttributeError | KeyError) -> list[str]:
    """Returns the lines of the message for a wrong key of a config: the key, and hints."""
    text = str(error).replace("\\n", "\n").replace("\\'", "'")  # ml_collections quotes some keys twice
    return [line.strip("\"' ") for line in text.splitlines()] or [""]


def takes_no_argument(path: str) -> str:
    """Returns the message for an argument of a config file that takes none."""
    return f"{path} takes no argument: pass --config {path}"


def load_module(path: str | os.PathLike) -> ModuleType:
    """Executes a config file and returns its module, which is not added to `sys.modules`.

    Raises:
      UserError: if it does not exist, is not a Python file, or raises an exception.
    """
    check_config_file(os.fspath(path))
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    assert spec is not None and spec.loader is not None, "it is a Python file"
    module = importlib.util.module_from_spec(spec)
    with errors_of_config():
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
