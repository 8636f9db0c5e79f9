"""Paths that users write: folders of this machine, or URLs of object storage."""

import contextlib
import functools
import glob
import importlib.util
import logging
import os
import pathlib
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import fsspec
import fsspec.config
from etils import epath

from muskie_jax.errors import UserError, first_line
from muskie_jax.files import ADDRESS, create_workdir, user_path


class _Backend(NamedTuple):
    """What reads and writes a scheme: its fsspec protocol, package, and the extra that installs it."""

    protocol: str
    package: str
    extra: str


PATTERN_CHARACTERS = "*?[\\"  # these have a meaning in patterns of file names
BACKENDS = {"gs": _Backend("gcs", "gcsfs", "gcs"), "s3": _Backend("s3", "s3fs", "s3")}


def is_remote(path: str | os.PathLike) -> bool:
    """Returns whether a path is a URL."""
    return ADDRESS in os.fspath(path)


def storage_path(path: str | os.PathLike) -> pathlib.Path:
    """Returns the path that a user wrote, which may be a URL such as gs://bucket/run.

    The path of a URL is an `epath.Path`. It has most methods of `pathlib.Path`, but not `absolute`, `open`
    for appending, or a `rename` that is atomic.

    Raises:
      UserError: if the URL is not one of object storage, or the package that reads it is not installed.
    """
    if not is_remote(path):
        return user_path(path)
    scheme, _, rest = os.fspath(path).partition(ADDRESS)
    if scheme not in BACKENDS:
        known = " and ".join(f"{name}{ADDRESS}" for name in BACKENDS)
        raise UserError(f"{os.fspath(path)!r}: only {known} are supported: use one of them, or a folder")
    if not rest.partition("/")[0] or not rest.partition("/")[2].strip("/"):
        raise UserError(
            f"{os.fspath(path)!r} must name a bucket and a folder, such as {scheme}://bucket/run"
        )
    require_backend(scheme)
    return cast(pathlib.Path, epath.Path(os.fspath(path).rstrip("/")))


@functools.cache
def require_backend(scheme: str) -> None:
    """Prepares fsspec for "gs" or "s3"; raises UserError if the package that it needs is missing."""
    backend = BACKENDS[scheme]
    if importlib.util.find_spec(backend.package) is None:
        raise UserError(
            f"{scheme}:// needs the package {backend.package}: run python -m pip install -e "
            f"'.[{backend.extra}]' -c constraints.txt"
        )
    # gcsfs logs the traceback of each error that it raises, and warns for each file if it may not ask for
    # the kind of the bucket.
    logging.getLogger(backend.package).setLevel(logging.CRITICAL)
    # Cached lists of files would miss what TensorStore and other jobs write.
    fsspec.config.conf.setdefault(backend.protocol, {})["use_listings_cache"] = False


def absolute(path: pathlib.Path) -> pathlib.Path:
    """Returns an absolute path; URLs are absolute."""
    return path if is_remote(path) else path.absolute()


def filesystem(path: pathlib.Path) -> Any:
    """Returns the fsspec file system of a URL."""
    return fsspec.filesystem(BACKENDS[os.fspath(path).partition(ADDRESS)[0]].protocol)


@contextlib.contextmanager
def as_os_errors() -> Iterator[None]:
    """Raises errors of storage packages, which are of many types, as OSError with one line."""
    try:
        yield
    except (OSError, UserError, MemoryError):
        raise
    except Exception as error:
        raise OSError(f"{type(error).__name__}: {first_line(error)}") from error


def require_literal(workdir: pathlib.Path) -> None:
    """Raises UserError for a work directory whose path has characters of patterns.

    Orbax and fsspec look for files by patterns that contain the path: they find other files, or none.
    """
    found = sorted(set(str(absolute(workdir))) & set(PATTERN_CHARACTERS))
    if found:
        raise UserError(
            f"--workdir={workdir}: checkpoints cannot be written to a path with {' and '.join(found)}: "
            "choose another one"
        )


def prepare_workdir(workdir: pathlib.Path) -> pathlib.Path:
    """Creates a work directory unless it exists; in object storage, checks that its bucket exists.

    Returns:
      The work directory, without symbolic links: they may be changed while a job runs.

    Raises:
      UserError: if it cannot be created, or its bucket cannot be read.
    """
    require_literal(workdir)
    if not is_remote(workdir):
        create_workdir(workdir)
        real = pathlib.Path(os.path.realpath(workdir))
        return workdir if real == workdir.absolute() else real
    bucket = os.fspath(workdir).partition(ADDRESS)[2].partition("/")[0]
    try:
        with as_os_errors():
            filesystem(workdir).ls(bucket)
    except FileNotFoundError as error:
        raise UserError(f"{workdir}: the bucket {bucket!r} does not exist: create it first") from error
    except OSError as error:
        raise UserError(f"{workdir} cannot be read: {first_line(error)}") from error
    return workdir


def exists(path: pathlib.Path) -> bool:
    """Returns whether a path, also one of a broken link, or a URL exists."""
    return path.exists() if is_remote(path) else os.path.lexists(path)


def matching(pattern: str) -> list[str]:
    """Returns the paths or URLs that match a pattern with `*`, sorted."""
    path = storage_path(pattern)
    if not is_remote(path):
        return sorted(glob.glob(str(path)))
    scheme = pattern.partition(ADDRESS)[0]
    with as_os_errors():
        return sorted(f"{scheme}{ADDRESS}{found}" for found in filesystem(path).glob(str(path)))


def version_of(path: pathlib.Path) -> str:
    """Returns a text that changes when a file or a folder on a disk is rewritten; raises OSError."""
    if not is_remote(path):
        status = path.stat()
        return f"{status.st_size} {status.st_mtime_ns}"
    with as_os_errors():
        information = filesystem(path).info(str(path))
        return f"{information['size']} {filesystem(path).modified(str(path)).isoformat()}"


def append_text(path: pathlib.Path, text: str) -> None:
    """Adds text to a small file, which is created if it does not exist; raises OSError."""
    if not is_remote(path):
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
        return
    with as_os_errors():
        before = path.read_text() if path.exists() else ""
        path.write_text(before + text)
