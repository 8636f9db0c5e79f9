"""Saves and restores checkpoints with Orbax, and verifies them with fingerprints.

A checkpoint has the items `state` (parameters, optimizer, step), `data` (the pipeline's next update) and
`meta` (layout version, config, and the shape, dtype and fingerprint of every leaf). Only finite states are
saved. If a restored state differs from its saved fingerprints, its checkpoint is moved aside and the
previous checkpoint is restored.
"""

import hashlib
import json
import math
import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from flax import traverse_util
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from muskie_jax.errors import NotFinite, UserError, first_line
from muskie_jax.fingerprint import examine
from muskie_jax.sharding import path_name

LAYOUT = 1  # layout version of a checkpoint; increased when older code can no longer read it

ITEMS = ("state", "data", "meta")


def _describe(state: Any) -> dict[str, str]:
    """Returns the dtype and shape of every leaf by path, such as "float32 192x768"."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    shape = lambda leaf: "x".join(map(str, leaf.shape)) or "scalar"
    return {path_name(path): f"{leaf.dtype} {shape(leaf)}" for path, leaf in leaves}


def _checksum(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _check_description(meta: dict[str, Any], name: str) -> None:
    """Raises ValueError if `meta` does not match its checksum, UserError if its layout is not LAYOUT."""
    if meta.pop("checksum") != _checksum(meta):
        raise ValueError("its metadata does not match its checksum")
    if meta["layout"] != LAYOUT:
        raise UserError(
            f"{name} has layout {meta['layout']}, but this version reads layout {LAYOUT}: use the version "
            "of muskie_jax that wrote it"
        )


def _check_fingerprints(saved: dict[str, str], found: dict[str, str]) -> None:
    wrong = [name for name, value in saved.items() if found.get(name) != value]
    if wrong:
        raise ValueError(f"{len(wrong)} arrays differ from what was saved, such as {wrong[0]}")


def _is_machine_error(error: Exception) -> bool:
    """Returns whether the machine, not the checkpoint, is at fault: a failing disk or too little memory."""
    if isinstance(error, FileNotFoundError):
        return False
    return isinstance(error, (OSError, MemoryError, jax.errors.JaxRuntimeError))


class Checkpointer:
    """Saves and restores the checkpoints of a work directory.

    Args:
      workdir: the work directory. Checkpoints are in `<workdir>/checkpoints/<step>`; damaged ones are
        moved to `<workdir>/checkpoints_damaged`.
      keep: number of newest checkpoints to keep.
      keep_every: checkpoints whose step is a multiple of this are kept, too; 0 for none.
    """

    def __init__(self, workdir: pathlib.Path, keep: int, keep_every: int = 0):
        self.folder = workdir.absolute() / "checkpoints"
        self.damaged = workdir.absolute() / "checkpoints_damaged"
        self._options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, keep_period=keep_every or None, create=True
        )
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(self.folder, options=self._options, item_names=ITEMS)

    def latest(self) -> int | None:
        """Returns the newest step on disk, whose checkpoint may be damaged; None without any."""
        return self._manager.latest_step()

    def describe_restart(self) -> str:
        """Describes where a new start would continue, such as "step 100 in runs/a/checkpoints"."""
        step = self.latest()
        return (
            f"the beginning, since {self.folder} is empty"
            if step is None
            else f"step {step} in {self.folder}"
        )

    def is_saving(self) -> bool:
        """Returns whether a save continues in the background."""
        return self._manager.is_saving_in_progress()

    def save(self, state: Any, config: ConfigDict) -> None:
        """Starts saving a state as the checkpoint of its step; Orbax writes it in the background.

        Raises:
          NotFinite: if the state is not finite.
        """
        step = int(jax.device_get(state.step))
        fingerprints, finite = examine(state)
        if not finite:
            raise NotFinite(f"the state after step {step} is not finite and was not saved")
        meta = {
            "layout": LAYOUT,
            "config": json.loads(config.to_json_best_effort()),
            "leaves": _describe(state),
            "fingerprints": fingerprints,
        }
        meta["checksum"] = _checksum(meta)
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_without_empty(state)),
            data=ocp.args.JsonSave({"next_update": step}),
            meta=ocp.args.JsonSave(meta),
        )
        with jax.transfer_guard("allow"):  # Orbax copies arrays to the host implicitly
            self._manager.save(step, args=items, force=True)

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """Restores the newest intact state, and the config it was trained with.

        Args:
          like: the state's shapes, dtypes and shardings, as `jax.ShapeDtypeStruct` leaves.

        Returns:
          The state and the config; None if there is no checkpoint.

        Raises:
          UserError: if a checkpoint was written for another network or optimizer or cannot be read, or if
            all checkpoints are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                return self._restore_verified(step, like)
            except UserError:
                raise
            except Exception as error:  # Orbax raises errors of many types for a damaged file
                if _is_machine_error(error):
                    raise UserError(
                        f"checkpoint {step} in {self.folder} could not be read ({error}): fix the cause, "
                        "then run the same command again"
                    ) from error
                reason = first_line(error)[:200]
                logging.error("Checkpoint %d is damaged and moved aside: %s", step, reason)
                self._move_aside(step)
        restart = f"delete {self.damaged} to start from the beginning, or use another --workdir"
        if steps:
            raise UserError(f"none of the checkpoints in {self.folder} is intact: {restart}")
        if self.damaged.exists():
            raise UserError(f"there is no intact checkpoint in {self.folder}: {restart}")
        return None

    def _restore_verified(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        items = self._manager.restore(
            step, args=ocp.args.Composite(data=ocp.args.JsonRestore(), meta=ocp.args.JsonRestore())
        )
        meta = items["meta"]
        _check_description(meta, f"checkpoint {step} in {self.folder}")
        self._check_same_leaves(step, meta["leaves"], _describe(like))
        state_args = ocp.args.Composite(state=ocp.args.StandardRestore(_without_empty(like)))
        state = self._manager.restore(step, args=state_args)["state"]
        state = jax.tree.map(_or_empty, like, state)
        _check_fingerprints(meta["fingerprints"], examine(state)[0])
        if int(state.step) != step or items["data"]["next_update"] != step:
            raise ValueError("its contents belong to another step")
        return state, meta["config"]

    def _check_same_leaves(self, step: int, saved: dict[str, str], expected: dict[str, str]) -> None:
        for name in [*saved, *expected]:
            if saved.get(name) != expected.get(name):
                raise UserError(
                    f"checkpoint {step} in {self.folder} does not match the config: {name} is "
                    f"{saved.get(name, 'missing')} in the checkpoint and "
                    f"{expected.get(name, 'missing')} in the config: use the config it was trained "
                    "with, or another --workdir"
                )

    def _move_aside(self, step: int) -> None:
        """Moves a checkpoint to the folder of damaged ones, under a free name."""
        if jax.process_index() == 0:
            self.damaged.mkdir(parents=True, exist_ok=True)
            target = self.damaged / str(step)
            number = 1
            while target.exists():
                target = self.damaged / f"{step}.{number}"
                number += 1
            (self.folder / str(step)).rename(target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices(f"moved aside {step}")
        self._manager.close()
        self._manager = self._open()

    def close(self) -> None:
        self._manager.close()


def read_params(folder: pathlib.Path) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """Reads and verifies the parameters of one checkpoint, without its optimizer; changes nothing on disk.

    Args:
      folder: the checkpoint's folder, such as `<workdir>/checkpoints/5000`.

    Returns:
      The parameter tree as numpy arrays, the optimiser-step count, and the config.

    Raises:
      UserError: if the checkpoint cannot be read or is damaged.
    """
    try:
        folder = folder.absolute()
        meta, step = _read_json(folder, "meta"), _read_json(folder, "data")["next_update"]
        _check_description(meta, str(folder))
        like = _params_like(meta["leaves"])
        written = _without_empty(like)
        restore = ocp.args.PyTreeRestore(
            item=written,
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), written),
            partial_restore=True,
        )
        state = ocp.PyTreeCheckpointer().restore(folder / "state", args=restore)
        state = jax.tree.map(lambda shape, value: np.asarray(_or_empty(shape, value)), like, state)
        saved = {name: value for name, value in meta["fingerprints"].items() if _is_param(name)}
        _check_fingerprints(saved, examine(state)[0])
    except UserError:
        raise
    except Exception as error:  # Orbax raises errors of many types for a damaged file
        reason = first_line(error)[:200]
        raise UserError(f"the checkpoint {folder} cannot be read or is damaged: {reason}") from error
    return state["params"], step, meta["config"]


