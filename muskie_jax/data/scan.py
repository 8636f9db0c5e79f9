"""Finds the scenes of a folder, and caches the list until the folder changes.

A folder's modification time changes whenever an entry is added, removed or renamed. So a cached list stores
the times of all folders that were read, and a later run only compares these times.
"""

import contextlib
import dataclasses
import fnmatch
import hashlib
import json
import os
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from muskie_jax.data.formats import EXTENSIONS, is_image, is_unread, unread_lines
from muskie_jax.data.layouts import PHOTOGRAPHS, Layout, folder_layout
from muskie_jax.data.megadepth import read_groups
from muskie_jax.data.scenes import Scene, SceneTable, StringTable
from muskie_jax.errors import UserError
from muskie_jax.files import user_path

THREADS = 32  # network file systems answer slowly, but serve many requests at once
UNUSED_SECONDS = 30 * 86400  # a cached list is deleted after this time without use
FORMAT = 2  # version of the format of cached lists; lists in other formats are ignored
ANY_DEPTH = "**"
MAX_FOLDERS_FOR_ADVICE = 1000  # folders searched for an image that an error message can suggest


def natural_key(name: str) -> tuple[list[tuple[int, Any]], str]:
    """Returns a sort key with frame_2 before frame_10. Different names have different keys."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part], name


def scan(
    root: str | pathlib.Path, layout: Layout | None = None, cache: pathlib.Path | None = None
) -> SceneTable:
    """Finds the scenes of a folder, the size of each scene's first frame, and files that are not read.

    Args:
      root: the folder that the layout's patterns start from.
      layout: the folder layout; the default is `<root>/<scene>/<image>`.
      cache: folder of cached lists of scenes. If it contains an up-to-date list, that is used; otherwise a
        new list is written. None: no cache.

    Raises:
      UserError: if the folder does not exist or has no scene.
    """
    layout = layout or folder_layout("*/*", None)
    folder = user_path(root)
    if not folder.is_dir():
        raise UserError(f"the folder {str(root)!r} does not exist: choose a folder of scene folders")
    key = _digest([FORMAT, EXTENSIONS, str(folder.resolve()), dataclasses.asdict(layout)])
    with ThreadPoolExecutor(THREADS) as threads:
        table = _read_cache(cache, key, folder, threads) if cache else None
        if table is None:
            search = _Search(folder, threads)
            scenes = search.scenes(layout)
            if not scenes:
                raise UserError(_nothing_found(folder, layout))
            sizes = list(threads.map(lambda scene: _size(folder / scene.frames[0]), scenes))
            table = SceneTable.of(scenes, sizes, sorted(search.unread, key=natural_key))
            if cache:
                table = _write_cache(table, search.times, cache, key)
    return table


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class _Search:
    """Lists folders in parallel; records the modification time of each, and files that are not read."""

    def __init__(self, root: pathlib.Path, threads: ThreadPoolExecutor):
        self.root, self.threads = root, threads
        self.times: dict[str, int] = {}  # path relative to the root -> modification time, nanoseconds
        self.unread: list[str] = []  # see `SceneTable.unread`

    def scenes(self, layout: Layout) -> list[Scene]:
        """Returns all scenes with at least one frame; scenes and frames are in natural order."""
        if layout.groups:
            path = self.root / layout.groups
            if not path.is_file():
                raise UserError(
                    f"{layout.title} needs the list of groups {str(path)!r}, which does not exist: "
                    "see docs/data.md"
                )
            self.times[layout.groups] = path.stat().st_mtime_ns
            return [scene for scene in read_groups(path) if scene.frames]
        folders = self._folders([""], layout.scenes)
        if layout.title == PHOTOGRAPHS and layout.scenes == "*":
            self.unread += [name for name in self._files("", "*") if is_image(name) or is_unread(name)]
        found = zip(folders, self._frames(folders, layout.images))
        in_order = lambda frames: tuple(sorted(frames, key=natural_key))
        scenes = [Scene(name or ".", in_order(frames)) for name, frames in found if frames]
        return sorted(scenes, key=lambda scene: natural_key(scene.name))

    def _folders(self, below: Sequence[str], pattern: str) -> list[str]:
        """Returns the folders that match a pattern relative to one of the folders `below`."""
        for part in filter(None, pattern.split("/")):
            deeper = self._each(lambda path, part=part: self._subfolders(path, part), below)
            if part != ANY_DEPTH:
                below = [path for paths in deeper for path in paths]
                continue
            all_levels = list(below)
            while level := [path for paths in deeper for path in paths]:
                all_levels += level
                deeper = self._each(lambda path: self._subfolders(path, ANY_DEPTH), level)
            below = all_levels
        return list(below)

    def _frames(self, scenes: Sequence[str], pattern: str) -> list[list[str]]:
        """Returns the images of each scene, as paths relative to the root."""
        *folders, name = pattern.split("/")
        if not folders:
            return self._each(lambda scene: self._images(scene, name), scenes)
        return self._each(lambda scene: self._images_below(scene, folders, name), scenes)

    def _images_below(self, scene: str, folders: Sequence[str], name: str) -> list[str]:
        # In one thread, since scenes are searched in parallel already.
        below = [scene]
        for part in folders:
            below = [path for parent in below for path in self._subfolders(parent, part)]
        return [image for path in below for image in self._images(path, name)]

    def _each(self, function: Callable[[str], list[str]], paths: Iterable[str]) -> list[list[str]]:
        return list(self.threads.map(function, paths))

    def _subfolders(self, path: str, pattern: str) -> list[str]:
        return [name for name, is_folder in self._list(path, pattern) if is_folder]

    def _images(self, path: str, pattern: str) -> list[str]:
        files = self._files(path, pattern)
        self.unread.extend(list(filter(is_unread, files)))
        return list(filter(is_image, files))

    def _files(self, path: str, pattern: str) -> list[str]:
        return [name for name, is_folder in self._list(path, pattern) if not is_folder]

    def _list(self, path: str, pattern: str) -> list[tuple[str, bool]]:
        """Lists the entries of a folder whose names match a pattern.

        Returns (path relative to the root, whether it is a folder) of each. Leaves out hidden entries; a
        missing folder is empty.
        """
        folder = self.root / path
        follow = pattern != ANY_DEPTH  # symbolic links could form cycles at any depth
        pattern = pattern if follow else "*"
        try:
            # The time is read first, so that a change during the listing invalidates the cached list.
            self.times[path] = folder.stat().st_mtime_ns
            with os.scandir(folder) as entries:
                known = [(entry.name, _is_folder(entry, follow)) for entry in entries]
            return [
                (f"{path}/{name}" if path else name, is_folder)
                for name, is_folder in known
                if is_folder is not None and fnmatch.fnmatchcase(name, pattern) and not name.startswith(".")
            ]
        except FileNotFoundError:
            return []  # for example, a scene without a folder of images
        except OSError as error:
            raise UserError(f"{str(folder)!r} cannot be listed: {error.strerror}") from error


def _is_folder(entry: os.DirEntry, follow_links: bool) -> bool | None:
    """Returns True for a folder, False for a file, and None for anything else, such as a pipe.

    A broken or cyclic link counts as a file: it is reported as unreadable later, when sampled.
    """
    try:
        if entry.is_dir(follow_symlinks=follow_links):
            return True
        return False if entry.is_file() or not os.path.exists(entry.path) else None
    except OSError:
        return False


def _size(path: pathlib.Path) -> tuple[int, int]:
    """Returns (height, width) from the header; zeros if the file cannot be read."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:  # the file is reported as unreadable later, when sampled
        return 0, 0


