"""Keeps the files of a work directory in object storage up to date.

Metrics, TensorBoard files, pictures and results are written to a folder of this machine. Objects cannot be
appended to, so files that changed are copied whole: in the background, at most every 30 seconds, and before
each checkpoint. A killed run loses the lines of at most that time, all of them later than its newest
checkpoint. Checkpoints do not take this way, since Orbax writes object storage.
"""

import contextlib
import os
import pathlib
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence

from muskie_jax.errors import AT_END, UserError, first_line
from muskie_jax.storage.address import as_os_errors, filesystem, is_remote
from muskie_jax.writers import log

SECONDS = 30.0  # between two rounds of copies
BUSY_FRACTION = 0.05  # of the time that rounds may take, which bounds the traffic of large files
END_SECONDS = 30.0  # for the last round of a process that ends at once
SKIPPED_FOLDERS = ("wandb",)  # has its own server
UNFINISHED = ".part"


class LocalFiles:
    """A folder of this machine whose files belong to a work directory.

    Attributes:
      folder: the folder to write to: the work directory, or a temporary folder that is copied to its URL.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def upload(self) -> None:
        """Copies the files that changed since the last call; logs a line if that fails."""

    def download(self, patterns: Sequence[str]) -> None:
        """Fetches the files of the work directory that match and are missing or were changed elsewhere.

        Args:
          patterns: patterns of paths in the work directory, such as "metrics.jsonl" and "figures/*".
        """

    def shown(self, path: pathlib.Path) -> str:
        """Returns the path or URL of a file in the work directory, given its path in `folder`."""
        return str(path)


class _Mirror(LocalFiles):
    """The files of a work directory in object storage."""

    def __init__(self, remote: pathlib.Path):
        super().__init__(pathlib.Path(tempfile.mkdtemp(prefix="muskie-")) / remote.name)
        self.folder.mkdir()
        self._remote, self._files = remote, filesystem(remote)
        self._copied: dict[str, tuple[int, int]] = {}  # name -> size and time of the copied version
        self._turn, self._done = threading.Lock(), threading.Event()
        self._failure = ""  # of the last round

    def upload(self) -> None:
        with self._turn:
            before, self._failure = self._failure, ""
            for name, path in self._changed():
                try:
                    version, data = _version(path), path.read_bytes()
                    with as_os_errors():
                        self._files.pipe_file(self._url(name), data)
                except FileNotFoundError:
                    if path.exists():  # so the bucket is missing, not a file that was renamed
                        self._failure = f"there is no {self._url(name)}"
                except OSError as error:
                    self._failure = first_line(error)
                else:
                    self._copied[name] = version
            if self._failure and not before:
                log(f"WARNING: files could not be copied to {self._remote} ({self._failure}): trying again")

    def download(self, patterns: Sequence[str]) -> None:
        with self._turn:
            try:
                with as_os_errors():
                    for name in self._found(patterns):
                        self._fetch(name)
            except OSError as error:
                raise UserError(f"{self._remote} cannot be read: {first_line(error)}") from error

    def _found(self, patterns: Sequence[str]) -> list[str]:
        base = self._files._strip_protocol(os.fspath(self._remote))
        found = [path for pattern in patterns for path in self._files.glob(f"{base}/{pattern}")]
        return [os.path.relpath(path, base) for path in found]

    def _fetch(self, name: str) -> None:
        path = self.folder / name
        if path.exists() and _version(path) != self._copied.get(name):
            return  # written here
        data = self._files.cat_file(self._url(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        self._copied[name] = _version(path)

    def shown(self, path: pathlib.Path) -> str:
        return self._url(str(path.relative_to(self.folder)))

    def _url(self, name: str) -> str:
        return f"{self._remote}/{name}"

    def _changed(self) -> Iterator[tuple[str, pathlib.Path]]:
        for parent, folders, names in os.walk(self.folder):
            # atomic_write's temporary folders begin with a dot.
            folders[:] = [each for each in folders if each[0] != "." and each not in SKIPPED_FOLDERS]
            for path in sorted(pathlib.Path(parent) / name for name in names):
                name = path.relative_to(self.folder).as_posix()
                with contextlib.suppress(FileNotFoundError):  # renamed in the meantime
                    if path.suffix != UNFINISHED and self._copied.get(name) != _version(path):
                        yield name, path

    def run(self) -> None:
        """Copies in rounds, until `close`."""
        seconds = 0.0
        while not self._done.wait(max(SECONDS, seconds / BUSY_FRACTION)):
            start = time.monotonic()
            self.upload()
            seconds = time.monotonic() - start

    def close(self) -> None:
        """Copies the last changes, and deletes the folder unless that fails.

        Raises:
          UserError: if it fails.
        """
        self._done.set()
        self.upload()
        if self._failure:
            raise UserError(
                f"files could not be copied to {self._remote} ({self._failure}): copy them from "
                f"{self.folder} before running the same command again"
            )
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def close_at_end(self) -> None:
        """Copies the last changes of a process that ends at once, unless storage hangs."""
        last = threading.Thread(target=self.upload, daemon=True)
        last.start()
        last.join(END_SECONDS)


def _version(path: pathlib.Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@contextlib.contextmanager
def local_files(workdir: pathlib.Path, patterns: Sequence[str]) -> Iterator[LocalFiles]:
    """Yields the folder to write a work directory's files to; see `_Mirror` for one in object storage.

    Args:
      workdir: the work directory, a path or URL.
      patterns: files that earlier runs wrote, and this one continues, as for `LocalFiles.download`.

    Raises:
      UserError: if files cannot be fetched, or if the last ones cannot be copied.
    """
    if not is_remote(workdir):
        yield LocalFiles(workdir)
        return
    mirror = _Mirror(workdir)
    mirror.download(patterns)
    threading.Thread(target=mirror.run, name="mirror", daemon=True).start()
    AT_END.insert(0, mirror.close_at_end)  # before a lock is released
    try:
        yield mirror
    except BaseException:
        with contextlib.suppress(UserError):  # the first error is reported; a warning names this one
            mirror.close()
        raise
    finally:
        AT_END.remove(mirror.close_at_end)
    mirror.close()
