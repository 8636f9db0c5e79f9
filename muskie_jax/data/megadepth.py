"""MegaDepth's list of groups: which photographs of a place see the same part of it.

The lists are NumPy archives of Python objects, that is, of pickles, which can run any command when they are
read. Here they may hold arrays, numbers and text only.
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
    with explained(path):
        pairs, scenes, images = read_lists(path)
        for number, (scene, group) in enumerate(pairs):
            folder = "/".join(str(scenes[_index(scene, scenes)]).split())
            frames = tuple(f"{folder}/{images[_index(image, images)]}.jpg" for image in group)
            yield Scene(f"{folder}{GROUP_MARK}{number}", frames)


@contextlib.contextmanager
def explained(path: pathlib.Path) -> Iterator[None]:
    """Turns what a bad file raises into one line."""
    try:
        yield
    except (zipfile.BadZipFile, pickle.UnpicklingError, AttributeError) as error:
        raise UserError(f"{path} cannot be read safely: {error}") from error
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}: docs/data.md says where it comes from") from error
    except (OSError, KeyError, ValueError, TypeError, IndexError, EOFError) as error:
        raise UserError(f"{path} is no list of {', '.join(KEYS)}: {error}") from error


def read_lists(path: pathlib.Path) -> list[np.ndarray]:
    """The arrays of KEYS, in this order."""
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
        shape, fortran, dtype = header[version](file)
        if not dtype.hasobject:
            return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C")
        return _Unpickler(file).load()