def read_config(folder: pathlib.Path) -> tuple[int, dict[str, Any]]:
    """Returns the optimiser-step count and the config of one checkpoint, without reading its state.

    Raises:
      UserError: if the checkpoint cannot be read or is damaged.
    """
    try:
        meta, step = _read_json(folder, "meta"), _read_json(folder, "data")["next_update"]
        _check_description(meta, str(folder))
    except UserError:
        raise
    except Exception as error:  # Orbax raises errors of many types for a damaged file
        reason = first_line(error)[:200]
        raise UserError(f"the checkpoint {folder} cannot be read or is damaged: {reason}") from error
    return step, meta["config"]


def _without_empty(state: Any) -> Any:
    """Returns a tree with None for arrays without elements, which Orbax refuses to write."""
    return jax.tree.map(lambda leaf: leaf if math.prod(leaf.shape) else None, state)


def _or_empty(like: jax.ShapeDtypeStruct, value: Any) -> Any:
    """Returns a restored array, or the empty one that was left out."""
    if value is not None:
        return value
    empty = np.zeros(like.shape, like.dtype)
    return empty if like.sharding is None else jax.device_put(empty, like.sharding)


def _read_json(folder: pathlib.Path, item: str) -> Any:
    return ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(folder.absolute() / item)


def _is_param(name: str) -> bool:
    return name.startswith("params/")


def _params_like(leaves: dict[str, str]) -> dict[str, Any]:
    """Rebuilds the tree of parameter shapes from `_describe`'s result."""
    flat = {}
    for name, description in leaves.items():
        if _is_param(name):
            dtype, shape = description.split()
            sizes = () if shape == "scalar" else map(int, shape.split("x"))
            flat[name] = jax.ShapeDtypeStruct(tuple(sizes), dtype)
    return traverse_util.unflatten_dict(flat, sep="/")
