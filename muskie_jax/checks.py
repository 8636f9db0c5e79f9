"""Settings: config sections derived from dataclasses, renamed settings, and checks.

Every check raises a one-line `UserError` that names the setting and its value, and says which values are
valid.
"""

import dataclasses
import difflib
import json
import numbers
import os
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from muskie_jax.errors import UserError

# Type of a default -> the types that a setting may have, and their description.
TYPES = {
    int: (numbers.Integral, "a whole number"),
    float: (numbers.Real, "a number"),
    str: ((str, os.PathLike), "text"),
    tuple: ((tuple, list), "a tuple"),
}
MISSING = object()  # stands for a setting that a config does not have
LARGEST_SIDE = 16_384  # of a view, in pixels
# Settings of earlier versions: old path -> new path. "*" stands for any name, the same in both.
RENAMED = {
    "sweep.share": "evaluate.shard",
    "sweep": "evaluate",
    "data.max_bad_share": "data.max_bad_fraction",
    "sources.*.world.photo_texture_share": "sources.*.world.photo_texture_fraction",
    "posed.*.world.photo_texture_share": "posed.*.world.photo_texture_fraction",
    "sources.*.world.floating_share": "sources.*.world.floating_fraction",
    "posed.*.world.floating_share": "posed.*.world.floating_fraction",
}


def section(settings: Any) -> ConfigDict:
    """Returns a config section with the fields of a settings dataclass.

    A nested dataclass becomes a nested section. A field that is None becomes a placeholder of its type,
    so that an override of another type is an error.
    """
    result = ConfigDict()
    annotations = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            value = section(value)
        elif value is None:
            (kind,) = (
                each for each in typing.get_args(annotations[field.name]) if each is not types.NoneType
            )
            value = config_dict.placeholder(kind)
        result[field.name] = value
    return result


def current_path(path: str) -> str:
    """Returns the current path of a setting, such as "evaluate.models", given its current or old path."""
    keys = path.split(".")
    for old, new in RENAMED.items():
        old_keys, new_keys = old.split("."), new.split(".")
        if len(keys) >= len(old_keys) and all(o in ("*", key) for o, key in zip(old_keys, keys)):
            renamed = [key if n == "*" else n for n, key in zip(new_keys, keys)]
            return ".".join(renamed + keys[len(old_keys) :])
    return path


def as_saved(config: ConfigDict) -> dict[str, Any]:
    """Returns a config as checkpoints have it: what is left of its values in JSON."""
    return json.loads(config.to_json_best_effort())


