"""Helpers for readers of posed datasets: finding sequences, parsing text files, naming images."""

import contextlib
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Float64

from muskie_jax.data.scan import natural_key
from muskie_jax.errors import UserError, first_line


class WrongRoot(UserError):
    """A root folder without the files that a reader expects.

    Args:
      root: the folder.
      expected: description of the expected files.
      searched: text that says where else they were searched, for the message.
    """

    def __init__(self, root: pathlib.Path, expected: str, searched: str = ""):
        if root.is_file():
            problem = f"it is a file: choose the folder that contains {expected}"
        else:
            problem = f"it does not contain {expected}{searched}"
        super().__init__(f"{root}: {problem}")


@contextlib.contextmanager
def parsing(path: pathlib.Path) -> Iterator[None]:
    """Re-raises errors of parsing a file as a `UserError` that names the file."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"{path} cannot be parsed: {reason}") from error


def read_json(path: pathlib.Path) -> Any:
    """Returns the contents of a JSON file; raises UserError."""
    with parsing(path):
        return json.loads(path.read_text())


def read_matrix(path: pathlib.Path) -> Float64[np.ndarray, "4 4"]:
    """Returns the matrix in a text file of 16 numbers; raises UserError."""
    with parsing(path):
        return np.array(path.read_text().split(), np.float64).reshape(4, 4)


def find_sequences(
    root: pathlib.Path, is_sequence: Callable[[pathlib.Path], bool], expected: str
) -> list[tuple[str, pathlib.Path]]:
    """Returns names and folders of sequences: the root itself if it is one, otherwise its subfolders.

    Args:
      root: folder of sequences, or of one sequence.
      is_sequence: function that returns whether a folder is a sequence.
      expected: description of a sequence's files, for the message.

    Raises:
      WrongRoot: if there is no sequence.
    """
    if is_sequence(root):
        return [(root.resolve().name, root)]
    found = [folder for folder in subfolders(root) if is_sequence(folder)]
    if not found:
        raise WrongRoot(root, expected, ", nor does a subfolder")
    return [(folder.name, folder) for folder in found]


def subfolders(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns the subfolders in natural order, or none if the root is a file; raises UserError."""
    if root.is_file():
        return []
    with parsing(root):
        return sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: natural_key(p.name))


def names_from_paths(paths: list[str]) -> list[str]:
    """Returns names of images: their paths without the common folder and the extension.

    Extensions are kept if names would not be unique without them.
    """
    common = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    relative = [os.path.relpath(path, common or ".") for path in paths]
    stems = [os.path.splitext(path)[0] for path in relative]
    return stems if len(set(stems)) == len(set(relative)) else relative
