"""Loads config files, which are Python modules with a function `get_config`."""

import importlib.util
import os
import pathlib
from types import ModuleType

from ml_collections import ConfigDict

from muskie_jax.errors import UserError


def load_config(file: str | os.PathLike) -> ConfigDict:
    """Returns the config of a file.

    Args:
      file: the value of --config, such as "configs/benchmark.py" or, with an argument,
        "configs/benchmark.py:remat".

    Raises:
      UserError: if it is not a Python file.
      Exception: any exception that the file itself raises.
    """
    path, colon, argument = str(file).partition(":")
    get_config = load_module(path).get_config
    return get_config(argument) if colon else get_config()


def load_module(path: str | os.PathLike) -> ModuleType:
    """Executes a config file and returns its module, which is not added to `sys.modules`.

    Raises:
      UserError: if it is not a Python file.
      Exception: any exception that the file itself raises.
    """
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path} is not a Python file: choose a config file such as configs/quickstart.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
