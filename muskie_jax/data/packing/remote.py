"""Packs in cloud storage: copied to this machine once, and verified.

ArrayRecord reads local files only. So a pack at a URL such as gs://bucket/pack is copied to a cache before
it is read; all processes of a host share one copy.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec

from muskie_jax.data.packing.pack_info import METADATA, TFDS_FILES, UNFINISHED, PackInfo, parse_metadata
from muskie_jax.errors import UserError
from muskie_jax.files import ADDRESS, user_path
from muskie_jax.storage.address import BACKENDS, require_backend
from muskie_jax.writers import log_main

THREADS = 8  # files copied or verified at a time
CHUNK = 2**22  # bytes


class MissingFile(UserError):
    """A file of a pack does not exist."""


class RemotePack:
    """A pack at a URL or in a folder.

    Attributes:
      root: the URL or folder.
      info: the description in its metadata.json.

    Raises:
      UserError: if it cannot be read or is not a pack.
    """

    def __init__(self, root: str):
        self.root = root
        scheme = root.partition(ADDRESS)[0]
        if scheme in BACKENDS:
            require_backend(scheme)
        with _read_errors(root):
            self._filesystem, self._base = fsspec.url_to_fs(root)
        try:
            self._metadata = self._read(METADATA)
        except MissingFile:
            with _read_errors(root):
                unfinished = self._filesystem.exists(self._path(UNFINISHED))
            if not unfinished:
                raise
            raise UserError(f"the pack {root} is not finished: run the same pack command again") from None
        self.info: PackInfo = parse_metadata(self._metadata, root)

    def _path(self, name: str) -> str:
        return f"{self._base.rstrip('/')}/{name}"

    def _read(self, name: str) -> bytes:
        with _read_errors(f"{self.root}/{name}"):
            return self._filesystem.cat_file(self._path(name))

    def digest(self, file: dict[str, Any], copy: pathlib.Path | None = None) -> str:
        """Returns the SHA-256 of a file's current contents.

        Args:
          file: one of `info.files`.
          copy: path of a local copy to write; None for no copy.
        """
        digest = hashlib.sha256()
        with _read_errors(f"{self.root}/{file['name']}"), contextlib.ExitStack() as stack:
            source = stack.enter_context(self._filesystem.open(self._path(file["name"]), "rb"))
            target = stack.enter_context(copy.open("wb")) if copy else None
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                if target:
                    target.write(chunk)
        return digest.hexdigest()

    def verify(self) -> None:
        """Reads all files and compares them with their checksums; logs a line for each damaged one.

        Raises:
          UserError: if a file is missing or damaged.
        """
        damaged = self.damaged_files()
        for name in damaged:
            log_main(f"{name} is missing or damaged")
        if damaged:
            raise UserError(
                f"{len(damaged)} of {len(self.info.files)} files of {self.root} are missing or damaged, "
                f"such as {damaged[0]}: copy them there again, or pack again with --overwrite"
            )

    def damaged_files(self) -> list[str]:
        """Returns the names of files that are missing or differ from what was packed."""

        def is_intact(file: dict[str, Any]) -> bool:
            try:
                return self.digest(file) == file["sha256"]
            except MissingFile:
                return False

        with ThreadPoolExecutor(THREADS) as threads:
            intact = threads.map(is_intact, self.info.files)
            damaged = [file["name"] for file, ok in zip(self.info.files, intact) if not ok]
        return damaged + [name for name in self._undescribed_files() if not self._is_json_object(name)]

    def _undescribed_files(self) -> list[str]:
        """Returns the files whose checksums are unknown, which only packs of version 0.1.0 have."""
        described = {file["name"] for file in self.info.tfds}
        return [name for name in TFDS_FILES if name not in described]

    def _is_json_object(self, name: str) -> bool:
        try:
            return isinstance(json.loads(self._read(name)), dict)
        except (MissingFile, ValueError):
            return False

    def local_copy(self, cache: pathlib.Path) -> pathlib.Path:
        """Returns the folder of a local copy, after copying the files that are missing from it.

        Raises:
          UserError: if the cache cannot be written or is too small, or a file is damaged.
        """
        # The key includes the metadata, so another pack at the same URL gets another copy.
        key = hashlib.sha256(self.root.encode() + self._metadata).hexdigest()[:16]
        folder = cache / f"{self.root.rstrip('/').rpartition('/')[2]}-{key}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # waits while another process copies
                self._copy_missing_files(folder)
        except OSError as error:
            raise UserError(
                f"{self.root} cannot be copied to {folder}: {error.strerror or error}: choose another "
                "folder with --config.data.cache=..."
            ) from error
        return folder

    def _copy_missing_files(self, folder: pathlib.Path) -> None:
        missing = [file for file in self.info.files if _size(folder / file["name"]) != file["bytes"]]
        if not missing and (folder / METADATA).is_file():
            return
        size = sum(file["bytes"] for file in missing)
        free = shutil.disk_usage(folder).free
        if size > free:
            raise UserError(
                f"{self.root} needs {format_bytes(size)} in {folder}, which has {format_bytes(free)} free: "
                "choose another folder with --config.data.cache=..."
            )
        log_main(f"Copying {self.root}, {format_bytes(size)}, to {folder}, once per machine")

        def copy(file: dict[str, Any]) -> None:
            path = folder / file["name"]
            path.parent.mkdir(exist_ok=True)
            part = path.with_name(f"{path.name}.part")
            if self.digest(file, part) != file["sha256"]:
                part.unlink()
                raise UserError(f"{self.root}/{file['name']} is damaged: copy it there again")
            part.replace(path)

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(copy, missing))
        for name in self._undescribed_files():
            (folder / name).write_bytes(self._read(name))
        # Last, since it marks the copy as complete.
        (folder / METADATA).write_bytes(self._metadata)


@contextlib.contextmanager
def _read_errors(url: str) -> Iterator[None]:
    """Turns an error while a URL is read into a `UserError` that names the URL."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise MissingFile(f"{url} does not exist: check the path") from error
    except Exception as error:  # storage packages, also missing ones, raise exceptions of many types
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{url} cannot be read: {type(error).__name__}: {reason}") from error


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def format_bytes(size: int) -> str:
    """Formats a size in bytes, such as "1.5 GB" or "20.0 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def local_folder(base: str, root: str, cache: str) -> pathlib.Path:
    """Returns the local folder of a pack. If the pack is at a URL, this is the folder of a copy.

    Args:
      base: path or URL that a relative `root` starts from.
      root: path or URL of the pack.
      cache: folder for copies; "" means ~/.cache/muskie_jax/packed.

    Raises:
      UserError: if the pack is at a URL and cannot be copied.
    """
    if ADDRESS in base and ADDRESS not in root:
        root = f"{base.rstrip('/')}/{root}"
    if ADDRESS not in root:
        return user_path(base) / user_path(root)
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "muskie_jax" / "packed"
    return RemotePack(root).local_copy(user_path(cache or home))
