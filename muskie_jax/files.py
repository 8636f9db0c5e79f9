"""Atomic writes of files and folders, and checks against replacing existing ones by accident."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import tempfile
import time
import traceback
from collections.abc import Collection, Iterator

from muskie_jax.errors import UserError, printable
from muskie_jax.processes.this_machine import machine, started

ADDRESS = "://"  # occurs in URLs such as gs://bucket/run, but not in paths
# Raised for a damaged record in JSON, which may have infinite numbers, and brackets of any depth.
DAMAGED_RECORD = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
REPLACED = "old"  # in a temporary folder: the output that is being replaced


def user_path(path: str | os.PathLike) -> pathlib.Path:
    """Returns the path that a user wrote, with ~ expanded.

    Raises:
      UserError: for a URL, which would become a folder named "gs:", for the home of an unknown user, or for
        a name that is not UTF-8, which Orbax cannot write.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{printable(str(path))} has characters that are not UTF-8: rename it, or set PYTHONUTF8=1 if "
            "only the locale of this shell is at fault"
        ) from error
    if ADDRESS in str(path):
        raise UserError(
            f"{str(path)!r} is a URL, but a local path is needed: mount the bucket and use its folder "
            "(docs/storage.md says where URLs work)"
        )
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"cannot expand '~' in {str(path)!r}: unknown user") from error


def check_free(path: pathlib.Path, force: bool, entries: Collection[str] | None = None) -> None:
    """Raises UserError if `path` exists and must not be replaced.

    Args:
      path: the file or folder to write.
      force: whether the user allows replacing an earlier output.
      entries: names of all entries of the folder to write; a folder with any other entry is never
        replaced. None if `path` will be a file.
    """
    if not os.path.lexists(path):
        return
    is_folder = path.is_dir() and not path.is_symlink()
    existing = {entry.name for entry in path.iterdir()} if is_folder and entries is not None else set()
    if existing or not is_folder or entries is None:
        require_replaceable(path, is_folder, existing, force, entries)


def require_replaceable(
    path: pathlib.Path,
    is_folder: bool,
    existing: Collection[str],
    force: bool,
    entries: Collection[str] | None,
) -> None:
    """Raises UserError if an existing file or folder must not be replaced.

    Args:
      path: the path or URL.
      is_folder: whether it is a folder.
      existing: names of the folder's entries.
      force, entries: see `check_free`.
    """
    if is_folder != (entries is not None):
        kind, new = ("folder", "file") if is_folder else ("file", "folder")
        raise UserError(
            f"{path} is a {kind}, and a {kind} is never replaced by a {new}: choose another path"
        )
    if not force:
        raise UserError(f"{path} exists: choose another path, or pass --force (in Python, force=True)")
    others = sorted(set(existing) - set(entries or ()))
    if others:
        raise UserError(
            f"{path} is not replaced, because it contains {others[0]!r}, which this command did not write: "
            "choose another path"
        )


def replace_text(path: pathlib.Path, text: str) -> None:
    """Writes a file at once: whoever reads it sees the earlier text or the new one."""
    part = path.with_suffix(".part")
    part.write_text(text)
    part.replace(path)


@contextlib.contextmanager
def atomic_write(
    path: pathlib.Path, force: bool = False, entries: Collection[str] | None = None
) -> Iterator[pathlib.Path]:
    """Yields a temporary path to write to, and moves the result to `path` if nothing was raised.

    The temporary path has the name of `path`. A killed process leaves a folder `.muskie-...` next to
    `path`, and `path` unchanged. The next write to `path` on that machine deletes the folder.

    Args:
      path, force, entries: see `check_free`.

    Raises:
      UserError: if `path` must not be replaced, or cannot be written.
    """
    path = pathlib.Path(os.path.abspath(path))
    try:
        check_free(path, force, entries)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _temporary_names(path)
        _delete_remnants(path, temporary)
        prefix = f"{temporary}{os.getpid()}-"
        with tempfile.TemporaryDirectory(prefix=prefix, dir=path.parent) as beside:
            part = pathlib.Path(beside) / path.name
            yield part
            check_free(path, force, entries)  # another process may have written it since
            if entries is None:
                part.replace(path)
            else:
                _replace_folder(part, path, pathlib.Path(beside) / REPLACED)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def _temporary_names(path: pathlib.Path) -> str:
    """Returns how the names of temporary folders begin that this machine uses for a path."""
    identity = f"{machine()} {path.name}".encode(errors="surrogateescape")
    return f".muskie-{hashlib.sha256(identity).hexdigest()[:12]}-"


def _delete_remnants(path: pathlib.Path, temporary: str) -> None:
    """Deletes the temporary folders of killed processes, unless one has the only copy of an output."""
    for folder in path.parent.glob(f"{temporary}*"):
        process = folder.name.removeprefix(temporary).partition("-")[0]
        is_only_copy = (folder / REPLACED).exists() and not os.path.lexists(path)
        if process.isdecimal() and started(int(process)) is None and not is_only_copy:
            shutil.rmtree(folder, ignore_errors=True)


def _replace_folder(part: pathlib.Path, path: pathlib.Path, old: pathlib.Path) -> None:
    """Moves folder `part` to `path`. Renaming cannot replace a folder, so `old` receives it."""
    exists = os.path.lexists(path)
    if exists:
        path.rename(old)
    try:
        part.rename(path)
    except BaseException:
        if exists:
            old.rename(path)
        raise


def or_temporary(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields a folder, and then the folder of temporary files, if this machine has one."""
    yield folder
    try:
        temporary = tempfile.gettempdir()
    except OSError:  # no folder can be written
        return
    yield pathlib.Path(temporary)


def write_traceback(error: BaseException, folder: pathlib.Path) -> pathlib.Path:
    """Writes an error with its traceback to a new file, and returns the file's path.

    Args:
      error: the error.
      folder: the folder of the file. If it cannot be written, the system's temporary folder is used.
    """
    text = "".join(traceback.format_exception(error))
    name = f"error_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}.txt"
    for parent in or_temporary(folder):
        with contextlib.suppress(Exception):  # of many types if the folder is in object storage
            path = parent / name
            path.write_text(text)
            return path
    return pathlib.Path(os.devnull)


def denied_path(folder: pathlib.Path) -> str:
    """Returns a file or folder at or below `folder` that this process may not read; "" if there is none."""
    denied: list[OSError] = []
    for root, _, names in os.walk(folder, onerror=denied.append):
        for name in names:
            path = os.path.join(root, name)
            if not os.access(path, os.R_OK) and os.path.exists(path):
                return path
    return next((str(error.filename) for error in denied if isinstance(error, PermissionError)), "")


def create_workdir(workdir: pathlib.Path) -> None:
    """Creates a work directory on a disk unless it exists.

    Raises:
      UserError: if it cannot be created or written to.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"--workdir={workdir} cannot be created: {error.strerror}: choose another folder"
        ) from error
    if not os.access(workdir, os.W_OK):
        raise UserError(
            f"--workdir={workdir} is not writable: change its permissions, mount it for writing, or choose "
            "another folder"
        )
