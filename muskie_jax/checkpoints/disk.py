"""Checks before training that checkpoints can be written."""

import math
import os
import pathlib
import shutil
from typing import Any

import jax
from ml_collections import ConfigDict

from muskie_jax.errors import UserError
from muskie_jax.storage.address import is_remote
from muskie_jax.writers import log_main

GIGABYTE = 1e9


def check_disk(folder: pathlib.Path, state: Any, keeping: ConfigDict) -> None:
    """Warns if a disk has no room for the checkpoints of a run.

    Orbax writes a checkpoint before it deletes the oldest one, so there is one more than are kept.

    Args:
      folder: the existing folder of checkpoints.
      state: arrays of a state, or their shapes.
      keeping: the settings `config.checkpoint`.

    Raises:
      UserError: if the folder cannot be written to.
    """
    if is_remote(folder):
        return
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} is not writable: change its permissions, or use another --workdir")
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    existing = sum(entry.name.isdigit() for entry in folder.iterdir())
    new = max(1, keeping.keep + keeping.keep_best + 1 - existing)
    free = shutil.disk_usage(folder).free
    if free < new * size:
        log_main(
            f"WARNING: the disk of {folder} has {free / GIGABYTE:.1f} GB left, and needs {new} more "
            f"checkpoints of {size / GIGABYTE:.1f} GB: free some, or keep fewer (config.checkpoint.keep)"
        )
