"""Checks before training that checkpoints can be written, and makes room for them."""

import contextlib
import math
import os
import pathlib
import shutil
import time
from collections.abc import Callable
from typing import Any

import jax
from ml_collections import ConfigDict

from muskie_jax.checkpoints.object_storage import is_complete
from muskie_jax.checkpoints.saved_steps import CHECKPOINTS, saved_steps
from muskie_jax.errors import UserError
from muskie_jax.storage.address import as_os_errors, is_remote
from muskie_jax.writers import log_main

GIGABYTE = 1e9
INTERRUPTED = ".orbax-checkpoint-tmp"  # in the name of a checkpoint that Orbax has not completed
# Orbax deletes incomplete checkpoints in object storage in the background.
LOOKS, SECONDS_BETWEEN = 60, 1.0


def check_disk(
    workdir: pathlib.Path, state: Any, keeping: ConfigDict, delete_old: Callable[[], list[int]]
) -> None:
    """Warns if a disk has no room for the checkpoints of a run.

    Orbax writes a checkpoint before it deletes the oldest one, so there is one more than are kept. What
    interrupted saves left is deleted first. If there is no room for a single checkpoint, so are those that
    are no longer kept.

    Args:
      workdir: the work directory, whose folder of checkpoints must exist, and which no other run uses.
      state: arrays of a state, or their shapes.
      keeping: the settings `config.checkpoint`.
      delete_old: `Checkpointer.delete_old`.

    Raises:
      UserError: if the folder cannot be written to, or if what an interrupted save left cannot be deleted
        and later saves would fail: on a disk those of the same step, in object storage all of them.
    """
    folder = workdir / CHECKPOINTS
    if is_remote(folder):  # without limit
        if jax.process_index() == 0:
            _wait_for_deletion(folder)
        return
    if not os.access(folder, os.W_OK):
        raise UserError(f"{folder} is not writable: change its permissions, or use another --workdir")
    if jax.process_index() > 0:
        return
    for path in folder.glob(f"*{INTERRUPTED}*"):
        log_main(f"Deleting {path}, which an interrupted save left")
        try:
            shutil.rmtree(path)
        except OSError as error:
            refusal = _undeleted(path, error.strerror or str(error))
            step = path.name.partition(".")[0]
            if step.isdecimal() and int(step) <= max(saved_steps(workdir), default=-1):
                log_main(f"WARNING: {refusal}")  # this step is not saved again
            else:
                raise refusal from error
    size = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    if shutil.disk_usage(folder).free < size and (deleted := delete_old()):
        log_main(
            f"The disk of {folder} has no room for a checkpoint: deleted {', '.join(map(str, deleted))}, "
            "which config.checkpoint no longer keeps"
        )
    new = max(1, keeping.keep + keeping.keep_best + 1 - len(saved_steps(workdir)))
    free = shutil.disk_usage(folder).free
    if free < new * size:
        log_main(
            f"WARNING: the disk of {folder} has {free / GIGABYTE:.1f} GB left, and needs {new} more "
            f"checkpoints of {size / GIGABYTE:.1f} GB: free some, or keep fewer (config.checkpoint.keep)"
        )


def _wait_for_deletion(folder: pathlib.Path) -> None:
    """Raises UserError if incomplete checkpoints in object storage are still there after a minute."""
    for look in range(LOOKS):
        incomplete = []
        with contextlib.suppress(OSError), as_os_errors():  # a save names what is wrong
            steps = [entry for entry in folder.iterdir() if entry.name.isdecimal()]
            incomplete = [step for step in steps if not is_complete(step)]
        if not incomplete:
            return
        if look == 0:
            log_main(f"Waiting until {incomplete[0]}, which an interrupted save left, is deleted")
        if look < LOOKS - 1:
            time.sleep(SECONDS_BETWEEN)
    raise _undeleted(incomplete[0], f"it is still there after {LOOKS * SECONDS_BETWEEN:.0f} s")


def _undeleted(path: pathlib.Path, reason: str) -> UserError:
    return UserError(
        f"{path}, which an interrupted save left, could not be deleted ({reason}): delete it yourself, or "
        "use another --workdir"
    )
