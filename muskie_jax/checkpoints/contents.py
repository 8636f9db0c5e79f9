"""What a checkpoint contains, and how it is read and verified without a training run.

The item `state` has parameters, optimizer and step; `data`, the pipeline's next update; `meta`, the layout
version, the config, and the shape, dtype and fingerprint of every array of the state. If updates were
skipped for bad gradients, `meta` also has `spike`, the first of the newest ones.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import traverse_util

from muskie_jax.backend import backend_failure
from muskie_jax.checkpoints.object_storage import is_storage_failure, prepare_orbax
from muskie_jax.checkpoints.orbax_messages import collect_orbax_messages
from muskie_jax.errors import UserError, first_line
from muskie_jax.files import denied_path
from muskie_jax.fingerprint import examine
from muskie_jax.sharding import path_name
from muskie_jax.storage.address import absolute

LAYOUT = 1  # layout version of a checkpoint; increased when older code can no longer read it
ITEMS = ("state", "data", "meta")
DAMAGES = {  # TensorStore's status -> what it means for a file that it reads
    "NOT_FOUND": "a file is missing",
    "OUT_OF_RANGE": "a file is too short",
    "DATA_LOSS": "a file is corrupt",
}
SYSTEM_ERROR = re.compile(r": ([^:]+) \[os_error_code='?(\d+)")  # in a message of TensorStore
ERRORS_OF_DAMAGE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
LONGEST_REASON = 300  # characters of a library's message that a line quotes


def reason_of(error: BaseException) -> str:
    """Returns a library's message in a few words, without the many paths of TensorStore's."""
    text = str(error)
    if system_error := SYSTEM_ERROR.search(text):
        return system_error[1]
    if status := re.search("|".join(DAMAGES), text):
        return DAMAGES[status[0]]
    return first_line(error)[:LONGEST_REASON]


class Unreadable(UserError):
    """The machine does not read a checkpoint, which may be intact."""


def machine_error(folder: pathlib.Path, error: BaseException) -> BaseException | None:
    """Returns why this machine could not read a checkpoint; None if the checkpoint is at fault.

    Args:
      folder: the checkpoint's folder.
      error: the error of reading it.
    """
    if isinstance(error, FileNotFoundError) and (denied := denied_path(folder)):
        # Orbax does not find files in folders that it may not read.
        error = PermissionError(errno.EACCES, os.strerror(errno.EACCES), denied)
    # Python gives the OSError of a number its class.
    system_error = SYSTEM_ERROR.search(str(error))
    cause = OSError(int(system_error[2]), system_error[1]) if system_error else error
    if isinstance(cause, ERRORS_OF_DAMAGE):
        return None
    if failure := backend_failure():
        return RuntimeError(failure)
    # RuntimeError: of JAX, and of threads that cannot be started.
    of_machine = isinstance(cause, (OSError, MemoryError, RuntimeError))
    of_machine = of_machine and not isinstance(cause, RecursionError)
    return error if of_machine or is_storage_failure(error) else None


def state_handler() -> ocp.PyTreeCheckpointHandler:
    """Returns Orbax's reader and writer of states.

    By default, Orbax splits replicated arrays over the devices before it saves them, which compiles dozens
    of programs during the first save.
    """
    whole_arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
    registry = ocp.type_handlers.create_type_handler_registry(
        (jax.Array, whole_arrays), (np.ndarray, ocp.type_handlers.NumpyHandler())
    )
    return ocp.PyTreeCheckpointHandler(type_handler_registry=registry)


def describe(state: Any) -> dict[str, str]:
    """Returns the dtype and shape of every leaf by path, such as "float32 192x768"."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    shape = lambda leaf: "x".join(map(str, leaf.shape)) or "scalar"
    return {path_name(path): f"{leaf.dtype} {shape(leaf)}" for path, leaf in leaves}


def make_meta(
    state: Any, fingerprints: dict[str, str], config: dict[str, Any], spike: int | None
) -> dict[str, Any]:
    """Returns the item `meta`, with its own checksum. Arguments are those that the module describes."""
    meta = {"layout": LAYOUT, "config": config, "leaves": describe(state), "fingerprints": fingerprints}
    if spike is not None:
        meta["spike"] = spike
    return meta | {"checksum": _checksum(meta)}


def _checksum(meta: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True).encode()).hexdigest()


def check_meta(meta: dict[str, Any], name: str) -> None:
    """Raises ValueError if `meta` does not match its checksum, UserError if its layout is not LAYOUT."""
    if meta.pop("checksum") != _checksum(meta):
        raise ValueError("its metadata does not match its checksum")
    if meta["layout"] != LAYOUT:
        raise UserError(
            f"{name} has layout {meta['layout']}, but this version reads layout {LAYOUT}: use the version "
            "of muskie_jax that wrote it"
        )


def check_fingerprints(saved: dict[str, str], found: dict[str, str]) -> None:
    """Raises ValueError unless every saved fingerprint was found."""
    wrong = [name for name, value in saved.items() if found.get(name) != value]
    if wrong:
        raise ValueError(f"{len(wrong)} arrays differ from what was saved, such as {wrong[0]}")


