"""The scenes of a source, and their frames: millions of names, in a few arrays.

Lists of Python strings of that length would fill the memory of every worker process. Here names lie
end to end in arrays, which a saved table maps from its files: to hand it to a process is to hand it a
path.
"""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

SEPARATOR = "\0"  # between the frames of a scene: the one character that no file name has


class Scene(NamedTuple):
    """Photographs of one place; `frames` are paths relative to the source's root, in order."""

    name: str
    frames: tuple[str, ...]


class Texts(Sequence[str]):
    """Many strings in two arrays.

    Attributes:
      letters: uint8 (n,), all strings in UTF-8, end to end.
      ends: int64 (number of strings,), where each ends in `letters`.
    """

    def __init__(self, letters: np.ndarray, ends: np.ndarray):
        self.letters, self.ends = letters, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        # Names on disk need not be valid UTF-8; Python keeps what is not as surrogates.
        encoded = [os.fsencode(text) for text in texts]
        letters = np.frombuffer(b"".join(encoded), np.uint8)
        return cls(letters, np.cumsum([len(text) for text in encoded], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, number: int) -> str:
        end = self.ends[number]  # raises IndexError beyond the last
        start = self.ends[number - 1] if number % len(self.ends) else 0
        return os.fsdecode(self.letters[start:end].tobytes())


class SceneTable(Sequence[Scene]):
    """Scenes in order.

    Attributes:
      counts: int64 (scenes,), the number of frames of each.
      sizes: int32 (scenes, 2), height and width of the first frame of each, as its file says; zero if
        they are not known.
    """

    PARTS = ("names", "name_ends", "frames", "frame_ends", "counts", "sizes")

    def __init__(self, parts: dict[str, np.ndarray], chosen: np.ndarray, folder: pathlib.Path | None):
        self._parts, self._chosen, self._folder = parts, chosen, folder
        self._names = Texts(parts["names"], parts["name_ends"])
        self._frames = Texts(parts["frames"], parts["frame_ends"])
        self._latest: tuple[int, Scene | None] = (-1, None)

    @classmethod
    def of(cls, scenes: Iterable[Scene], sizes: Sequence[tuple[int, int]] | None = None) -> "SceneTable":
        """A table in memory.

        Args:
          scenes: in order; none without a frame.
          sizes: (height, width) of each scene's first frame.
        """
        scenes = list(scenes)
        names, frames = (
            Texts.of(scene.name for scene in scenes),
            Texts.of(SEPARATOR.join(scene.frames) for scene in scenes),
        )
        known = np.zeros((len(scenes), 2)) if sizes is None else np.array(sizes).reshape(-1, 2)
        counts = np.array([len(scene.frames) for scene in scenes], np.int64)
        arrays = (names.letters, names.ends, frames.letters, frames.ends, counts, known.astype(np.int32))
        return cls(dict(zip(cls.PARTS, arrays)), np.arange(len(scenes)), None)

    @classmethod
    def load(cls, folder: pathlib.Path) -> "SceneTable":
        """The table that `save` left in a folder, mapped rather than read.

        Raises:
          OSError, ValueError: if it is not there, or not whole.
        """
        parts = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in cls.PARTS}
        return cls(parts, np.arange(len(parts["counts"])), folder)

    def save(self, folder: pathlib.Path) -> None:
        """Writes all scenes, those not chosen too, to files in a folder that is there."""
        for name in self.PARTS:
            np.save(folder / f"{name}.npy", self._parts[name])

    def subset(self, numbers: Sequence[int]) -> "SceneTable":
        """Some of the scenes, in the order of their numbers here."""
        return SceneTable(self._parts, self._chosen[np.array(numbers, int)], self._folder)

    @property
    def counts(self) -> np.ndarray:
        return self._parts["counts"][self._chosen]

    @property
    def numbers(self) -> np.ndarray:
        """int64 (scenes,), the number of each among all scenes that `save` writes."""
        return self._chosen

    @property
    def sizes(self) -> np.ndarray:
        return self._parts["sizes"][self._chosen]

    def names(self) -> list[str]:
        """Of all scenes; cheaper than asking each scene, since no frame is looked at."""
        return [self._names[number] for number in self._chosen]

    def __len__(self) -> int:
        return len(self._chosen)

    def __getitem__(self, number: int) -> Scene:
        own = self._chosen[number]
        known, scene = self._latest
        if known != own:  # the views of a sample ask for the same scene one after the other
            scene = Scene(self._names[own], tuple(self._frames[own].split(SEPARATOR)))
            self._latest = own, scene
        return scene

    def __reduce__(self):
        if self._folder is None:
            return SceneTable, (self._parts, self._chosen, None)
        return _loaded, (self._folder, self._chosen)


def _loaded(folder: pathlib.Path, chosen: np.ndarray) -> SceneTable:
    return SceneTable.load(folder).subset(chosen)


def split_scenes(scenes: SceneTable, holdout: float) -> tuple[SceneTable, SceneTable]:
    """Splits scenes into (training, held out), the same way every time.

    The held-out scenes are evenly spaced in the list; one at least is held out if `holdout` is not
    zero and there are two scenes or more. What shows the same place is held out together (see
    `place`).
    """
    places = [place(name) for name in scenes.names()]
    numbers = {name: number for number, name in enumerate(dict.fromkeys(places))}
    count = min(max(round(holdout * len(numbers)), 1 if holdout else 0), len(numbers) - 1)
    held = {int((i + 0.5) * len(numbers) / count) for i in range(count)}
    unseen = np.array([numbers[name] in held for name in places], bool)
    return scenes.subset(np.flatnonzero(~unseen)), scenes.subset(np.flatnonzero(unseen))


GROUP_MARK = "#"  # before the number of a group of views of a place


def place(scene: str) -> str:
    """The place that a scene shows: its name, without the number of a fixed group of views."""
    return scene.partition(GROUP_MARK)[0]