def _nothing_found(folder: pathlib.Path, layout: Layout) -> str:
    kinds = ", ".join(EXTENSIONS)
    pattern = layout.image_pattern.lstrip("/")
    message = f"no image ({kinds}) matches {pattern!r} under {str(folder)!r}"
    if layout.title != PHOTOGRAPHS:
        message = f"no scene of {layout.title} under {str(folder)!r}: images are expected at {pattern}"
    unread: list[str] = []
    for _, (path, _, names) in zip(range(MAX_FOLDERS_FOR_ADVICE), os.walk(folder)):
        below = pathlib.Path(path).relative_to(folder)
        relative = [(below / name).as_posix() for name in sorted(names, key=natural_key)]
        found = next(filter(is_image, relative), None)
        if found is not None:
            matching = "/".join(["*"] * len(pathlib.PurePosixPath(found).parts))
            advice = f": use glob={matching!r}" if layout.title == PHOTOGRAPHS else ""
            return f"{message}, but there is {found}{advice}"
        unread += filter(is_unread, relative)
    return "; ".join([message, *(f"not read: {line}" for line in unread_lines(unread, folder, pattern))])


# --- Cached lists: <cache>/<key>-<digest of times>/ has the arrays of a SceneTable and the times ------


def _write_cache(table: SceneTable, times: dict[str, int], cache: pathlib.Path, key: str) -> SceneTable:
    """Writes a list atomically, and returns the table mapped from it.

    A list is never overwritten: other processes may still use it, and would find other scenes at the same
    indices. Lists of earlier states of the root are deleted after UNUSED_SECONDS without use.
    """
    folder = cache / f"{key}-{_digest(sorted(times.items()))}"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        part = pathlib.Path(tempfile.mkdtemp(prefix=".part-", dir=cache))
        try:
            table.save(part)
            paths = StringTable.of(times)
            np.save(part / "paths.npy", paths.letters)
            np.save(part / "path_ends.npy", paths.ends)
            np.save(part / "times.npy", np.array(list(times.values()), np.int64))
            part.chmod(0o755)
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # otherwise another process has written the same list
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
        for old in [*cache.glob(f"{key}-*"), *cache.glob(".part-*")]:
            if old != folder and time.time() - old.stat().st_mtime > UNUSED_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        return SceneTable.load(folder)
    except OSError as error:
        raise UserError(
            f"the list of scenes cannot be written to {str(cache)!r}: {error.strerror or error}: "
            "choose another folder with --config.data.index=..."
        ) from error


def _read_cache(
    cache: pathlib.Path, key: str, root: pathlib.Path, threads: ThreadPoolExecutor
) -> SceneTable | None:
    """Returns the cached list of a root; None if there is none, or a folder has changed since then.

    Lists that cannot be read are deleted, since a search of the root replaces them.
    """

    def time_of(path: str) -> int | None:
        try:
            return (root / path).stat().st_mtime_ns
        except OSError:  # a folder of the root was deleted
            return None

    for folder in cache.glob(f"{key}-*"):
        try:
            table, times = _load_list(folder)
            is_current = [*threads.map(time_of, times)] == [*times.values()]
        except Exception:  # the list is damaged; NumPy raises many kinds
            shutil.rmtree(folder, ignore_errors=True)
            continue
        if is_current:
            with contextlib.suppress(OSError):  # the list belongs to another user
                os.utime(folder)
            return table
    return None


def _load_list(folder: pathlib.Path) -> tuple[SceneTable, dict[str, int]]:
    """Returns a cached list, and the times of the folders that were read for it."""
    read = lambda name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="r")
    paths = StringTable(read("paths"), read("path_ends"))
    times = dict(zip(paths, read("times").tolist(), strict=True))
    return SceneTable.load(folder), times
