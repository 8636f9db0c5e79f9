"""Packs in buckets: copied to this machine once, and checked.

ArrayRecord reads files of this machine only. So a pack at an address such as gs://bucket/pack is copied
to a cache, one copy for all processes of a host, before it is read.
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

from muskie_jax.data.packing.packed import METADATA, TFDS_FILES, UNFINISHED, Pack, parse_metadata
from muskie_jax.errors import UserError
from muskie_jax.files import ADDRESS, user_path
from muskie_jax.writers import log_main

THREADS = 8  # files copied at a time
CHUNK = 2**22  # bytes


class NotThere(UserError):
    """A file of a pack is missing."""


class RemotePack:
    """A pack at an address, or in a folder.

    Attributes:
      root: the address.
      pack: what its metadata.json says.

    Raises:
      UserError: if it cannot be reached, or is no pack.
    """

    def __init__(self, root: str):
        self.root = root
        with _reached(root):
            self._files, self._base = fsspec.url_to_fs(root)
        try:
            self._metadata = self._read(METADATA)
        except NotThere:
            with _reached(root):
                begun = self._files.exists(self._path(UNFINISHED))
            if not begun:
                raise
            raise UserError(f"{root} is not finished: give the command that packs it again") from None
        self.pack: Pack = parse_metadata(self._metadata, root)

    def _path(self, name: str) -> str:
        return f"{self._base.rstrip('/')}/{name}"

    def _read(self, name: str) -> bytes:
        with _reached(f"{self.root}/{name}"):
            return self._files.cat_file(self._path(name))

    def digest(self, file: dict[str, Any], copy: pathlib.Path | None = None) -> str:
        """The sha256 of a file as it is there now, which is also copied if `copy` says where to."""
        digest = hashlib.sha256()
        with _reached(f"{self.root}/{file['name']}"), contextlib.ExitStack() as stack:
            source = stack.enter_context(self._files.open(self._path(file["name"]), "rb"))
            target = stack.enter_context(copy.open("wb")) if copy else None
            while chunk := source.read(CHUNK):
                digest.update(chunk)
                if target:
                    target.write(chunk)
        return digest.hexdigest()

    def damaged(self) -> list[str]:
        """The names of files that are not there as they were packed."""

        def is_good(file: dict[str, Any]) -> bool:
            try:
                return self.digest(file) == file["sha256"]
            except NotThere:
                return False

        with ThreadPoolExecutor(THREADS) as threads:
            good = threads.map(is_good, self.pack.files)
            names = [file["name"] for file, is_whole in zip(self.pack.files, good) if not is_whole]
        return names + [name for name in TFDS_FILES if not self._is_json(name)]

    def _is_json(self, name: str) -> bool:
        try:
            return isinstance(json.loads(self._read(name)), dict)
        except (NotThere, ValueError):
            return False

    def copied(self, cache: pathlib.Path) -> pathlib.Path:
        """The folder of a copy on this machine; made, or completed, if need be."""
        # Another pack at the same address is another copy.
        key = hashlib.sha256(self.root.encode() + self._metadata).hexdigest()[:16]
        folder = cache / f"{self.root.rstrip('/').rpartition('/')[2]}-{key}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # until another process has copied
                self._complete(folder)
        except OSError as error:
            raise UserError(
                f"{self.root} cannot be copied to {folder}: {error.strerror or error}: write another "
                "folder, --config.data.cache=..."
            ) from error
        return folder

    def _complete(self, folder: pathlib.Path) -> None:
        """Copies what is not there yet."""
        whole = lambda file: _size(folder / file["name"]) == file["bytes"]
        missing = [file for file in self.pack.files if not whole(file)]
        if not missing and (folder / METADATA).is_file():
            return
        size = sum(file["bytes"] for file in missing)
        free = shutil.disk_usage(folder).free
        if size > free:
            raise UserError(
                f"{self.root} needs {gigabytes(size)} in {folder}, where {gigabytes(free)} are free: "
                "write another folder, --config.data.cache=..."
            )
        log_main(f"Copying {self.root}, {gigabytes(size)}, to {folder}, once")

        def fetch(file: dict[str, Any]) -> None:
            path = folder / file["name"]
            path.parent.mkdir(exist_ok=True)
            part = path.with_name(f"{path.name}.part")
            if self.digest(file, part) != file["sha256"]:
                part.unlink()
                raise UserError(f"{self.root}/{file['name']} is damaged: copy it to there again")
            part.replace(path)

        with ThreadPoolExecutor(THREADS) as threads:
            list(threads.map(fetch, missing))
        for name in TFDS_FILES:
            (folder / name).write_bytes(self._read(name))
        (folder / METADATA).write_bytes(self._metadata)


@contextlib.contextmanager
def _reached(address: str) -> Iterator[None]:
    """One line for what a bucket, or the way to it, has to say."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise NotThere(f"there is no {address}") from error
    except Exception as error:  # every kind of bucket raises its own; so does one without its package
        reason = (str(error).splitlines() or [""])[0]
        raise UserError(f"{address} cannot be read: {type(error).__name__}: {reason}") from error


def _size(path: pathlib.Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def gigabytes(size: int) -> str:
    """As 1.5 GB or 20 MB."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def folder_of(base: str, root: str, cache: str) -> pathlib.Path:
    """Where a pack can be read: `root`, below `base` if it is relative; a copy, if that is an address.

    Args:
      base, root: paths or addresses.
      cache: a folder for copies; empty: ~/.cache/muskie_jax/packed.

    Raises:
      UserError: if it is at an address and cannot be copied.
    """
    if ADDRESS in base and ADDRESS not in root:
        root = f"{base.rstrip('/')}/{root}"
    if ADDRESS not in root:
        return user_path(base) / user_path(root)
    home = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "muskie_jax" / "packed"
    return RemotePack(root).copied(user_path(cache or home))
