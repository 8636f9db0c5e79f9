"""Writes files and folders of results, on disks and in object storage, and reads files of both."""

import contextlib
import pathlib
import tempfile
from collections.abc import Collection, Iterator, Sequence

from muskie_jax import files
from muskie_jax.errors import UserError, first_line
from muskie_jax.storage.address import as_os_errors, filesystem, is_remote


def check_free(path: pathlib.Path, force: bool, entries: Collection[str] | None = None) -> None:
    """Raises UserError if a path or URL exists and must not be replaced; see `files.check_free`."""
    if not is_remote(path):
        return files.check_free(path, force, entries)
    try:
        with as_os_errors():
            if not path.exists():
                return
            is_folder = path.is_dir()
            existing = {entry.name for entry in path.iterdir()} if is_folder else set()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}") from error
    files.require_replaceable(path, is_folder, existing, force, entries)


@contextlib.contextmanager
def write_output(
    path: pathlib.Path, force: bool = False, entries: Sequence[str] | None = None
) -> Iterator[pathlib.Path]:
    """Yields a temporary path to write to, and moves or copies the result to `path` if nothing was raised.

    In object storage, a file appears at once. A folder appears file by file, the first of `entries` last;
    an interrupted command leaves a folder without that file.

    Args:
      path: path or URL.
      force, entries: see `files.check_free`.

    Raises:
      UserError: if `path` must not be replaced, or cannot be written.
    """
    if not is_remote(path):
        with files.atomic_write(path, force, entries) as part:
            yield part
        return
    check_free(path, force, entries)
    with tempfile.TemporaryDirectory(prefix="muskie-") as folder:
        part = pathlib.Path(folder) / path.name
        yield part
        try:
            with as_os_errors():
                _upload(part, path, entries)
        except OSError as error:
            raise UserError(f"{path} cannot be written: {first_line(error)}") from error


def _upload(part: pathlib.Path, path: pathlib.Path, entries: Sequence[str] | None) -> None:
    storage = filesystem(path)
    if entries is None:
        storage.put_file(str(part), str(path))
        return
    (path / entries[0]).unlink(missing_ok=True)
    for name in reversed(entries):
        if (part / name).exists():
            storage.put_file(str(part / name), f"{path}/{name}")


@contextlib.contextmanager
def local_copy(path: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yields the path of a file on this machine: `path` itself, or a temporary copy of a URL.

    Raises:
      UserError: if the URL cannot be read.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="muskie-") as folder:
        copy = pathlib.Path(folder) / path.name
        try:
            with as_os_errors():
                filesystem(path).get_file(str(path), str(copy))
        except OSError as error:
            raise UserError(f"{path} cannot be read: {first_line(error)}") from error
        yield copy
