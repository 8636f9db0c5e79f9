"""Opens networks by name, and photographs of any sizes and orientations as the views of one group.

The views of a group have one size, since they form one array. A photograph is never cropped: it is resized
to an area of whole patches at the top left of its view. The rest of the view is padding. Its patches are
masked, as patches are in training.
"""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int, UInt8

from muskie_jax.checks import LARGEST_SIDE, nearest_size, require
from muskie_jax.data.images import BadImage, Photograph
from muskie_jax.data.load_images import FilePath, image_files, open_image, photograph_sizes
from muskie_jax.errors import UserError
from muskie_jax.interop.load import load_backbone
from muskie_jax.models.muskie import Muskie

MODEL = "small"  # the default: the larger of the bundled networks
SIZE = 224  # pixels; shorter side of a photograph in its view
LONGEST = 2  # longer side of a photograph in its view, as a multiple of `size`


class Network(NamedTuple):
    """A network with its parameters, and what to call it."""

    name: str
    model: Muskie
    params: dict[str, Any]


class Views(NamedTuple):
    """Photographs as views of one group. Axes: V views, H x W pixels, h x w patches.

    Attributes:
      images: the views in [-1, 1]; 0 where there is no photograph.
      padding: patches without photograph, which the network must not see.
      areas: height and width of the photograph at the top left of each view, in pixels.
      sizes: height and width of each upright photograph, in pixels.
      paths: the files.
      turns: quarter turns, clockwise, by which each view shows its photograph turned.
    """

    images: Float32[np.ndarray, "V H W 3"]
    padding: Bool[np.ndarray, "V h w"]
    areas: Int[np.ndarray, "V 2"]
    sizes: Int[np.ndarray, "V 2"]
    paths: tuple[pathlib.Path, ...]
    turns: tuple[int, ...]

    @property
    def patch(self) -> int:
        """Side of a patch, in pixels of a view."""
        return self.images.shape[1] // self.padding.shape[1]

    def to_photograph(self, view: int, points: Float[np.ndarray, "*n 2"]) -> Float64[np.ndarray, "*n 2"]:
        """Maps x and y in a view to x and y in its photograph; (0, 0) is the top left corner in both."""
        area = self.areas[view]
        for _ in range(-self.turns[view] % 4):
            points, area = _turn(points, area)
        return np.asarray(points, np.float64) * (self.sizes[view] / area)[::-1]

    def from_photograph(self, view: int, points: Float[np.ndarray, "*n 2"]) -> Float64[np.ndarray, "*n 2"]:
        """Maps x and y in a photograph to x and y in its view; the inverse of `to_photograph`."""
        turns = self.turns[view]
        area = self.areas[view][:: -1 if turns % 2 else 1]
        points = np.asarray(points, np.float64) * (area / self.sizes[view])[::-1]
        for _ in range(turns):
            points, area = _turn(points, area)
        return points


def _turn(points: np.ndarray, area: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turns x and y in an area of (height, width) clockwise by a quarter; also returns its new size."""
    points = np.asarray(points, np.float64)
    return np.stack([area[0] - points[..., 1], points[..., 0]], -1), area[::-1]


def open_network(source: str | os.PathLike) -> Network:
    """Loads a network.

    Args:
      source: "small" or "tiny", the weights in this repository, or another source of `load_pretrained`.

    Raises:
      UserError: if there are no such weights.
    """
    model, params = load_backbone(source)
    return Network(str(source), model, params)


def find_photographs(paths: FilePath | Sequence[FilePath]) -> list[pathlib.Path]:
    """Returns photographs of files and folders, without repetitions, in the given order.

    Raises:
      UserError: if one does not exist, or is not a readable photograph.
    """
    by_absolute_path: dict[pathlib.Path, pathlib.Path] = {}
    for path in image_files(paths):
        by_absolute_path.setdefault(path.absolute(), path)
    files = list(by_absolute_path.values())
    photograph_sizes(files)  # reads the headers
    return files


def open_views(
    paths: FilePath | Sequence[FilePath], size: int = SIZE, patch: int = 16, turns: int = 0
) -> Views:
    """Reads photographs as the views of one group.

    Args:
      paths: files and folders, see `muskie_jax.data.load_images.image_files`.
      size: shorter side of a photograph in its view, in pixels. Panoramas get a shorter side of less than
        that: the longer side is at most LONGEST times `size`.
      patch: patch size of the network.
      turns: quarter turns, clockwise, by which the first view shows its photograph turned.

    Raises:
      UserError: if a file cannot be read, or `size` is less than a patch.
    """
    files = image_files(paths)
    require(files, "there are no photographs: pass files, or a folder")
    check_view_size(size, patch)
    photographs = [open_image(path) for path in files]
    sizes = np.array([(photograph.height, photograph.width) for photograph in photographs])
    by_view = (turns % 4, *[0] * (len(files) - 1))
    upright = [_area(photograph, size, patch) for photograph in photographs]
    areas = np.array([area[:: -1 if turned % 2 else 1] for area, turned in zip(upright, by_view)])
    height, width = areas.max(0).tolist()
    images = np.zeros((len(files), height, width, 3), np.float32)
    padding = np.ones((len(files), height // patch, width // patch), bool)
    for view, (rows, columns) in enumerate(areas.tolist()):
        pixels = np.rot90(_pixels(photographs[view], upright[view]), -by_view[view])
        images[view, :rows, :columns] = pixels / np.float32(127.5) - 1
        padding[view, : rows // patch, : columns // patch] = False
    return Views(images, padding, areas, sizes, tuple(files), by_view)


def check_view_size(size: int, patch: int) -> None:
    """Raises UserError if views, in pixels, are smaller than a patch or unreasonably large."""
    require(size >= patch, f"--size={size} pixels must be at least the patch size {patch}")
    require(size <= LARGEST_SIDE, f"--size={size} is too large: use at most {LARGEST_SIDE} pixels")


def _area(photograph: Photograph, size: int, patch: int) -> tuple[int, int]:
    shorter, longer = sorted((photograph.height, photograph.width))
    scale = min(size / shorter, LONGEST * size / longer)
    return nearest_size((scale * photograph.height, scale * photograph.width), patch)


def short_names(paths: Sequence[pathlib.Path]) -> list[str]:
    """Returns the names of files, all with their folder if they come from several folders."""
    several = len({path.absolute().parent for path in paths}) > 1
    return [f"{path.absolute().parent.name}/{path.name}" if several else path.name for path in paths]


def thumbnail(
    path: pathlib.Path, longest: int
) -> tuple[UInt8[np.ndarray, "H W 3"], Float64[np.ndarray, "2"]]:
    """Returns a photograph, upright, with a longer side of at most `longest` pixels.

    Also returns its size, x and y, as a fraction of the photograph's.

    Raises:
      UserError: if it cannot be read.
    """
    photograph = open_image(path)
    height, width = photograph.height, photograph.width
    scale = min(1.0, longest / max(height, width))
    pixels = _pixels(photograph, (max(1, round(scale * height)), max(1, round(scale * width))))
    return pixels, np.array([pixels.shape[1] / width, pixels.shape[0] / height])


def _pixels(photograph: Photograph, size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    try:
        return photograph.crop((0, 0, photograph.width, photograph.height), size)
    except BadImage as error:
        raise UserError(str(error)) from error
