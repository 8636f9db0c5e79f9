"""MegaDepth's list of groups: which photographs of a place see the same part of it (SPEC §5).

The published code reads a list that was not published; `write_groups` makes one from the list of pairs
that the common processing of MegaDepth leaves. Such lists are NumPy archives of Python objects, that is,
of pickles, which can run any command when they are read. Here they may hold arrays, numbers and text only.
"""

import contextlib
import pathlib
import pickle
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from muskie_jax.data.scenes import GROUP_MARK, Scene
from muskie_jax.errors import UserError

KEYS = ("pairs", "scenes", "images")
PAIRS_FILE = "all_metadata.npz"
VIEWS = 8
HARMLESS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *((module, name) for module in ("numpy.core.multiarray", "numpy._core.multiarray")
      for name in ("_reconstruct", "scalar")),
}  # fmt: skip


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in HARMLESS:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return super().find_class(module, name)


def read_groups(path: pathlib.Path) -> Iterator[Scene]:
    """The groups of an `all_metadata_8view.npz`, as scenes whose frames are the views of the group.

    The file has `scenes`, names such as "0000 dense0" that stand for the folder `0000/dense0`;
    `images`, file names without ".jpg"; and `pairs`, (number of a scene, numbers of its images) each.

    Raises:
      UserError: if the file cannot be read, has other contents, or would run a command.
    """
    with _explained(path):
        pairs, scenes, images = _read(path)
        for number, (scene, group) in enumerate(pairs):
            folder = "/".join(str(scenes[_index(scene, scenes)]).split())
            frames = tuple(f"{folder}/{images[_index(image, images)]}.jpg" for image in group)
            yield Scene(f"{folder}{GROUP_MARK}{number}", frames)


def write_groups(root: pathlib.Path, file: str, low: float, high: float, seed: int = 0) -> int:
    """Makes a list of groups of VIEWS from PAIRS_FILE: for each image that overlaps enough others, a group
    of it and of some of these.

    PAIRS_FILE has `scenes` and `images` as above, and `pairs`, (number of a scene, of one image, of
    another, their overlap) each.

    Args:
      root: the folder of the dataset, where PAIRS_FILE is.
      file: the list's name in it; it must not be there.
      low, high: overlap of the others with the first, inclusive.
      seed: which of the others are taken.

    Returns:
      The number of groups.

    Raises:
      UserError: if there are no pairs to read, or no groups to make of them, or a list already.
    """
    source, target = root / PAIRS_FILE, root / file
    if target.exists():
        raise UserError(f"{target} is there already: remove it to make another")
    partners: dict[tuple[int, int], set[int]] = {}
    with _explained(source):
        pairs, scenes, images = _read(source)
        for scene, first, second, overlap in pairs:
            if low <= overlap <= high:
                partners.setdefault((int(scene), int(first)), set()).add(int(second))
                partners.setdefault((int(scene), int(second)), set()).add(int(first))
    rng = np.random.default_rng(seed)
    others = lambda found: [int(i) for i in rng.choice(sorted(found), VIEWS - 1, replace=False)]
    groups = [
        (scene, [image, *others(found)])
        for (scene, image), found in sorted(partners.items())
        if len(found) >= VIEWS - 1
    ]
    if not groups:
        raise UserError(
            f"{source}: no image overlaps {VIEWS - 1} others by {low} to {high}: write a wider range"
        )
    array = np.empty(len(groups), object)
    array[:] = groups
    part = target.with_name(f".{file}.part.npz")
    np.savez_compressed(part, pairs=array, scenes=scenes, images=images)
    part.replace(target)
    return len(groups)


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
    """Turns what a bad file raises into one line."""
    try:
        yield
    except (zipfile.BadZipFile, pickle.UnpicklingError, AttributeError) as error:
        raise UserError(f"{path} cannot be read safely: {error}") from error
    except (OSError, KeyError, ValueError, TypeError, IndexError, EOFError) as error:
        raise UserError(f"{path} is no list of {', '.join(KEYS)}: {error}") from error


def _read(path: pathlib.Path) -> list[np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        return [_read_array(archive, f"{key}.npy") for key in KEYS]


def _index(number: Any, values: np.ndarray) -> int:
    """A number that is in the range of an array; negative ones are not meant to be."""
    if not 0 <= int(number) < len(values):
        raise IndexError(f"number {number} of {len(values)}")
    return int(number)


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = header[version](file)
        if not dtype.hasobject:
            return np.frombuffer(file.read(), dtype).reshape(shape)
        return _Unpickler(file).load()
