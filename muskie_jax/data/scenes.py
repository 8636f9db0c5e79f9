"""Stores the scenes of a source and their frames: millions of names in a few arrays.

Python lists of that many strings would fill the memory of every worker process. Here all names are
concatenated in arrays. A saved table maps these arrays from its files, so pickling it for another process
sends little more than a path.
"""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt8

SEPARATOR = "\0"  # between the frames of a scene: besides "/", the only character that no file name has


class Scene(NamedTuple):
    """Photographs of one location; `frames` are paths relative to the source's root, in order."""

    name: str
    frames: tuple[str, ...]


class StringTable(Sequence[str]):
    """A sequence of strings, stored in two arrays.

    Attributes:
      letters: all strings, encoded as UTF-8 and concatenated.
      ends: index in `letters` after the last byte of each string.
    """

    def __init__(self, letters: UInt8[np.ndarray, " bytes"], ends: Int64[np.ndarray, " strings"]):
        self.letters, self.ends = letters, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> "StringTable":
        # File names may be invalid UTF-8. Python then keeps the invalid bytes as surrogates.
        encoded = [os.fsencode(text) for text in texts]
        letters = np.frombuffer(b"".join(encoded), np.uint8)
        return cls(letters, np.cumsum([len(text) for text in encoded], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> str:
        end = self.ends[number]  # raises IndexError for an index beyond the last string
        start = self.ends[number - 1] if number % len(self.ends) else 0
        return os.fsdecode(self.letters[start:end].tobytes())


class SceneTable(Sequence[Scene]):
    """A sequence of scenes, stored in arrays that may be mapped from files."""

    PARTS = ("names", "name_ends", "frames", "frame_ends", "counts", "sizes")
    UNREAD = ("unread", "unread_ends")  # not saved if there are none, as in packs

    def __init__(self, parts: dict[str, np.ndarray], selected: np.ndarray, folder: pathlib.Path | None):
        self._parts, self._selected, self._folder = parts, selected, folder
        self._names = StringTable(parts["names"], parts["name_ends"])
        self._frames = StringTable(parts["frames"], parts["frame_ends"])
        self._latest: tuple[int, Scene] | None = None  # the index and value of the last scene returned

    @classmethod
    def of(
        cls,
        scenes: Iterable[Scene],
        sizes: Sequence[tuple[int, int]] | None = None,
        unread: Iterable[str] = (),
    ) -> "SceneTable":
        """Builds a table in memory.

        Args:
          scenes: the scenes in order; each has at least one frame.
          sizes: (height, width) of each scene's first frame.
          unread: see the property of this name.
        """
        scenes = list(scenes)
        names, frames = (
            StringTable.of(scene.name for scene in scenes),
            StringTable.of(SEPARATOR.join(scene.frames) for scene in scenes),
        )
        known = np.zeros((len(scenes), 2)) if sizes is None else np.array(sizes).reshape(-1, 2)
        counts = np.array([len(scene.frames) for scene in scenes], np.int64)
        arrays = (names.letters, names.ends, frames.letters, frames.ends, counts, known.astype(np.int32))
        others = StringTable.of(unread)
        parts: dict[str, np.ndarray] = dict(zip(cls.PARTS, arrays))
        parts |= dict(zip(cls.UNREAD, (others.letters, others.ends)))
        return cls(parts, np.arange(len(scenes)), None)

    @classmethod
    def load(cls, folder: pathlib.Path) -> "SceneTable":
        """Maps the table that `save` wrote to a folder, without reading it.

        Raises:
          OSError, ValueError: if files are missing or damaged.
        """
        optional = [name for name in cls.UNREAD if (folder / f"{name}.npy").is_file()]
        names = (*cls.PARTS, *optional)
        # Unlike np.load, it reads no other formats, and has no other errors for empty files.
        parts: dict[str, np.ndarray]
        parts = {name: np.lib.format.open_memmap(folder / f"{name}.npy", mode="r") for name in names}
        return cls(parts, np.arange(len(parts["counts"])), folder)

    def save(self, folder: pathlib.Path) -> None:
        """Writes all scenes to an existing folder, including scenes that `subset` left out."""
        for name in (*self.PARTS, *(self.UNREAD if len(self.unread) else ())):
            np.save(folder / f"{name}.npy", self._parts[name])

    def subset(self, numbers: Sequence[int] | Int64[np.ndarray, " subset"]) -> "SceneTable":
        """Returns the scenes with the given indices, in that order."""
        return SceneTable(self._parts, self._selected[np.array(numbers, int)], self._folder)

    @property
    def counts(self) -> Int64[np.ndarray, " scenes"]:
        """The number of frames of each scene."""
        return self._parts["counts"][self._selected]

    @property
    def numbers(self) -> Int64[np.ndarray, " scenes"]:
        """The index of each scene among all scenes that `save` writes."""
        return self._selected

    @property
    def sizes(self) -> Int32[np.ndarray, "scenes 2"]:
        """(height, width) of each scene's first frame, as in its header; zeros if unknown."""
        return self._parts["sizes"][self._selected]

    @property
    def unread(self) -> StringTable:
        """Files below the root that users may expect to be read, relative to it, in natural order.

        They are videos and other kinds of images in folders of any scene, also of scenes that `subset` left
        out, and videos and images next to the scene folders of a user's own layout.
        """
        if self.UNREAD[0] not in self._parts:
            return StringTable.of(())
        return StringTable(self._parts["unread"], self._parts["unread_ends"])

    def names(self) -> list[str]:
        """Returns the names of all scenes. Faster than a loop over scenes, which decodes frames too."""
        return [self._names[number] for number in self._selected]

    def __len__(self) -> int:
        return len(self._selected)

    def __getitem__(self, number: int) -> Scene:
        index = int(self._selected[number])
        # Cached, since the views of a sample ask for the same scene one after the other. One attribute
        # contains both index and scene, so that threads never see an index with another scene.
        latest = self._latest
        if latest is not None and latest[0] == index:
            return latest[1]
        scene = Scene(self._names[index], tuple(self._frames[index].split(SEPARATOR)))
        self._latest = index, scene
        return scene

    def __reduce__(self):
        if self._folder is None:
            return SceneTable, (self._parts, self._selected, None)
        return _load_subset, (self._folder, self._selected)


def _load_subset(folder: pathlib.Path, selected: np.ndarray) -> SceneTable:
    return SceneTable.load(folder).subset(selected)


def split_scenes(scenes: SceneTable, holdout: float) -> tuple[SceneTable, SceneTable]:
    """Splits scenes into (training, held out), deterministically.

    The held-out scenes are evenly spaced in the list. Scenes of one location (see `location`) are never
    separated. If `holdout` is not zero and there are two or more locations, at least one is held out.

    Args:
      scenes: the scenes to split.
      holdout: fraction of locations to hold out.
    """
    locations = [location(name) for name in scenes.names()]
    number_of = {name: number for number, name in enumerate(dict.fromkeys(locations))}
    held_numbers = held_out_numbers(len(number_of), holdout)
    held_out = np.array([number_of[name] in held_numbers for name in locations], bool)
    return scenes.subset(np.flatnonzero(~held_out)), scenes.subset(np.flatnonzero(held_out))


def held_out_numbers(count: int, holdout: float) -> set[int]:
    """Returns the numbers, evenly spaced, of those among `count` scenes that are held out."""
    held = min(max(round(holdout * count), 1 if holdout else 0), count - 1)
    return {int((i + 0.5) * count / held) for i in range(held)}


GROUP_MARK = "#"  # precedes the number of a fixed group of views in a scene's name


def location(scene: str) -> str:
    """Returns the location that a scene shows: its name without the number of a fixed group."""
    return scene.partition(GROUP_MARK)[0]
