"""Sweeps: a config file that describes several runs, each with a few changed settings.

Such a file lists its runs and the settings that each run changes:

    def sweep():
        return {"base": {}, "random": {"mask.modes": (("random", 0.9),)}}

    def get_config(arg=None):
        _, overrides = choose(arg, sweep())
        config = default_config()
        ...
        return override(config, overrides)

`configs/x.py:random` is then the config of one run, and launch/sweep.sh trains all of them.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from muskie_jax.checkpoints.saved_steps import evaluation_errors
from muskie_jax.checks import check_setting, one_of, require, suggest
from muskie_jax.config import total_steps, validate
from muskie_jax.config_file import errors_of_config, load_module
from muskie_jax.errors import UserError, first_line

__all__ = ["choose", "is_complete", "override", "sweep_configs"]

Overrides = Mapping[str, Any]  # path of a setting, such as "mask.modes" -> value

RUN_NAME = re.compile(r"\w[\w.-]*", re.ASCII)  # also the name of the run's folder
RESERVED_NAMES = ("evaluation", "logs", "scene_index")  # folders next to the run folders


def choose(
    arg: str | None, runs: Mapping[str, Overrides], variants: Sequence[str] = ()
) -> tuple[str | None, Overrides]:
    """Parses the argument of a sweep's config file.

    Args:
      arg: a run, a variant of all runs, or both, as in "random", "photos" and "photos,random".
      runs: run name -> overrides.
      variants: names of variants that the file offers.

    Returns:
      The variant or None, and the run's overrides, which are empty without a run.

    Raises:
      UserError: if the run does not exist.
    """
    words = (arg or "").split(",")
    variant = words.pop(0) if words[0] in variants else None
    name = ",".join(words)
    require(not name or name in runs, f"this config has no run {name!r}{suggest(name, [*variants, *runs])}")
    return variant, runs.get(name, {})


def override(config: ConfigDict, overrides: Overrides) -> ConfigDict:
    """Sets settings of a config in place, by path, and returns it.

    Raises:
      UserError: if a setting does not exist or its value has the wrong type.
    """
    for path, value in overrides.items():
        check_setting(config, path, path)
        try:
            config.update_from_flattened_dict({path: value})
        except TypeError as error:
            raise UserError(f"{path}: {value!r} has the wrong type: {first_line(error)}") from error
    return config


def sweep_configs(file: str, overrides: Overrides, only: Sequence[str] = ()) -> dict[str, ConfigDict]:
    """Returns the config of every run of a file by name, each validated as before training.

    Args:
      file: path, with an optional variant, as in "configs/ablations.py:photos".
      overrides: settings to change in all runs.
      only: names of the runs to return; () for all.

    Raises:
      UserError: if the file has no sweep, a run name cannot name a folder, a run does not exist, a config
        is invalid, or two runs are equal.
    """
    path, _, variant = file.partition(":")
    module = load_module(path)
    require(hasattr(module, "sweep"), f"{path} has no sweep(): define one as in configs/ablations.py")
    with errors_of_config():
        runs = module.sweep()
    require(
        isinstance(runs, Mapping) and runs,
        f"{path}: sweep() returned no runs: return {{name: overrides}}",
    )
    require(variant not in runs, f"{file} is one run of a sweep: use {path} for all runs")
    configs: dict[str, ConfigDict] = {}
    for name in only:
        one_of(name, runs, f"runs of {path}")
    for name in (name for name in runs if not only or name in only):
        require(
            RUN_NAME.fullmatch(str(name)) and name not in RESERVED_NAMES,
            f"{path}: {name!r} cannot be the name of a run's folder: use letters, digits, '_', '.' and '-' "
            f"('.' and '-' not first), and not {' or '.join(RESERVED_NAMES)}",
        )
        try:
            config = override(module.get_config(f"{variant},{name}" if variant else name), overrides)
            validate(config)
        except UserError as error:
            raise UserError(f"run {name!r}: {error}") from error
        except Exception as error:  # a config file is Python: it can raise anything
            raise UserError(f"run {name!r}: {type(error).__name__}: {first_line(error)}") from error
        for other_name, other in configs.items():
            require(
                other.to_dict() != config.to_dict(),
                f"runs {other_name!r} and {name!r} have equal configs: remove one, or change its settings",
            )
        configs[name] = config
    return configs


def is_complete(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Returns whether training in a work directory is over: its last step is saved, with a finite error."""
    if config.job != "train":
        return False
    steps = total_steps(config)
    is_saved = (workdir / "checkpoints" / str(steps)).is_dir()
    return is_saved and steps in evaluation_errors(workdir)
