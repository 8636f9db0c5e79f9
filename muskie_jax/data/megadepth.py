"""Reads MegaDepth's list of groups: sets of photographs that show the same part of a landmark.

The lists are NumPy archives of Python objects, that is, pickles. A pickle can run arbitrary code when
it is loaded, so the reader here accepts only arrays, numbers and text.
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
ALLOWED_GLOBALS = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *((module, name) for module in ("numpy.core.multiarray", "numpy._core.multiarray")
      for name in ("_reconstruct", "scalar")),
}  # fmt: skip


class _SafeUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED_GLOBALS:
            raise pickle.UnpicklingError(f"it would call {module}.{name}")
        return super().find_class(module, name)


def read_groups(path: pathlib.Path) -> Iterator[Scene]:
    """Yields the groups of an `all_metadata_8view.npz` as scenes whose frames are the group's views.

    The file has three arrays. `scenes` contains names such as "0000 dense0", which stands for the folder
    `0000/dense0`. `images` contains file names without ".jpg". `pairs` contains one (scene index, image
    indices) entry per group.

    Raises:
      UserError: if the file cannot be read, has other contents, or would run code.
    """
    with explain_read_errors(path):
        pairs, scenes, images = read_lists(path)
        for number, (scene, group) in enumerate(pairs):
            folder = "/".join(str(scenes[_checked_index(scene, scenes)]).split())
            frames = tuple(f"{folder}/{images[_checked_index(image, images)]}.jpg" for image in group)
            yield Scene(f"{folder}{GROUP_MARK}{number}", frames)


@contextlib.contextmanager
def explain_read_errors(path: pathlib.Path) -> Iterator[None]:
    """Turns an error while a list is parsed into a `UserError` that names the file."""
    try:
        yield
    except (zipfile.BadZipFile, pickle.UnpicklingError, AttributeError) as error:
        raise UserError(f"{path} cannot be read safely: {error}") from error
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist: see docs/data.md for where to get it") from error
    except (OSError, KeyError, ValueError, TypeError, IndexError, EOFError) as error:
        raise UserError(f"{path} does not contain valid arrays {', '.join(KEYS)}: {error}") from error


def read_lists(path: pathlib.Path) -> list[np.ndarray]:
    """Returns the arrays of a list of groups or of pairs, in the order of KEYS."""
    with zipfile.ZipFile(path) as archive:
        return [_read_array(archive, f"{key}.npy") for key in KEYS]


def _checked_index(index: Any, values: np.ndarray) -> int:
    """Returns an index as an int; raises IndexError if it is negative or too large for `values`."""
    if not 0 <= int(index) < len(values):
        raise IndexError(f"index {index} of {len(values)} values")
    return int(index)


def _read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, fortran, dtype = readers[version](file)
        if not dtype.hasobject:
            return np.frombuffer(file.read(), dtype).reshape(shape, order="F" if fortran else "C")
        return _SafeUnpickler(file).load()