def without_empty(state: Any) -> Any:
    """Returns a tree with None for arrays without elements, which Orbax refuses to write."""
    return jax.tree.map(lambda leaf: leaf if math.prod(leaf.shape) else None, state)


def or_empty(like: jax.ShapeDtypeStruct, value: Any) -> Any:
    """Returns a restored array, or the empty one that was left out."""
    if value is not None:
        return value
    empty = np.zeros(like.shape, like.dtype)
    return empty if like.sharding is None else jax.device_put(empty, like.sharding)


def read_meta(folder: pathlib.Path) -> tuple[dict[str, Any], int]:
    """Returns the item `meta` of a checkpoint and the step that its data continues from.

    Raises:
      UserError: if the checkpoint has another layout. Orbax raises errors of many types for damaged files.
    """
    prepare_orbax(folder)
    meta, step = _read_json(folder, "meta"), _read_json(folder, "data")["next_update"]
    check_meta(meta, str(folder))
    return meta, step


def verify(folder: pathlib.Path) -> int:
    """Returns the step of a checkpoint that is intact; compares every array with its fingerprint.

    It needs no config: arrays are read into host memory, in whatever structure they were saved.

    Raises:
      UserError: if the checkpoint is damaged, or has another layout.
    """
    with _damage_is_user_error(folder):
        meta, step = read_meta(folder)
        verify_state(folder, meta)
    return step


def verify_state(folder: pathlib.Path, meta: dict[str, Any]) -> None:
    """Compares the arrays of a checkpoint with `meta`; raises an error of any type if they differ."""
    # The handler alone: a Checkpointer would warn of files that these items do not have.
    handler, path = ocp.PyTreeCheckpointHandler(), epath.Path(absolute(folder) / "state")
    as_saved: Any = handler.metadata(path)
    numpy_arrays = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), as_saved.tree)
    found = examine(handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=numpy_arrays)))
    empty = {name for name, leaf in meta["leaves"].items() if 0 in _shape_and_dtype(leaf).shape}
    saved = {name: value for name, value in meta["fingerprints"].items() if name not in empty}
    check_fingerprints(saved, found.fingerprints)


def read_params(folder: pathlib.Path) -> tuple[dict[str, Any], int, dict[str, Any]]:
    """Reads and verifies the parameters of one checkpoint, without its optimizer; changes nothing on disk.

    Args:
      folder: the checkpoint's folder, such as `<workdir>/checkpoints/5000`.

    Returns:
      The parameter tree as numpy arrays, the optimiser-step count, and the config.

    Raises:
      UserError: if the checkpoint cannot be read or is damaged.
    """
    with _damage_is_user_error(folder):
        meta, step = read_meta(folder)
        like = _params_like(meta["leaves"])
        written = without_empty(like)
        restore = ocp.args.PyTreeRestore(
            item=written,
            restore_args=jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), written),
            partial_restore=True,
        )
        state = ocp.PyTreeCheckpointer().restore(absolute(folder) / "state", args=restore)
        state = jax.tree.map(lambda shape, value: np.asarray(or_empty(shape, value)), like, state)
        saved = {name: value for name, value in meta["fingerprints"].items() if _is_param(name)}
        check_fingerprints(saved, examine(state).fingerprints)
    return state["params"], step, meta["config"]


def read_config(folder: pathlib.Path) -> tuple[int, dict[str, Any]]:
    """Returns the optimiser-step count and the config of one checkpoint, without reading its state.

    Raises:
      UserError: if the checkpoint cannot be read or is damaged.
    """
    with _damage_is_user_error(folder):
        meta, step = read_meta(folder)
    return step, meta["config"]


@contextlib.contextmanager
def _damage_is_user_error(folder: pathlib.Path) -> Iterator[None]:
    """Turns any error of reading a checkpoint into a UserError that names its folder."""
    collect_orbax_messages()  # or each array that cannot be read prints tracebacks, also after this
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # Orbax raises errors of many types for a damaged file
        if cause := machine_error(folder, error):
            raise Unreadable(
                f"the checkpoint {folder} could not be read ({reason_of(cause)}): fix the cause, then run "
                "the same command again"
            ) from cause
        raise UserError(
            f"the checkpoint {folder} is damaged ({reason_of(error)}): use another one, which "
            "`muskie checkpoints --workdir ...` lists"
        ) from error


def _read_json(folder: pathlib.Path, item: str) -> Any:
    # The handler alone: a Checkpointer waits for the other processes of a run after it has read.
    return ocp.JsonCheckpointHandler().restore(epath.Path(absolute(folder) / item))


def _is_param(name: str) -> bool:
    return name.startswith("params/")


def _shape_and_dtype(description: str) -> jax.ShapeDtypeStruct:
    """Parses a value of `describe`'s result."""
    dtype, shape = description.split()
    sizes = () if shape == "scalar" else map(int, shape.split("x"))
    return jax.ShapeDtypeStruct(tuple(sizes), dtype)


def _params_like(leaves: dict[str, str]) -> dict[str, Any]:
    """Rebuilds the tree of parameter shapes from `describe`'s result."""
    flat = {name: _shape_and_dtype(text) for name, text in leaves.items() if _is_param(name)}
    return traverse_util.unflatten_dict(flat, sep="/")
