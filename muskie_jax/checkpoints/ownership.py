"""Keeps work directories from deleting each other's checkpoints.

`<workdir>/checkpoints` may be a link to a folder on another disk. That folder belongs to one work
directory: a file in each of them has the same random identity, so both may be moved.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import uuid

import jax

from muskie_jax.checkpoints.newest import FILE as NEWEST
from muskie_jax.checkpoints.saved_steps import CHECKPOINTS, DAMAGED, METRICS
from muskie_jax.errors import UserError
from muskie_jax.files import DAMAGED_RECORD, replace_text
from muskie_jax.processes.workdir_lock import exclusive
from muskie_jax.storage.address import absolute, as_os_errors, is_remote

IDENTITY = "workdir_id.json"  # in a work directory whose checkpoints are elsewhere
OWNER = "checkpoints_of.json"  # in a folder of checkpoints outside of its work directory


@dataclasses.dataclass(frozen=True)
class _Workdir:
    """The contents of IDENTITY and OWNER.

    Attributes:
      identity: differs for each work directory, except for copies.
      path: the work directory, at its last start.
    """

    identity: str
    path: str

    @classmethod
    def read(cls, file: pathlib.Path) -> "_Workdir | None":
        """Returns None if the file is missing or damaged."""
        try:
            found = json.loads(file.read_text())
            return cls(str(found["identity"]), str(found["path"]))
        except (OSError, *DAMAGED_RECORD):
            return None

    def write(self, file: pathlib.Path) -> None:
        replace_text(file, json.dumps(dataclasses.asdict(self)) + "\n")


def require_outside_of_checkpoints(workdir: pathlib.Path) -> None:
    """Raises UserError for a work directory inside the checkpoints of another, which may delete it."""
    paths = [absolute(workdir)] + ([] if is_remote(workdir) else [pathlib.Path(os.path.realpath(workdir))])
    for path in paths:
        if folder := _checkpoints_around(path, *path.parents):
            raise UserError(
                f"--workdir={workdir} is inside {folder}, the checkpoints of another run, and would be "
                "deleted with them: choose another folder"
            )


def exclusive_run(workdir: pathlib.Path, name: str) -> contextlib.AbstractContextManager[None]:
    """Returns a context that locks a work directory and its checkpoints, for every process of a run.

    A linked folder of checkpoints has a lock, too, and becomes that of this work directory.

    Args:
      workdir: the work directory, without symbolic links.
      name: name of the locks, see `processes.workdir_lock`.

    Raises:
      UserError: on entry, if another job holds a lock, if the linked folder belongs to another work
        directory or is inside its checkpoints, or if there no longer is a link.
    """
    if jax.process_index() > 0:
        return exclusive()
    linked = _linked_folder(workdir)
    paths = [folder / name for folder in (workdir, linked) if folder]
    return exclusive(*paths, check=functools.partial(_claim_checkpoints, workdir, linked))


def _claim_checkpoints(workdir: pathlib.Path, linked: pathlib.Path | None) -> None:
    """Makes a linked folder of checkpoints that of a work directory, unless it belongs to another."""
    folder = linked or workdir / CHECKPOINTS
    if is_remote(workdir):
        return
    if (workdir / IDENTITY).exists() and not os.path.lexists(folder):
        raise UserError(
            f"{folder} is gone, which was a link to a folder elsewhere: restore the link, or delete "
            f"{workdir / IDENTITY} to start from the beginning"
        )
    if not (linked or (folder / OWNER).exists()):
        return
    if linked and _is_checkpoints_of_workdir(folder):
        raise UserError(
            f"{workdir / CHECKPOINTS} is a link to {folder}, the checkpoints of another work directory: "
            "link another folder"
        )
    if linked and (around := _checkpoints_around(*folder.parents)):
        raise UserError(
            f"{workdir / CHECKPOINTS} is a link to {folder}, inside {around}, the checkpoints of another "
            "run, and would be deleted with them: link another folder"
        )
    owner = _Workdir.read(folder / OWNER)
    known = _Workdir.read(workdir / IDENTITY)
    this = _Workdir(known.identity if known else uuid.uuid4().hex, str(workdir))
    if owner and (owner.identity != this.identity or _is_copy(workdir, owner)):
        raise UserError(
            f"the checkpoints in {folder} belong to the work directory {owner.path}, not to {workdir}: use "
            f"another folder, or delete {folder / OWNER} if that work directory is no longer used"
        )
    try:
        if this != known:
            this.write(workdir / IDENTITY)
        if this != owner:
            this.write(folder / OWNER)
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}") from error


def _linked_folder(workdir: pathlib.Path) -> pathlib.Path | None:
    """Returns the folder that `<workdir>/checkpoints` links to, if it is a link to a folder."""
    folder = workdir / CHECKPOINTS
    if is_remote(workdir) or not (folder.is_symlink() and folder.is_dir()):
        return None
    return pathlib.Path(os.path.realpath(folder))


def _is_copy(workdir: pathlib.Path, owner: _Workdir) -> bool:
    """Returns whether the work directory is a copy of its checkpoints' owner, which still exists."""
    original = _Workdir.read(pathlib.Path(owner.path) / IDENTITY)
    return bool(
        original and original.identity == owner.identity and not os.path.samefile(owner.path, workdir)
    )


def _checkpoints_around(*folders: pathlib.Path) -> pathlib.Path | None:
    """Returns the first of some folders that has the checkpoints of a run; None if none has."""
    for folder in folders:
        is_linked = not is_remote(folder) and (folder / OWNER).exists()
        if is_linked or _is_checkpoints_of_workdir(folder):
            return folder
    return None


def _is_checkpoints_of_workdir(folder: pathlib.Path) -> bool:
    if folder.name not in (CHECKPOINTS, DAMAGED):
        return False
    with contextlib.suppress(OSError), as_os_errors():  # a store without an answer is named later
        return any((folder.parent / name).exists() for name in (METRICS, NEWEST))
    return False
