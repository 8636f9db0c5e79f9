"""Checks of settings: each raises a `UserError` of one line."""

import difflib
from collections.abc import Iterable

from ml_collections import ConfigDict

from muskie_jax.errors import UserError


def require(condition, message: str) -> None:
    """The message, unless the condition holds."""
    if not condition:
        raise UserError(message)


def one_of(value, allowed: Iterable[str], path: str) -> None:
    """For a setting that is none of those allowed, what may have been meant."""
    if value not in tuple(allowed):
        raise UserError(f"{path}: no {value!r}{suggest(str(value), allowed)}")


def suggest(word: str, allowed: Iterable[str]) -> str:
    """The end of an error message: the word that was probably meant, and all that could be."""
    allowed = sorted(allowed)
    near = difflib.get_close_matches(word, allowed, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"{meant} (there is: {', '.join(allowed)})"


def check_setting(config: ConfigDict, path: str, said: str) -> None:
    """For a setting such as "optim.lr" that there is not in a config; messages begin with what was said."""
    section = config
    for key in path.split("."):
        if not isinstance(section, ConfigDict) or key not in section:
            known = section if isinstance(section, ConfigDict) else ()
            raise UserError(f"{said}: no setting {key!r}{suggest(key, known)}")
        section = section[key]


def is_pair(size) -> bool:
    """Whether a setting is two whole numbers, as (height, width) is."""
    return isinstance(size, (tuple, list)) and len(size) == 2 and all(isinstance(x, int) for x in size)


def nearest_size(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """The (height, width) nearest to an image's, itself if possible, that can be cut into patches."""
    height, width = (max(patch, round(side / patch) * patch) for side in size)
    return height, width


def check_keys(config: ConfigDict, known: ConfigDict, path: str, skip: tuple[str, ...] = ()) -> None:
    """For settings that there are not, or that are missing, in a config and its sections."""
    for key in config:
        if key not in known:
            raise UserError(f"{path}.{key}: no such setting{suggest(key, known)}")
    for key in known:
        if key not in config:
            raise UserError(f"{path}.{key} is missing: start from muskie_jax.config.default_config()")
        if isinstance(known[key], ConfigDict) and key not in skip:
            if not isinstance(config[key], ConfigDict):
                raise UserError(f"{path}.{key} is a group of settings: set one of {', '.join(known[key])}")
            check_keys(config[key], known[key], f"{path}.{key}")