def changed_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Returns the settings that differ between two configs, as path -> (value before, value now).

    A setting that only one of them has is MISSING in the other. Old names count as their current ones.
    """
    old = {current_path(path): value for path, value in _flatten(before).items()}
    new = _flatten(now)
    pairs = {path: (old.get(path, MISSING), new.get(path, MISSING)) for path in sorted(old.keys() | new)}
    return {path: pair for path, pair in pairs.items() if pair[0] != pair[1]}


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def renamed_setting(name: str) -> str | None:
    """Returns the message for a renamed setting, given the last key of its old path.

    An example is "config.sweep is now config.evaluate". Returns None if `name` was not renamed.
    """
    for old, new in RENAMED.items():
        if old.rpartition(".")[2] == name:
            if "*" in old:  # the rest of its path depends on the config
                return f"{name} is now {new.rpartition('.')[2]}"
            return f"config.{old} is now config.{new}"
    return None


def require(condition: object, message: str) -> None:
    """Raises UserError(message) if `condition` is false."""
    if not condition:
        raise UserError(message)


def one_of(value: object, allowed: Iterable[str], path: str) -> None:
    """Raises UserError for a value that is not allowed; the message suggests the nearest allowed value.

    Args:
      value: the value, or one entry of a setting that is a list.
      allowed: all valid values.
      path: the setting's path, used in messages.
    """
    allowed = tuple(allowed)
    if value not in allowed:
        raise UserError(f"{path}: {value!r} is not a valid value{suggest(str(value), allowed)}")


def suggest(word: str, allowed: Iterable[str]) -> str:
    """Returns the end of an error message: the nearest allowed word, if one is close, and the full list.

    Returns "" if no word is allowed.
    """
    allowed = sorted(allowed)
    if not allowed:
        return ""
    near = difflib.get_close_matches(word, allowed, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"{meant} (choices: {', '.join(allowed)})"


def at_least(minimum: int, settings: ConfigDict, path: str, *names: str) -> None:
    """Raises UserError unless each of the named settings is at least `minimum`.

    Args:
      minimum: the smallest valid value.
      settings: the section of the config.
      path: the section's path, used in messages, such as "config.batch".
      *names: keys in the section.
    """
    for name in names:
        value = settings[name]
        require(value >= minimum, f"{path}.{name}={value} must be at least {minimum}")


def check_fraction(value: float, path: str) -> None:
    """Raises UserError unless a value is from 0 to 1."""
    require(0 <= value <= 1, f"{path}={value} must be from 0 to 1")


def check_overlap(overlap: Collection[float], path: str, instead: str = "") -> None:
    """Raises UserError unless an overlap is (low, high), two increasing fractions.

    Args:
      overlap: the setting.
      path: the setting's path, used in messages.
      instead: another valid value with its conjunction, used in messages, such as ", or ()".
    """
    if len(overlap) == 2:
        low, high = overlap
        if 0 <= low < high <= 1:
            return
    raise UserError(
        f"{path}={overlap} must be two increasing fractions (low, high), such as (0.3, 0.9){instead}"
    )


def is_pair(value: object) -> bool:
    """Returns whether a value is a pair of integers, such as (height, width)."""
    return isinstance(value, (tuple, list)) and len(value) == 2 and all(isinstance(x, int) for x in value)


def nearest_size(size: tuple[float, float], patch: int) -> tuple[int, int]:
    """Returns the (height, width) nearest to `size` whose sides are multiples of the patch size."""
    height, width = (max(patch, round(side / patch) * patch) for side in size)
    return height, width


def nearest_sizes(size: tuple[int, int], patch: int) -> tuple[tuple[int, int], ...]:
    """Returns the nearest valid sizes (height, width), for messages.

    They are the largest valid size inside `size` and the smallest valid size around it; one if they are
    equal. A valid size has sides that are multiples of the patch size.
    """
    (low_height, high_height), (low_width, high_width) = (
        (max(patch, side // patch * patch), max(patch, -(-side // patch) * patch)) for side in size
    )
    return tuple(dict.fromkeys([(low_height, low_width), (high_height, high_width)]))


def check_size(size: tuple[int, int], patch: int, path: str) -> None:
    """Raises UserError for a (height, width) that is not divisible by the patch size, or is too large."""
    require(
        max(size) <= LARGEST_SIDE, f"{path} has a side of {max(size)}: use at most {LARGEST_SIDE} pixels"
    )
    nearest = nearest_sizes(size, patch)
    if nearest != (tuple(size),):
        height, width = size
        raise UserError(
            f"{path} has {height}x{width}, not divisible by the patch size {patch}: "
            f"the nearest valid sizes are {' and '.join(map(str, nearest))}"
        )


def check_setting(config: ConfigDict, path: str, shown: str) -> None:
    """Raises UserError if a config has no setting with the given path.

    Args:
      config: the config to look in.
      path: the setting's path, such as "optim.b1".
      shown: the path as the user wrote it, with which the message begins.
    """
    settings = config
    for key in path.split("."):
        if not isinstance(settings, ConfigDict) or key not in settings:
            known = settings if isinstance(settings, ConfigDict) else ()  # no subsettings
            raise UserError(f"{shown}: unknown setting {key!r}{suggest(key, known)}")
        settings = settings[key]


def check_keys(config: ConfigDict, known: ConfigDict, path: str, skip: tuple[str, ...] = ()) -> None:
    """Raises UserError for an unknown or missing setting in a section or its subsections.

    Args:
      config: the section to check.
      known: a section with all settings.
      path: the section's path, used in messages, such as "config.batch".
      skip: keys of subsections that are not checked.
    """
    for key in config:
        if key not in known:
            check_renamed(f"{path}.{key}".removeprefix("config."))
            raise UserError(f"unknown setting {path}.{key}{suggest(key, known)}")
    for key in known:
        if key not in config:
            raise UserError(f"{path}.{key} is missing: start from muskie_jax.config.default_config()")
        if isinstance(known[key], ConfigDict) and key not in skip:
            if not isinstance(config[key], ConfigDict):
                raise UserError(f"{path}.{key} is a group of settings: set one of {', '.join(known[key])}")
            check_keys(config[key], known[key], f"{path}.{key}")


def check_types(
    settings: ConfigDict, defaults: ConfigDict, path: str, optional: tuple[str, ...] = ()
) -> None:
    """Raises UserError for a setting of a section that is not locked, if its default has another type.

    Args:
      settings: the section, without subsections.
      defaults: a section with the defaults of its settings. If one is None, any type is allowed.
      path: the section's path, used in messages.
      optional: settings that may be None.
    """
    for key, value in settings.items():
        default = defaults[key]
        if type(default) not in TYPES or (value is None and key in optional):
            continue
        allowed, kind = TYPES[type(default)]
        if not isinstance(value, allowed) or isinstance(value, bool):
            raise UserError(f"{path}.{key}={value!r} must be {kind}, such as {default!r}")


def check_renamed(path: str, value: str = "") -> None:
    """Raises UserError for a renamed setting; the message gives the new name.

    Args:
      path: the setting's path without "config.", such as "sweep.models".
      value: "=" and the value from the command line; empty if the setting is not from the command line.
    """
    now = current_path(path)
    if now == path:
        return
    old_keys, new_keys = path.split("."), now.split(".")
    last = max(i for i, (old, new) in enumerate(zip(old_keys, new_keys)) if old != new) + 1
    old, new = ".".join(old_keys[:last]), ".".join(new_keys[:last])
    instead = f": pass --config.{now}{value}" if value else ""
    raise UserError(f"config.{old} is now config.{new}{instead}")
