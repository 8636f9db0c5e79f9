"""Files that the commands for photographs write: a picture, and beside it files with the same name."""

import csv
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from muskie_jax.checks import require
from muskie_jax.files import atomic_write, check_free, user_path

PICTURES = (".png", ".jpg")


def plan_outputs(
    out: str, suffixes: Sequence[str], force: bool, photographs: Sequence[pathlib.Path]
) -> list[pathlib.Path]:
    """Returns the paths of a picture and of the files beside it, before anything is computed.

    Args:
      out: the picture, as the user wrote it.
      suffixes: of the other files, such as ".csv".
      force: replace existing files.
      photographs: the photographs that are read, which are never replaced.

    Raises:
      UserError: if `out` is not a picture, or a file exists or is one of the photographs.
    """
    picture = user_path(out)
    require(
        picture.suffix in PICTURES, f"--out={out} must be a picture: a name with {' or '.join(PICTURES)}"
    )
    paths = [picture, *(picture.with_suffix(suffix) for suffix in suffixes)]
    inputs = {path.resolve() for path in photographs}
    for path in paths:
        require(path.resolve() not in inputs, f"--out={out} is one of the photographs: choose another name")
        check_free(path, force)
    return paths


def write_picture(path: pathlib.Path, picture: UInt8[np.ndarray, "H W 3"], force: bool) -> None:
    """Writes a picture; UserError if it exists without `force`, or cannot be written."""
    with atomic_write(path, force) as part:
        Image.fromarray(picture).save(part, quality=92)


def write_arrays(path: pathlib.Path, force: bool, **arrays: Any) -> None:
    """Writes a `.npz` file; for errors see `write_picture`."""
    with atomic_write(path, force) as part:
        np.savez_compressed(part, **arrays)


def write_table(
    path: pathlib.Path, force: bool, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Writes a `.csv` file with a header; for errors see `write_picture`."""
    with atomic_write(path, force) as part, part.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(rows)
