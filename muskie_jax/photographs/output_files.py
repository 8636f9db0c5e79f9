"""Files that the commands for photographs write: a picture, and beside it files with the same name."""

import csv
import os
import pathlib
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from muskie_jax.checks import require
from muskie_jax.errors import UserError
from muskie_jax.files import atomic_write, check_free, user_path

PICTURES = (".png", ".jpg", ".jpeg", ".webp")


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
      UserError: if `out` is not a picture, or a file must not or cannot be written, see `check_output`.
    """
    picture = user_path(out)
    require(
        picture.suffix.lower() in PICTURES,
        f"--out={out} must be a picture: a name that ends with one of {', '.join(PICTURES)}",
    )
    paths = [picture, *(picture.with_suffix(suffix) for suffix in suffixes)]
    for path in paths:
        check_output(path, photographs, force)
    return paths


def check_output(out: pathlib.Path, photographs: Sequence[pathlib.Path], force: bool) -> None:
    """Raises UserError if a file must not or cannot be written.

    It must not if it exists and `force` is false, or if it is one of the photographs. It cannot if its
    folder is a file or not writable. A folder that does not exist is not created here.
    """
    used = {path.resolve() for path in photographs}
    require(out.resolve() not in used, f"--out={out} is one of the photographs: choose another name")
    folder = existing_folder(out)
    require(folder.is_dir(), f"--out={out}: {folder} is a file, not a folder: choose another path")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise UserError(
            f"--out={out} cannot be written, since no file can be made in {folder} ({error.strerror}): "
            "choose another folder"
        ) from error
    check_free(out, force)


def existing_folder(out: pathlib.Path) -> pathlib.Path:
    """Returns the innermost folder of a file's path that exists; the others are created with the file."""
    folder = pathlib.Path(os.path.abspath(out)).parent
    while not os.path.lexists(folder):
        folder = folder.parent
    return folder


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
