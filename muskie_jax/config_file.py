"""Loads config files, which are Python, and what `get_config` in them returns."""

import importlib.util
import os
import pathlib
from types import ModuleType

from ml_collections import ConfigDict


def load_config(file: str | os.PathLike) -> ConfigDict:
    """The config of a file, named as after --config: "configs/benchmark.py", "configs/benchmark.py:remat".

    Raises whatever the file raises.
    """
    path, colon, argument = str(file).partition(":")
    get_config = load_module(path).get_config
    return get_config(argument) if colon else get_config()


def load_module(path: str | os.PathLike) -> ModuleType:
    """A config file as a module of its own, which nothing else imports."""
    spec = importlib.util.spec_from_file_location(pathlib.Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
