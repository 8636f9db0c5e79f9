"""Files and folders that are there whole or not at all."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator

from muskie_jax.errors import UserError


def check_free(path: pathlib.Path, force: bool) -> None:
    """Raises UserError if something is there that nobody allowed to replace."""
    if not force and os.path.lexists(path) and not _is_empty_folder(path):
        raise UserError(f"{path} is there already: write another name, or --force (in Python force=True)")


def _is_empty_folder(path: pathlib.Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


@contextlib.contextmanager
def made_whole(path: pathlib.Path, force: bool = False) -> Iterator[pathlib.Path]:
    """A free path beside `path`; the file or folder made there takes its place if nothing was raised.

    Raises:
      UserError: if `path` is taken, and not `force`; or if nothing can be written there.
    """
    check_free(path, force)
    part = path.with_name(f".{path.name}.part-{os.getpid()}")
    old = path.with_name(f".{path.name}.old-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        check_free(path, force)  # somebody may have been faster
        if path.is_dir():  # a folder cannot be replaced by renaming, so the old one steps aside
            path.rename(old)
        try:
            part.replace(path)
        except OSError:
            if os.path.lexists(old):
                old.rename(path)
            raise
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        for left in (part, old):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)
