"""Restores the state of a training run from a checkpoint, in all processes of the run or in none.

A process may fail to read what the others can: its shard is damaged, or its network file system lags. If
it fell back to an older checkpoint alone, the others would wait for it, or train from another step.
"""

import json
import pathlib
import time
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from muskie_jax.checkpoints.contents import (
    Unreadable,
    check_fingerprints,
    describe,
    machine_error,
    or_empty,
    read_meta,
    reason_of,
    state_handler,
    verify_state,
    without_empty,
)
from muskie_jax.checks import MISSING, as_saved, changed_settings
from muskie_jax.errors import UserError
from muskie_jax.fingerprint import examine
from muskie_jax.processes.coordination import Coordination
from muskie_jax.storage.address import absolute
from muskie_jax.writers import log_main

# Settings that decide which arrays a state has, and how they are nested.
MODEL_STRUCTURE = ("variant", "patch", "registers", "view_embed", "max_views")
OPTIM_STRUCTURE = ("name", "decay", "clip_norm", "spike_factor")
STRUCTURE = (
    "task",
    "reconstruct.decoder_depth",
    "reconstruct.freeze_backbone",
    *(f"model.{name}" for name in MODEL_STRUCTURE),
    *(f"optim.{name}" for name in OPTIM_STRUCTURE),
)
# A network file system may show what a folder contained a minute ago.
LOOKS, SECONDS_BETWEEN = 8, 10.0
READ, DAMAGED, REFUSED = "read", "damaged", "refused"


class Damaged(Exception):
    """A checkpoint's files cannot be read, or differ from what was saved."""


def agree_on_steps(manager: ocp.CheckpointManager, peers: Coordination | None) -> list[int]:
    """Returns the steps of the saved checkpoints, which all processes of the run see.

    Args:
      manager: lists the checkpoints.
      peers: the other processes; None without any.

    Raises:
      UserError: if the processes see different ones, also after a minute.
    """
    if peers is None:
        return list(manager.all_steps())
    for look in range(LOOKS):
        steps = sorted(manager.all_steps())
        seen = json.dumps([steps, str(manager.directory)])
        of_processes = [json.loads(each) for each in peers.gather(f"list of checkpoints, {look + 1}", seen)]
        if all(each == steps for each, _ in of_processes):
            return steps
        if look == 0:
            log_main("waiting until all processes see the same checkpoints")
        if look < LOOKS - 1:
            time.sleep(SECONDS_BETWEEN)
            manager.reload()
    differ = "; ".join(
        f"process {process} sees {', '.join(map(str, each)) or 'none'} in {folder}"
        for process, (each, folder) in enumerate(of_processes)
    )
    raise UserError(
        f"the processes see different checkpoints: {differ}: pass a --workdir on a disk that all share"
    )


def restore_together(
    folder: pathlib.Path, like: Any, config: ConfigDict, peers: Coordination | None
) -> tuple[Any, dict[str, Any]]:
    """Restores and verifies the state of one checkpoint. Every process of the run must call this.

    Args:
      folder: the checkpoint's folder, named by its step.
      like: the state's shapes, dtypes and shardings, as `jax.ShapeDtypeStruct` leaves.
      config: the config that they belong to, for messages.
      peers: the other processes; None without any.

    Returns:
      The state, and the checkpoint's item `meta`.

    Raises:
      Damaged: in every process, if the checkpoint is damaged for one of them.
      UserError: in every process, if the machine of one cannot read it, or if it was written for another
        network or optimizer.
    """
    read, failure = None, None
    try:
        read = _read(folder, like, config)
    except (Damaged, UserError) as error:
        failure = error
    if peers is not None:
        failure = _failure_of_all(failure, f"checkpoint {folder.name}", peers)
    if failure is not None:
        raise failure
    assert read is not None
    state, meta = read
    try:
        found = examine(state)  # all processes compute them together
        check_fingerprints(meta["fingerprints"], found.fingerprints)
    except ValueError as error:
        raise Damaged(str(error)) from error
    return state, meta


