"""Refuses to continue or reuse a training whose settings differ from those that are wanted now."""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from muskie_jax.checkpoints.contents import read_config
from muskie_jax.checkpoints.saved_steps import CHECKPOINTS, saved_steps
from muskie_jax.checks import MISSING, as_saved, changed_settings
from muskie_jax.config import default_config, total_steps
from muskie_jax.errors import UserError

# Sections and settings that the trained network and its error do not depend on, apart from rounding.
WITHOUT_EFFECT = (
    "benchmark",
    "benchmark_data",
    "checkpoint",
    "data.allow_missing",
    "data.cache",
    "data.index",
    "data.max_bad_fraction",
    "data.prefetch",
    "data.threads",
    "data.workers",
    "deterministic",
    "evaluate",
    "evaluation.every",
    "evaluation.first",
    "evaluation.pictures",
    "fast_compile",
    "job",
    "log",
    "max_minutes",
    "mesh",
    "model.attention",
    "model.remat",
    "model.scan_blocks",
    "plan",
    "posed",
    "profile",
    "watchdog",
)
DURATION = "duration"
MOST_NAMED = 5  # number of settings that a message names


def require_same_settings(config: ConfigDict, workdir: pathlib.Path) -> None:
    """Raises UserError if the newest checkpoint of a work directory was trained with other settings.

    The duration may be longer than before: the training goes on. Damaged checkpoints are skipped, since the
    trainer names them.

    Args:
      config: the settings that are wanted now.
      workdir: the work directory of a training, which need not exist.
    """
    trained = _trained_config(workdir)
    if trained is None:
        return
    changed = changed_settings(trained, as_saved(config))
    defaults = changed_settings({}, as_saved(default_config()))
    different = []
    for path, (before, now) in changed.items():
        if _matters(path, before, now, defaults.get(path, (MISSING, MISSING))[1]) and not (
            path == DURATION and _is_longer(config, before)
        ):
            shown = ["missing" if value is MISSING else repr(value) for value in (before, now)]
            different.append(f"config.{path} was {shown[0]} and is now {shown[1]}")
    if different:
        more = len(different) - MOST_NAMED
        named = "; ".join(different[:MOST_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise UserError(
            f"{workdir} was trained with other settings ({named}): use another --workdir, or the settings "
            "from before"
        )


def _trained_config(workdir: pathlib.Path) -> dict[str, Any] | None:
    """Returns the config of the newest readable checkpoint; None without any that was trained."""
    if not (workdir / CHECKPOINTS).is_dir():
        return None
    for step in reversed(saved_steps(workdir)):
        try:
            _, config = read_config(workdir / CHECKPOINTS / str(step))
        except UserError:  # damaged, or deleted by a training that goes on
            continue
        return config if step > 0 else None  # at step 0 the weights are imported, with another config
    return None


def _matters(path: str, before: Any, now: Any, default: Any) -> bool:
    if any(path == name or path.startswith(f"{name}.") for name in WITHOUT_EFFECT):
        return False
    if before is MISSING:  # new in this version, or of a source
        return (default is not MISSING and now != default) or _is_source(path)
    return now is not MISSING or _is_source(path)


def _is_source(path: str) -> bool:
    """Returns whether a setting is the one that every source has, so that a version cannot add it."""
    return path.startswith("sources.") and path.endswith(".kind") and path.count(".") == 2


def _is_longer(config: ConfigDict, duration: Any) -> bool:
    """Returns whether a config trains for at least as many steps as with another duration."""
    before = config.copy_and_resolve_references()
    before.duration = str(duration)
    return total_steps(config) >= total_steps(before)
