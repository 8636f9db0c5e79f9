"""Settings of the synthetic world, in sources for training and in posed datasets."""

import dataclasses

from ml_collections import ConfigDict

from muskie_jax.checks import renamed_setting, suggest
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.errors import UserError


def world_settings(caller: str, **world) -> ConfigDict:
    """Returns a section with all fields of `WorldConfig`.

    Args:
      caller: beginning of error messages.
      **world: fields that differ from the defaults.

    Raises:
      UserError: for an unknown field.
    """
    defaults = dataclasses.asdict(WorldConfig())
    for key in world:
        if key not in defaults:
            unknown = f"unknown setting {key!r}{suggest(key, defaults)}"
            raise UserError(f"{caller}: {renamed_setting(key) or unknown}")
    return ConfigDict(defaults | world)


def check_world(world: ConfigDict, path: str) -> None:
    """Raises UserError for invalid settings of the synthetic world.

    Args:
      world: section with all fields of `WorldConfig`.
      path: the section's path, for messages.
    """
    for key, default in dataclasses.asdict(WorldConfig()).items():
        if isinstance(default, tuple) and len(world[key]) != len(default):
            raise UserError(f"{path}.{key}={world[key]} must be {len(default)} numbers, such as {default}")
    try:
        WorldConfig(**world)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error
