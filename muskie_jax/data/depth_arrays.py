"""Reads depth maps from `.npy` and OpenEXR files.

OpenEXR files are read with OpenEXR, which the extra `exr` installs.
"""

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Shaped

from muskie_jax.data.images import MAX_PIXELS, BadImage
from muskie_jax.errors import UserError, first_line

# Names of depth channels after the name of their layer; rendered depth is in Z or V, OpenCV writes Y.
CHANNELS = ("Z", "V", "DEPTH", "D", "Y")
COLOURS = ("R", "G", "B", "A")


def read_npy(path: pathlib.Path) -> Shaped[np.ndarray, "h w"]:
    """Returns the numbers of a `.npy` file of shape (h, w), (h, w, 1) or (1, h, w); raises `BadImage`."""
    size = npy_size(path)
    with _broken(path):
        return np.load(path, allow_pickle=False).reshape(size)


def npy_size(path: pathlib.Path) -> tuple[int, int]:
    """Returns (h, w) of a `.npy` file, which contains numbers; raises `BadImage`."""
    with _broken(path), path.open("rb") as file:
        version = np.lib.format.read_magic(file)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        shape, _, dtype = readers[version](file)
    if dtype.kind not in "iuf":
        raise BadImage(f"{path}: its depth has the type {dtype}, not integers or floats")
    sides = shape[:-1] if shape[2:] == (1,) else shape[1:] if shape[:1] == (1,) else shape
    if len(sides) != 2:
        raise BadImage(f"{path}: its depth has the shape {shape}, not (height, width)")
    return _checked_size(path, *sides)


def read_exr(path: pathlib.Path) -> Shaped[np.ndarray, "h w"]:
    """Returns the depth channel of an OpenEXR file; raises `BadImage`, or UserError without OpenEXR."""
    exr_size(path)
    with _broken(path):
        channels = _import_openexr().File(str(path), separate_channels=True).channels()
        return channels[_depth_channel(path, list(channels))].pixels


def exr_size(path: pathlib.Path) -> tuple[int, int]:
    """Returns (h, w) of an OpenEXR file with a depth channel; raises as `read_exr`."""
    openexr = _import_openexr()
    with _broken(path):
        path.open("rb").close()  # the messages of OpenEXR about missing files are less clear
        header = openexr.File(str(path), header_only=True).header()
        (left, top), (right, bottom) = header["dataWindow"]
        _depth_channel(path, [channel.name for channel in header["channels"]])
    return _checked_size(path, int(bottom - top) + 1, int(right - left) + 1)


def _depth_channel(path: pathlib.Path, names: list[str]) -> str:
    """Returns the only channel, the channel with a name of depth, or R of a grey image."""
    by_suffix = {name.rpartition(".")[2].upper(): name for name in names}
    found = [by_suffix[suffix] for suffix in CHANNELS if suffix in by_suffix]
    if len(names) == 1 or found:
        return found[0] if found else names[0]
    if set(by_suffix) <= set(COLOURS) and "R" in by_suffix:
        return by_suffix["R"]
    raise BadImage(
        f"{path}: its channels are {', '.join(sorted(names))}, none of which is called "
        f"{', '.join(CHANNELS)}: keep the channel of depth alone"
    )


def _checked_size(path: pathlib.Path, height: int, width: int) -> tuple[int, int]:
    if not 0 < height * width <= MAX_PIXELS:
        raise BadImage(f"{path}: its depth, {width}x{height}, is empty or over {MAX_PIXELS:,} pixels")
    return height, width


def _import_openexr() -> Any:
    try:
        import OpenEXR  # pyright: ignore[reportMissingImports]  # an optional extra
    except ImportError as error:
        raise UserError(
            'depth in .exr files needs OpenEXR: install it with python -m pip install -e ".[exr]" '
            "-c constraints.txt"
        ) from error
    return OpenEXR


@contextlib.contextmanager
def _broken(path: pathlib.Path) -> Iterator[None]:
    """Re-raises errors of reading a file as `BadImage`."""
    try:
        yield
    except (BadImage, UserError, MemoryError):
        raise
    except Exception as error:  # OpenEXR raises many kinds of exceptions for broken files
        if isinstance(error, OSError) and error.errno:
            raise BadImage(f"{path}: {error.strerror}") from error
        raise BadImage(f"{path}: its depth: {first_line(error)}") from error
