"""Checkpoints that can be trusted: Orbax writes them, fingerprints prove them.

A checkpoint holds `state` (parameters, optimizer, step), `data` (where the pipeline goes on) and `meta`
(layout version, config, and the shape, type and fingerprint of every leaf). A state is saved only if it
is finite, and used only if its fingerprints are those it was saved with: otherwise the checkpoint is
moved aside and the one before it is taken.
"""

import hashlib
import json
import pathlib
from typing import Any

import flax
import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from muskie_jax.errors import NotFinite, UserError, first_line
from muskie_jax.fingerprint import examine
from muskie_jax.sharding import path_name

LAYOUT = 1  # of a checkpoint; raised whenever older code could not read it

ITEMS = ("state", "data", "meta")


def _describe(state: Any) -> dict[str, str]:
    """Type and shape of every leaf by path: "float32 192x768"."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    shape = lambda leaf: "x".join(map(str, leaf.shape)) or "scalar"
    return {path_name(path): f"{leaf.dtype} {shape(leaf)}" for path, leaf in leaves}


def _checksum(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def _check_description(meta: dict[str, Any], name: str) -> None:
    """Raises ValueError if a description is not what was saved, UserError if it is of another layout."""
    if meta.pop("checksum") != _checksum(meta):
        raise ValueError("its description is not what was saved")
    if meta["layout"] != LAYOUT:
        raise UserError(
            f"{name} has layout {meta['layout']}, this code reads {LAYOUT}: use the version of "
            "muskie_jax that wrote it"
        )


def _check_fingerprints(saved: dict[str, str], found: dict[str, str]) -> None:
    wrong = [name for name, value in saved.items() if found.get(name) != value]
    if wrong:
        raise ValueError(f"{len(wrong)} arrays are not what was saved, such as {wrong[:1]}")


def _is_the_machines_fault(error: Exception) -> bool:
    """Whether an error says nothing of the checkpoint: a failing disk, or too little memory."""
    if isinstance(error, FileNotFoundError):
        return False
    return isinstance(error, (OSError, MemoryError, jax.errors.JaxRuntimeError))


class Checkpointer:
    """The checkpoints of a work directory.

    Args:
      workdir: checkpoints are `<workdir>/checkpoints/<step>`; damaged ones are moved to
        `<workdir>/checkpoints_damaged`.
      keep: how many to keep, newest first.
    """

    def __init__(self, workdir: pathlib.Path, keep: int):
        self.folder = workdir.absolute() / "checkpoints"
        self.damaged = workdir.absolute() / "checkpoints_damaged"
        self._options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(self.folder, options=self._options, item_names=ITEMS)

    def latest(self) -> int | None:
        """The newest step on disk, verified or not."""
        return self._manager.latest_step()

    def save(self, state: Any, config: ConfigDict) -> None:
        """Starts to save a state under its own step; the writing itself goes on in the background.

        Raises:
          NotFinite: if the state is not worth keeping.
        """
        step = int(state.step)
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
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave({"next_update": step}),
                meta=ocp.args.JsonSave(meta),
            ),
            force=True,
        )

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]] | None:
        """The newest state that proves intact, and the config it was trained with.

        Args:
          like: the state's shapes, types and shardings (`jax.ShapeDtypeStruct` leaves).

        Returns:
          None if there is no checkpoint.

        Raises:
          UserError: if a checkpoint is of another network or optimizer, or none is intact.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                return self._verified(step, like)
            except UserError:
                raise
            except Exception as error:  # a damaged file can raise anything, from anywhere in Orbax
                if _is_the_machines_fault(error):
                    raise UserError(
                        f"checkpoint {step} in {self.folder} could not be read ({error}): mend that, "
                        "then run the same command again"
                    ) from error
                self._set_aside(step, error)
        if steps:
            raise UserError(f"none of the checkpoints in {self.folder} is intact: {self._way_on()}")
        if self.damaged.exists():
            raise UserError(f"there is no intact checkpoint in {self.folder}: {self._way_on()}")
        return None

    def _way_on(self) -> str:
        return f"delete {self.damaged} to start from the beginning, or write another --workdir"

    def _set_aside(self, step: int, error: Exception) -> None:
        logging.error("Checkpoint %d is damaged and moved aside: %s", step, first_line(error)[:200])
        self._move_aside(step)

    def _verified(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        items = self._manager.restore(
            step, args=ocp.args.Composite(data=ocp.args.JsonRestore(), meta=ocp.args.JsonRestore())
        )
        meta = items["meta"]
        _check_description(meta, f"checkpoint {step} in {self.folder}")
        self._check_same_network(step, meta["leaves"], _describe(like))
        state = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like)))[
            "state"
        ]
        _check_fingerprints(meta["fingerprints"], examine(state)[0])
        if int(state.step) != step or items["data"]["next_update"] != step:
            raise ValueError("it is of another step")
        return state, meta["config"]

    def _check_same_network(self, step: int, saved: dict[str, str], wanted: dict[str, str]) -> None:
        for name in [*saved, *wanted]:
            if saved.get(name) != wanted.get(name):
                raise UserError(
                    f"checkpoint {step} in {self.folder} is of another network or optimizer: {name} is "
                    f"{saved.get(name, 'missing')} there and {wanted.get(name, 'missing')} in the "
                    "config: write another --workdir, or the config it was trained with"
                )

    def _move_aside(self, step: int) -> None:
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
    """The parameters of one checkpoint, proven intact, without its optimizer; nothing on disk changes.

    Args:
      folder: of the step, such as `<workdir>/checkpoints/5000`.

    Returns:
      The tree of parameters as numpy arrays, the updates done, and the config they were trained with.

    Raises:
      UserError: if the checkpoint cannot be read or is damaged.
    """
    try:
        read_json = lambda item: ocp.Checkpointer(ocp.JsonCheckpointHandler()).restore(folder / item)
        folder = folder.absolute()
        meta, step = read_json("meta"), read_json("data")["next_update"]
        _check_description(meta, str(folder))
        like = _params_like(meta["leaves"])
        restore = ocp.args.PyTreeRestore(
            item=like,
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), like),
            partial_restore=True,
        )
        state = ocp.PyTreeCheckpointer().restore(folder / "state", args=restore)
        saved = {name: value for name, value in meta["fingerprints"].items() if _is_param(name)}
        _check_fingerprints(saved, examine(state)[0])
    except UserError:
        raise
    except Exception as error:  # a damaged file can raise anything, from anywhere in Orbax
        reason = first_line(error)[:200]
        raise UserError(f"the checkpoint {folder} cannot be read or is damaged: {reason}") from error
    return state["params"], step, meta["config"]


def _is_param(name: str) -> bool:
    return name.startswith("params/")


def _params_like(leaves: dict[str, str]) -> dict[str, Any]:
    """The tree of what `_describe` described, of parameters only."""
    flat = {}
    for name, described in leaves.items():
        if _is_param(name):
            dtype, shape = described.split()
            sizes = () if shape == "scalar" else map(int, shape.split("x"))
            flat[name] = jax.ShapeDtypeStruct(tuple(sizes), dtype)
    return flax.traverse_util.unflatten_dict(flat, sep="/")
