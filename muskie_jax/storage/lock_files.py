"""Creates, refreshes and lists lock files, in folders and in object storage.

In object storage, exclusive creation is a conditional upload: `ifGenerationMatch=0` in Google Cloud Storage
and `If-None-Match: *` in S3.
"""

import contextlib
import errno
import os
import pathlib
from typing import Protocol

from muskie_jax.storage.address import as_os_errors, filesystem, is_remote

# Errors of file systems that have no hard links.
NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class LockFiles(Protocol):
    """Operations on lock files; all raise OSError, and those on missing files FileNotFoundError."""

    def create(self, path: pathlib.Path, text: str, token: str) -> bool:
        """Creates a file with its contents in one step; returns whether it did not exist.

        `token` occurs in `text` and in no other job's.
        """
        ...

    def numbered(self, base: pathlib.Path) -> list[pathlib.Path]:
        """Returns the files `<base>.<number>`."""
        ...

    def read(self, path: pathlib.Path) -> str: ...

    def remove(self, path: pathlib.Path) -> None:
        """Removes a file, unless it is missing."""
        ...

    def refresh(self, path: pathlib.Path, text: str) -> None:
        """Sets the modification time of a file with this text to now."""
        ...

    def modified(self, path: pathlib.Path) -> float:
        """Returns the modification time in seconds, by the clock of the file system."""
        ...

    def now(self, base: pathlib.Path, token: str) -> float:
        """Returns the time by the clock of the file system."""
        ...


def lock_files(path: pathlib.Path) -> LockFiles:
    """Returns the operations for a path or a URL."""
    return _ObjectLockFiles() if is_remote(path) else _LocalLockFiles()


def _part(base: pathlib.Path, token: str) -> pathlib.Path:
    return base.with_name(f".{base.name}.{token}")


class _LocalLockFiles:
    def create(self, path: pathlib.Path, text: str, token: str) -> bool:
        part = _part(path, token)
        try:
            part.write_text(text)
            os.link(part, path)
        except FileExistsError:
            return part.stat().st_nlink == 2  # NFS may repeat a request that has succeeded
        except OSError as error:
            if error.errno not in NO_LINKS:
                raise
            return self._create_without_links(path, text)
        finally:
            part.unlink(missing_ok=True)
        return True

    def _create_without_links(self, path: pathlib.Path, text: str) -> bool:
        try:
            with path.open("x") as file:
                file.write(text)
        except FileExistsError:
            return False
        return True

    def numbered(self, base: pathlib.Path) -> list[pathlib.Path]:
        return [path for path in base.parent.glob(f"{base.name}.*") if path.suffix[1:].isdecimal()]

    def read(self, path: pathlib.Path) -> str:
        return path.read_text()

    def remove(self, path: pathlib.Path) -> None:
        path.unlink(missing_ok=True)

    def refresh(self, path: pathlib.Path, text: str) -> None:
        del text
        os.utime(path)

    def modified(self, path: pathlib.Path) -> float:
        return path.stat().st_mtime

    def now(self, base: pathlib.Path, token: str) -> float:
        part = _part(base, token)
        part.touch()
        try:
            return part.stat().st_mtime
        finally:
            part.unlink()


class _ObjectLockFiles:
    def create(self, path: pathlib.Path, text: str, token: str) -> bool:
        try:
            with as_os_errors():
                filesystem(path).pipe_file(os.fspath(path), text.encode(), mode="create")
        except OSError:
            # The type of the refusal differs between stores. A request that succeeded may be repeated.
            try:
                return token in self.read(path)
            except FileNotFoundError:
                pass
            raise
        return True

    def numbered(self, base: pathlib.Path) -> list[pathlib.Path]:
        with as_os_errors():
            try:
                names = [path.name for path in base.parent.iterdir()]
            except FileNotFoundError:  # nothing was written there yet
                names = []
        paths = [base.with_name(name) for name in names if name.startswith(f"{base.name}.")]
        return [path for path in paths if path.suffix[1:].isdecimal()]

    def read(self, path: pathlib.Path) -> str:
        with as_os_errors():
            return path.read_text()

    def remove(self, path: pathlib.Path) -> None:
        with as_os_errors(), contextlib.suppress(FileNotFoundError):
            path.unlink()

    def refresh(self, path: pathlib.Path, text: str) -> None:
        with as_os_errors():
            path.write_text(text)

    def modified(self, path: pathlib.Path) -> float:
        with as_os_errors():
            return filesystem(path).modified(os.fspath(path)).timestamp()

    def now(self, base: pathlib.Path, token: str) -> float:
        part = _part(base, token)
        with as_os_errors():
            part.write_text("")
            try:
                return self.modified(part)
            finally:
                part.unlink()
