"""Loads a handful of photographs as views of one group, ready for a network."""

import numbers
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, UInt8

from muskie_jax.checks import LARGEST_SIDE, check_size, nearest_size, require
from muskie_jax.data.formats import ffmpeg_command, is_image, is_unread, is_video, unread_lines
from muskie_jax.data.images import BadImage, Photograph, read_photograph
from muskie_jax.data.scan import natural_key
from muskie_jax.data.views import centre_box
from muskie_jax.errors import UserError
from muskie_jax.files import user_path

FilePath = str | os.PathLike[str]


class LoadedImages(NamedTuple):
    """Photographs as views of one size.

    Attributes:
      images: the views in [-1, 1]; a network takes `images[None]`, one group.
      crops: left, top, right and bottom of each view, in pixels of its upright photograph.
      sizes: height and width of each upright photograph, in pixels.
      paths: the files.
    """

    images: Float32[np.ndarray, "V H W 3"]
    crops: Float64[np.ndarray, "V 4"]
    sizes: Int[np.ndarray, "V 2"]
    paths: tuple[pathlib.Path, ...]

    def pixels(self) -> UInt8[np.ndarray, "V H W 3"]:
        """Returns the views as pixels from 0 to 255, for pictures."""
        return np.round((self.images + 1) * 127.5).astype(np.uint8)

    def fractions(self) -> Float64[np.ndarray, " V"]:
        """Returns the fraction of each photograph's area that its view shows."""
        left, top, right, bottom = self.crops.T
        return (right - left) * (bottom - top) / self.sizes.prod(1)

    def to_photograph(self, view: int, points: Float[np.ndarray, "N 2"]) -> Float64[np.ndarray, "N 2"]:
        """Maps x and y in a view to x and y in its upright photograph; (0, 0) is the top left corner.

        The centre of the first pixel is thus (0.5, 0.5), in the view and in the photograph.
        """
        left, top, right, bottom = self.crops[view]
        height, width = self.images.shape[1:3]
        return (left, top) + np.asarray(points) * ((right - left) / width, (bottom - top) / height)


def load_images(
    paths: FilePath | Sequence[FilePath], size: int | tuple[int, int] = 224, patch: int = 16
) -> LoadedImages:
    """Loads photographs as views of one group: upright, of one size, in [-1, 1].

        views = load_images(["kitchen/1.jpg", "kitchen/2.heic"])
        tokens = model.apply({"params": params}, views.images[None], method="features")

    Each view is the largest centred crop of its photograph with the common aspect ratio. This is the
    median of the photographs' aspect ratios, so crops are small unless portrait and landscape are mixed.

    Args:
      paths: files and folders, see `image_files`.
      size: the views' shorter side in pixels; both sides are rounded to multiples of `patch`. Or their
        (height, width), which must be multiples of `patch`.
      patch: the network's patch size, `model.patch`.

    Raises:
      UserError: if a file cannot be read, there is none, or `size` is not valid.
    """
    files = image_files(paths)
    require(files, "load_images: there are no paths: pass a folder, or a list of files")
    photographs = [open_image(path) for path in files]
    sizes = np.array([(photograph.height, photograph.width) for photograph in photographs])
    height, width = common_size(sizes, size, patch)
    crops = [centre_box((h, w), width / height) for h, w in sizes.tolist()]
    images = np.empty((len(files), height, width, 3), np.float32)
    for view, (photograph, crop) in enumerate(zip(photographs, crops)):
        try:
            images[view] = photograph.crop(crop, (height, width))
        except BadImage as error:
            raise UserError(str(error)) from error
    return LoadedImages(images / np.float32(127.5) - 1, np.array(crops), sizes, tuple(files))


def image_files(paths: FilePath | Sequence[FilePath]) -> list[pathlib.Path]:
    """Returns files as they are, and the images of each folder in natural order.

    Args:
      paths: one file or folder, or several.

    Raises:
      UserError: if a folder has no image.
    """
    files: list[pathlib.Path] = []
    for each in [paths] if isinstance(paths, (str, os.PathLike)) else paths:
        path = user_path(each)
        files += list_images(path) if path.is_dir() else [path]
    return files


def photograph_sizes(files: Sequence[pathlib.Path]) -> Int[np.ndarray, "V 2"]:
    """Returns the height and width of upright photographs, in pixels. It reads one file at a time.

    Raises:
      UserError: if a file is not a readable photograph.
    """
    opened = map(open_image, files)
    return np.array([(photograph.height, photograph.width) for photograph in opened]).reshape(-1, 2)


def list_images(folder: FilePath) -> list[pathlib.Path]:
    """Returns the images of a folder, not of folders in it, in natural order (2 before 10).

    Raises:
      UserError: if there is no such folder, or no image in it.
    """
    path = user_path(folder)
    if not path.is_dir():
        raise UserError(
            f"folder {str(folder)!r} does not exist: pass a folder of images, or a list of files"
        )
    names = sorted((each.name for each in path.iterdir() if each.is_file()), key=natural_key)
    images = [path / name for name in names if is_image(name)]
    if not images:
        unread = unread_lines(list(filter(is_unread, names)), path)
        folders = sorted({str(each.parent) for each in path.glob("[!.]*/*") if is_image(each.name)})
        hint = f": it contains folders of images, choose one, such as {folders[0]!r}" if folders else ""
        raise UserError("; ".join([f"no image in {str(folder)!r}{hint}", *unread]))
    return images


def common_size(sizes: Int[np.ndarray, "V 2"], size: int | tuple[int, int], patch: int) -> tuple[int, int]:
    """Returns the (height, width) of views of photographs; see `load_images` for arguments and errors."""
    if isinstance(size, tuple):
        valid = len(size) == 2 and all(isinstance(side, numbers.Integral) for side in size)
    else:
        valid = isinstance(size, numbers.Real)
    require(valid, f"size={size!r} must be a number of pixels, or (height, width)")
    if isinstance(size, tuple):
        check_size(size, patch, "size")
        return size
    require(size >= patch, f"size={size} pixels must be at least the patch size {patch}")
    require(size <= LARGEST_SIDE, f"size={size} is too large: use at most {LARGEST_SIDE} pixels")
    aspect = np.exp(np.median(np.log(sizes[:, 1] / sizes[:, 0])))  # width / height
    return nearest_size((size * max(1, 1 / aspect), size * max(1, aspect)), patch)


def open_image(path: pathlib.Path) -> Photograph:
    """Reads a photograph's header; its pixels are upright.

    Raises:
      UserError: if the file is a video, or cannot be read as a photograph.
    """
    if is_video(path.name):
        raise UserError(
            f"{path} is a video: extract frames with {ffmpeg_command(path, path.with_suffix(''))}"
        )
    try:
        return read_photograph(path)
    except BadImage as error:
        raise UserError(str(error)) from error
