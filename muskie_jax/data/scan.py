"""Finding the scenes of a folder, once: the list is kept, and made anew when the folder changes.

A folder's modification time changes whenever something in it is added, removed or renamed. So the list
remembers the time of every folder that was looked into; a later run looks only at these times.
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

from muskie_jax.data.layouts import Layout, photographs
from muskie_jax.data.megadepth import read_groups
from muskie_jax.data.scenes import Scene, SceneTable, Texts
from muskie_jax.errors import UserError
from muskie_jax.files import user_path

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp")
THREADS = 32  # folders on network file systems answer slowly, but many at a time
UNUSED_SECONDS = 30 * 86400
FORMAT = 1  # of a kept list; lists of another are made anew
ANY_DEPTH = "**"
DEEP_SEARCH = 1000  # folders looked into for what a message might suggest


def natural_key(name: str) -> tuple[list[tuple[int, Any]], str]:
    """Sort key that counts, frame_2 before frame_10; no two names are equal to it."""
    parts = re.split(r"(\d+)", name)
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts if part], name


def scan(
    root: str | pathlib.Path, layout: Layout | None = None, kept: pathlib.Path | None = None
) -> SceneTable:
    """Finds the scenes of a folder, and the size of each scene's first frame.

    Args:
      root: the folder that the layout's patterns start from.
      layout: by default `<root>/<scene>/<image>`.
      kept: a folder for the lists of scenes; one that is there and still true is used. None: nothing
        is kept.

    Raises:
      UserError: if there is no such folder, or no scene in it.
    """
    layout = layout or photographs("*/*", None)
    folder = user_path(root)
    if not folder.is_dir():
        raise UserError(f"no folder {str(root)!r}: the root of a source is a folder of scene folders")
    key = _digest([FORMAT, str(folder.resolve()), dataclasses.asdict(layout)])
    with ThreadPoolExecutor(THREADS) as threads:
        table = _kept_table(kept, key, folder, threads) if kept else None
        if table is None:
            search = _Search(folder, threads)
            scenes = search.scenes(layout)
            if not scenes:
                raise UserError(_nothing_found(folder, layout))
            sizes = list(threads.map(lambda scene: _size(folder / scene.frames[0]), scenes))
            table = SceneTable.of(scenes, sizes)
            if kept:
                table = _keep(table, search.times, kept, key)
    return table


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


class _Search:
    """Looks into folders, many at a time, and remembers when each was last changed."""

    def __init__(self, root: pathlib.Path, threads: ThreadPoolExecutor):
        self.root, self.threads = root, threads
        self.times: dict[str, int] = {}  # path below the root -> modification time, nanoseconds

    def scenes(self, layout: Layout) -> list[Scene]:
        """All scenes with a frame, and their frames, in natural order."""
        if layout.groups:
            path = self.root / layout.groups
            if not path.is_file():
                raise UserError(
                    f"{layout.title} needs the list of groups {str(path)!r}, which is not there"
                )
            self.times[layout.groups] = path.stat().st_mtime_ns
            return [scene for scene in read_groups(path) if scene.frames]
        folders = self._folders([""], layout.scenes)
        found = zip(folders, self._frames(folders, layout.images))
        in_order = lambda frames: tuple(sorted(frames, key=natural_key))
        scenes = [Scene(name or ".", in_order(frames)) for name, frames in found if frames]
        return sorted(scenes, key=lambda scene: natural_key(scene.name))

    def _folders(self, below: Sequence[str], pattern: str) -> list[str]:
        """The folders below some folders that a pattern matches, one part of it after the other."""
        for part in filter(None, pattern.split("/")):
            deeper = self._each(lambda path, part=part: self._subfolders(path, part), below)
            if part != ANY_DEPTH:
                below = [path for paths in deeper for path in paths]
                continue
            everything, level = list(below), below
            while level := [path for paths in deeper for path in paths]:
                everything += level
                deeper = self._each(lambda path: self._subfolders(path, ANY_DEPTH), level)
            below = everything
        return list(below)

    def _frames(self, scenes: Sequence[str], pattern: str) -> list[list[str]]:
        """The images of each scene, paths below the root."""
        *folders, name = pattern.split("/")
        if not folders:
            return self._each(lambda scene: self._images(scene, name), scenes)
        return self._each(lambda scene: self._images_below(scene, folders, name), scenes)

    def _images_below(self, scene: str, folders: Sequence[str], name: str) -> list[str]:
        # In one thread: the scenes are many already.
        below = [scene]
        for part in folders:
            below = [path for parent in below for path in self._subfolders(parent, part)]
        return [image for path in below for image in self._images(path, name)]

    def _each(self, function: Callable[[str], list[str]], paths: Iterable[str]) -> list[list[str]]:
        return list(self.threads.map(function, paths))

    def _subfolders(self, path: str, pattern: str) -> list[str]:
        return [name for name, is_folder in self._list(path, pattern) if is_folder]

    def _images(self, path: str, pattern: str) -> list[str]:
        return [name for name, is_folder in self._list(path, pattern) if not is_folder and is_image(name)]

    def _list(self, path: str, pattern: str) -> list[tuple[str, bool]]:
        """What a folder has of a pattern: (path below the root, whether it is a folder)."""
        folder = self.root / path
        follow = pattern != ANY_DEPTH  # links, except where they could lead in circles
        pattern = pattern if follow else "*"
        try:
            # The time first: a change while the folder is read makes the next run look again.
            self.times[path] = folder.stat().st_mtime_ns
            with os.scandir(folder) as entries:
                known = [(entry.name, _is_folder(entry, follow)) for entry in entries]
            return [
                (f"{path}/{name}" if path else name, is_folder)
                for name, is_folder in known
                if is_folder is not None and fnmatch.fnmatchcase(name, pattern) and not name.startswith(".")
            ]
        except FileNotFoundError:
            return []  # such as a scene without the folder of images
        except OSError as error:
            raise UserError(f"{str(folder)!r} cannot be looked into: {error.strerror}") from error


def _is_folder(entry: os.DirEntry, follow_links: bool) -> bool | None:
    """Whether an entry is a folder or else a file; None for what is neither, such as a pipe.

    A link to nothing, or in a circle, counts as a file: it is named as unreadable when it is drawn.
    """
    try:
        if entry.is_dir(follow_symlinks=follow_links):
            return True
        return False if entry.is_file() or not os.path.exists(entry.path) else None
    except OSError:
        return False


def is_image(path: str) -> bool:
    """By its name; files of the system, such as ._IMG.jpg, are not."""
    name = path.rpartition("/")[2]
    return name.lower().endswith(EXTENSIONS) and not name.startswith(".")


def _size(path: pathlib.Path) -> tuple[int, int]:
    """Height and width as the header says; zero if the file cannot be read."""
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception:  # whatever is wrong with it shows when it is drawn
        return 0, 0


def _nothing_found(folder: pathlib.Path, layout: Layout) -> str:
    kinds = ", ".join(EXTENSIONS)
    tree = layout.tree.lstrip("/")
    message = f"no image ({kinds}) matches {tree!r} under {str(folder)!r}"
    if layout.title != "photographs":
        message = f"no scene of {layout.title} under {str(folder)!r}, whose images are expected at {tree}"
    for _, (path, _, names) in zip(range(DEEP_SEARCH), os.walk(folder)):
        found = next(filter(is_image, sorted(names)), None)
        if found is not None:
            relative = pathlib.Path(path).relative_to(folder) / found
            pattern = "/".join(["*"] * len(relative.parts))
            advice = f": write glob={pattern!r}" if layout.title == "photographs" else ""
            return f"{message}, but there is {relative.as_posix()}{advice}"
    return message


# --- Kept lists: <kept>/<key>-<digest of times>/, the arrays of a SceneTable and those of the times ---


def _keep(table: SceneTable, times: dict[str, int], kept: pathlib.Path, key: str) -> SceneTable:
    """Writes a list, which appears whole or not at all; the table, now mapped from it.

    A list is never written over: whoever still uses an old one would find other scenes under the same
    numbers. Lists of earlier states of the root go when they have not been used for long.
    """
    folder = kept / f"{key}-{_digest(sorted(times.items()))}"
    try:
        kept.mkdir(parents=True, exist_ok=True)
        part = pathlib.Path(tempfile.mkdtemp(prefix=".part-", dir=kept))
        try:
            table.save(part)
            paths = Texts.of(times)
            np.save(part / "paths.npy", paths.letters)
            np.save(part / "path_ends.npy", paths.ends)
            np.save(part / "times.npy", np.array(list(times.values()), np.int64))
            part.chmod(0o755)
            part.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster, with the same list
                raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
        for old in [*kept.glob(f"{key}-*"), *kept.glob(".part-*")]:
            if old != folder and time.time() - old.stat().st_mtime > UNUSED_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
        return SceneTable.load(folder)
    except OSError as error:
        raise UserError(
            f"the list of scenes cannot be written to {str(kept)!r}: {error.strerror or error}: "
            "write another folder for it, --config.data.index=..."
        ) from error


def _kept_table(
    kept: pathlib.Path, key: str, root: pathlib.Path, threads: ThreadPoolExecutor
) -> SceneTable | None:
    """The list of a root, if there is one and no folder has changed since."""
    for folder in kept.glob(f"{key}-*"):
        try:
            read = lambda name, folder=folder: np.load(folder / f"{name}.npy")
            paths, times = Texts(read("paths"), read("path_ends")), read("times")
            now = threads.map(lambda path: (root / path).stat().st_mtime_ns, paths)
            if all(a == b for a, b in zip(now, times)):
                with contextlib.suppress(OSError):  # of another user
                    os.utime(folder)
                return SceneTable.load(folder)
        except FileNotFoundError:
            continue  # a folder of the root is gone
        except (OSError, ValueError):  # the list is not whole
            shutil.rmtree(folder, ignore_errors=True)
    return None