def _failure_of_all(failure: Exception | None, key: str, peers: Coordination) -> Exception | None:
    """Returns the worst failure of all processes: this one's if it is as bad; None without any."""
    own = READ if failure is None else DAMAGED if isinstance(failure, Damaged) else REFUSED
    found = [each.partition(" ")[::2] for each in peers.gather(key, f"{own} {failure}")]
    for kind, error_type in ((REFUSED, UserError), (DAMAGED, Damaged)):
        if own == kind:
            return failure
        for process, (of_other, message) in enumerate(found):
            if of_other == kind:
                return error_type(f"process {process}: {message}")
    return None


def _read(folder: pathlib.Path, like: Any, config: ConfigDict) -> tuple[Any, dict[str, Any]]:
    """Returns a checkpoint's state and its item `meta`, without waiting for other processes.

    Raises:
      Damaged, UserError: as `restore_together`, for what this process reads.
    """
    try:
        meta, next_update = read_meta(folder)
    except Exception as error:
        raise _reading_error(folder, error) from error
    _check_same_leaves(folder, meta, describe(like), config)
    try:
        state = _read_state(folder, like)
    except Exception as error:
        _require_readable(folder, meta, error)
        try:  # it may have been a passing failure of the machine
            state = _read_state(folder, like)
        except Exception as again:
            _require_readable(folder, meta, again)
            raise _mismatch(folder, "its arrays are nested in another way", meta, config) from again
    if not int(state.step) == next_update == int(folder.name):
        raise Damaged("its contents belong to another step")
    return state, meta


def _read_state(folder: pathlib.Path, like: Any) -> Any:
    written = without_empty(like)
    sharded = ocp.checkpoint_utils.construct_restore_args(written)
    arguments = ocp.args.PyTreeRestore(item=written, restore_args=sharded)
    # The handler alone: Orbax's managers wait for the other processes after they have read.
    state = state_handler().restore(epath.Path(absolute(folder) / "state"), args=arguments)
    return jax.tree.map(or_empty, like, state)


def _require_readable(folder: pathlib.Path, meta: dict[str, Any], error: Exception) -> None:
    """Raises Damaged or Unreadable after an error of reading a state, unless it is intact on disk."""
    reading_error = _reading_error(folder, error)
    if not isinstance(reading_error, Damaged):
        raise reading_error from error
    try:
        verify_state(folder, meta)
    except Exception as proof:  # its message is plainer, without that of each shard
        raise _reading_error(folder, proof) from proof


def _reading_error(folder: pathlib.Path, error: Exception) -> Exception:
    """Returns Unreadable if the machine, not the checkpoint, is at fault; else Damaged."""
    if isinstance(error, UserError):
        return error
    if cause := machine_error(folder, error):
        return Unreadable(
            f"checkpoint {folder.name} in {folder.parent} could not be read ({reason_of(cause)}): fix the "
            "cause, then run the same command again"
        )
    return Damaged(reason_of(error))


def _check_same_leaves(
    folder: pathlib.Path, meta: dict[str, Any], expected: dict[str, str], config: ConfigDict
) -> None:
    saved = meta["leaves"]
    for name in [*saved, *expected]:
        if saved.get(name) != expected.get(name):
            difference = (
                f"{name} is {saved.get(name, 'missing')} in the checkpoint and "
                f"{expected.get(name, 'missing')} in the config"
            )
            raise _mismatch(folder, difference, meta, config)


def _mismatch(folder: pathlib.Path, difference: str, meta: dict[str, Any], config: ConfigDict) -> UserError:
    """Returns the error for a checkpoint of another network or optimizer; it names the settings."""
    changed = [
        f"config.{name} was {before!r} and is now {after!r}"
        for name, (before, after) in changed_settings(meta["config"], as_saved(config)).items()
        if name in STRUCTURE and MISSING not in (before, after)
    ]
    reasons = f" ({', '.join(changed)})" if changed else ""
    return UserError(
        f"checkpoint {folder.name} in {folder.parent} does not match the config: {difference}{reasons}: "
        "use the config it was trained with, or another --workdir"
    )
