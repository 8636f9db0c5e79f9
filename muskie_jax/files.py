"""Files and folders that are there whole or not at all, and that replace only what is like them."""

import contextlib
import os
import pathlib
import tempfile
from collections.abc import Collection, Iterator

from muskie_jax.errors import UserError

ADDRESS = "://"  # tells an address, such as gs://bucket/run, from a path


def user_path(path: str | os.PathLike) -> pathlib.Path:
    """A path as a user writes it, ~ included.

    Raises:
      UserError: for an address, which would be taken for a folder called "gs:", or if there is no such
        user.
    """
    if ADDRESS in str(path):
        raise UserError(
            f"{str(path)!r} is an address: write a path, such as one where the bucket is mounted "
            "(docs/launch.md)"
        )
    try:
        return pathlib.Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{str(path)!r}: there is no such user's home") from error


def check_free(path: pathlib.Path, force: bool, entries: Collection[str] | None = None) -> None:
    """Raises UserError if what is at a path must not be replaced.

    Args:
      path: of a file or folder that is to be made.
      force: whether the user allows to replace one of its kind.
      entries: names of what the folder will hold: one that holds anything else is not of its kind.
        None: it is to be a file.
    """
    if not os.path.lexists(path):
        return
    is_folder = path.is_dir() and not path.is_symlink()
    if is_folder != (entries is not None):
        kind = "a folder" if is_folder else "a file"
        raise UserError(f"{path} is {kind}, which is not replaced: write another name")
    held = {entry.name for entry in path.iterdir()} if is_folder else set()
    if is_folder and not held:
        return
    if not force:
        raise UserError(f"{path} is there already: write another name, or --force (in Python force=True)")
    others = sorted(held - set(entries or ()))
    if others:
        raise UserError(f"{path} holds {others[0]!r} too, so it is not replaced: write another name")


@contextlib.contextmanager
def atomic_write(
    path: pathlib.Path, force: bool = False, entries: Collection[str] | None = None
) -> Iterator[pathlib.Path]:
    """A place of the same name, elsewhere; what is made there comes to `path` if nothing is raised.

    A process that is killed leaves a folder `.muskie-...` beside `path`, and `path` as it was.

    Args:
      path, force, entries: see `check_free`.

    Raises:
      UserError: if `path` is taken, or nothing can be written there.
    """
    path = pathlib.Path(os.path.abspath(path))
    try:
        check_free(path, force, entries)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".muskie-", dir=path.parent) as beside:
            part = pathlib.Path(beside) / path.name
            yield part
            check_free(path, force, entries)  # somebody may have been faster
            if entries is None:
                part.replace(path)
            else:
                _replace_folder(part, path, pathlib.Path(beside) / "old")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error


def _replace_folder(part: pathlib.Path, path: pathlib.Path, old: pathlib.Path) -> None:
    """Puts a folder at `path`; one that is there steps aside, since renaming cannot replace it."""
    there = os.path.lexists(path)
    if there:
        path.rename(old)
    try:
        part.rename(path)
    except BaseException:
        if there:
            old.rename(path)
        raise


def create_workdir(workdir: pathlib.Path) -> None:
    """Creates a work directory unless it exists.

    Raises:
      UserError: if it cannot be created or written to.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be created: {error.strerror}") from error
    if not os.access(workdir, os.W_OK):
        raise UserError(f"--workdir={workdir} cannot be written to: write another folder")
