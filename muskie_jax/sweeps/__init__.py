"""Sweeps: runs that differ in a few settings each, written in one config file.

Such a file says what the runs are beside how to train one of them:

    def sweep():
        return {"base": {}, "random": {"mask.modes": (("random", 0.9),)}}

    def get_config(arg=None):
        _, overrides = choose(arg, sweep())
        config = default_config()
        ...
        return override(config, overrides)

`configs/x.py:random` is the config of that run then, and launch/sweep.sh trains them all.
"""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from muskie_jax.checks import check_setting, require, suggest
from muskie_jax.config import total_steps, validate
from muskie_jax.config_file import load_module
from muskie_jax.errors import UserError, first_line
from muskie_jax.interop.metadata import latest_evaluation

__all__ = ["choose", "is_complete", "override", "sweep_configs"]

Overrides = Mapping[str, Any]  # path of a setting, such as "mask.modes" -> value

NAME = re.compile(r"\w[\w.-]*", re.ASCII)  # of a run, whose folder is called so
TAKEN = ("evaluation", "scene_index")  # folders beside those of runs


def choose(
    arg: str | None, runs: Mapping[str, Overrides], variants: Sequence[str] = ()
) -> tuple[str | None, Overrides]:
    """What the argument of a sweep's config file asks for.

    Args:
      arg: a run, a variant of all runs, or both: "random", "photos", "photos,random". None: neither.
      runs: by name.
      variants: that the file has.

    Returns:
      The variant, if there is one, and the overrides of the run; none of no run.

    Raises:
      UserError: for a run that there is not.
    """
    words = (arg or "").split(",")
    variant = words.pop(0) if words[0] in variants else None
    name = ",".join(words)
    require(not name or name in runs, f"no run {name!r} of this config{suggest(name, [*variants, *runs])}")
    return variant, runs.get(name, {})


def override(config: ConfigDict, overrides: Overrides) -> ConfigDict:
    """Sets settings of a config, by path, and returns it.

    Raises:
      UserError: for a setting that there is not, or a value of another type.
    """
    for path, value in overrides.items():
        check_setting(config, path, path)
        try:
            config.update_from_flattened_dict({path: value})
        except TypeError as error:
            raise UserError(f"{path}: {value!r} is of the wrong type: {first_line(error)}") from error
    return config


def sweep_configs(file: str, overrides: Overrides) -> dict[str, ConfigDict]:
    """The config of every run of a file, by name, each checked as it is before a training.

    Args:
      file: with a variant, if one is meant: "configs/ablations.py:photos".
      overrides: of all runs.

    Raises:
      UserError: for a file without a sweep, a name that can be no folder's, a run that cannot be trained,
        and two that are the same.
    """
    path, _, variant = file.partition(":")
    module = load_module(path)
    require(
        hasattr(module, "sweep"), f"{path} has no sweep(): write one, as there is in configs/ablations.py"
    )
    runs = module.sweep()
    require(
        isinstance(runs, Mapping) and runs,
        f"{path}: sweep() gives no runs: return {{name: overrides}}",
    )
    require(variant not in runs, f"{file} is one run of a sweep: write {path} for all of them")
    configs: dict[str, ConfigDict] = {}
    for name in runs:
        require(
            NAME.fullmatch(str(name)) and name not in TAKEN,
            f"{path}: no folder of a run can be called {name!r}: write letters, digits, '_', '.' and '-' "
            f"(not {' or '.join(TAKEN)})",
        )
        try:
            config = override(module.get_config(f"{variant},{name}" if variant else name), overrides)
            validate(config)
        except UserError as error:
            raise UserError(f"run {name!r}: {error}") from error
        except Exception as error:  # a config file is Python: it can raise anything
            raise UserError(f"run {name!r}: {type(error).__name__}: {first_line(error)}") from error
        for other, known in configs.items():
            require(
                known.to_dict() != config.to_dict(),
                f"runs {other!r} and {name!r} are the same: leave one out, or set less for all runs",
            )
        configs[name] = config
    return configs


def is_complete(config: ConfigDict, workdir: pathlib.Path) -> bool:
    """Whether a training is over in a work directory: its last step is saved, and was evaluated."""
    if config.job != "train":
        return False
    steps = total_steps(config)
    saved = (workdir / "checkpoints" / str(steps)).is_dir()
    return saved and latest_evaluation(workdir, steps).get("step") == steps
