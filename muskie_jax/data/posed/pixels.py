"""Loads one view: resizes and crops its image and depth map, and adapts the intrinsics."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float32, Float64, UInt8

from muskie_jax.data.images import BadImage, Box, read_photograph
from muskie_jax.data.posed.crops import Crop, known_part
from muskie_jax.data.posed.frames import Frame, RGBDDataset, check_intrinsics
from muskie_jax.data.posed.headers import image_size

ChooseCrop = Callable[[tuple[int, int], np.ndarray], Crop]
ASPECT_TOLERANCE = 0.02  # relative difference up to which two aspect ratios count as equal


def load_view(
    frame: Frame,
    size: tuple[int, int],
    dataset: RGBDDataset,
    choose_crop: ChooseCrop | None = None,
) -> tuple[UInt8[np.ndarray, "H W 3"], Float32[np.ndarray, "H W"], Float64[np.ndarray, "3 3"]]:
    """Returns the image, depth in metres, and intrinsics of a view of `size` (height, width).

    The view shows the largest centred crop of the image with the aspect ratio of `size`. Images are resized
    bicubically, with antialiasing where they shrink. Depth is sampled from the nearest pixel, since a mean
    across an edge would lie on no surface.

    Without a depth map, depth is 0 everywhere.

    Args:
      frame: the frame.
      size: see above.
      dataset: how its files are read.
      choose_crop: returns another crop, given (height, width) of the image and its intrinsics. Views of
        objects, in datasets that are `zoomed`, ignore it.

    Raises:
      BadImage: if a file cannot be read, sizes disagree, or the depth map of the view is empty.
      UserError: if the intrinsics are invalid for such an image.
    """
    photograph = read_photograph(frame.image, dataset.upright)
    stored = photograph.height, photograph.width
    depth = _read_depth(frame, dataset, stored)
    intrinsics = _stored_intrinsics(frame, stored, (depth.shape[0], depth.shape[1]), dataset)
    box = covering_box((0.0, 0.0, stored[1], stored[0]), size)
    if dataset.zoomed:
        box = object_crop(depth, stored, box, size)
    elif choose_crop:
        crop = choose_crop(stored, intrinsics)
        rows, columns, known = known_part(crop, size)
        box, known_size = crop.box, (rows.stop - rows.start, columns.stop - columns.start)
        sampled, pixels = np.zeros(size, np.float32), np.zeros((*size, 3), np.uint8)
        sampled[rows, columns] = sample_nearest(depth, stored, known, known_size)
        _check_not_empty(frame, sampled)
        pixels[rows, columns] = photograph.crop(known, known_size)
        return pixels, sampled, crop_intrinsics(intrinsics, box, size)
    sampled = sample_nearest(depth, stored, box, size)
    _check_not_empty(frame, sampled)
    return photograph.crop(box, size), sampled, crop_intrinsics(intrinsics, box, size)


def _check_not_empty(frame: Frame, depth: Float32[np.ndarray, "H W"]) -> None:
    if frame.depth and not (depth > 0).any():
        raise BadImage(f"{frame.depth}: its depth is empty")


def check_headers(frame: Frame, dataset: RGBDDataset) -> None:
    """Raises those errors of `load_view` that can be found from the headers of a frame's files."""
    stored = image_size(frame.image, dataset.upright)
    _stored_intrinsics(frame, stored, dataset.depth_size(frame.depth) if frame.depth else stored, dataset)


def read_checked_depth(frame: Frame, dataset: RGBDDataset) -> Float32[np.ndarray, "H W"]:
    """Returns the depth of the whole image; raises the errors of `load_view`, also for empty depth."""
    stored = image_size(frame.image, dataset.upright)
    depth = _read_depth(frame, dataset, stored)
    _stored_intrinsics(frame, stored, (depth.shape[0], depth.shape[1]), dataset)
    if not (depth > 0).any():
        raise BadImage(f"{frame.depth}: its depth is empty, leave this frame out")
    return depth


def _read_depth(frame: Frame, dataset: RGBDDataset, stored: tuple[int, int]) -> Float32[np.ndarray, "h w"]:
    """Returns the depth map, metres; without one, zeros of the image's size `stored` (height, width)."""
    if frame.depth is None:
        return np.zeros(stored, np.float32)
    return dataset.read_depth(frame.depth, frame.depth_unit)


def _stored_intrinsics(
    frame: Frame, stored: tuple[int, int], depth_size: tuple[int, int], dataset: RGBDDataset
) -> Float64[np.ndarray, "3 3"]:
    """Returns intrinsics in pixels of the image as it is stored, after checking that sizes agree."""
    _check_sizes(frame, stored, depth_size, dataset.any_depth_size)
    intrinsics = np.diag([*_scale(frame.size or stored, stored), 1.0]) @ frame.intrinsics
    check_intrinsics(intrinsics, str(frame.image), stored)
    return intrinsics


def covering_box(around: Box, size: tuple[int, int]) -> Box:
    """Returns the largest centred box inside `around` with the aspect ratio of `size` (height, width)."""
    left, top, right, bottom = around
    scale = min((right - left) / size[1], (bottom - top) / size[0])
    return _centred_box((left + right) / 2, (top + bottom) / 2, scale * size[1], scale * size[0])


def object_crop(
    depth: Float[np.ndarray, "h w"], stored: tuple[int, int], box: Box, size: tuple[int, int]
) -> Box:
    """Returns the smallest box around the object with the aspect ratio of `size` (height, width).

    It is centred on the object, shifted where it would extend beyond `box`, and at most as large as `box`.

    Args:
      depth: depth map of the whole image; 0 outside the object.
      stored: (height, width) of the image. `box` is in its pixels.
      box: the part of the image to search.
      size: (height, width) of the view.
    """
    to_depth = np.array(_scale(stored, (depth.shape[0], depth.shape[1])))
    corners = np.array(box).reshape(2, 2)
    rows, columns = np.nonzero(depth)
    pixels = (np.stack([columns, rows], 1) + 0.5) / to_depth
    pixels = pixels[((pixels > corners[0]) & (pixels < corners[1])).all(1)]
    if not len(pixels):
        return box  # `load_view` then reports that the depth is empty
    low = np.maximum(pixels.min(0) - 0.5 / to_depth, corners[0])
    high = np.minimum(pixels.max(0) + 0.5 / to_depth, corners[1])
    scale = min(max((high - low) / size[::-1]), (box[2] - box[0]) / size[1])
    half = scale * np.array(size[::-1]) / 2
    x, y = np.clip((low + high) / 2, corners[0] + half, np.maximum(corners[1] - half, corners[0] + half))
    width, height = 2 * half
    return _centred_box(x, y, width, height)


def _centred_box(x: float, y: float, width: float, height: float) -> Box:
    return float(x - width / 2), float(y - height / 2), float(x + width / 2), float(y + height / 2)


def sample_nearest(
    depth: Float[np.ndarray, "h w"], stored: tuple[int, int], box: Box, size: tuple[int, int]
) -> Float32[np.ndarray, "H W"]:
    """Samples depth at the pixel centres of a view.

    Args:
      depth: depth map of the whole image, possibly at another resolution.
      stored: (height, width) of the image. `box` is in its pixels.
      box: the part of the image that the view shows.
      size: (height, width) of the view.
    """
    left, top, right, bottom = box
    rows = _nearest_indices(top, bottom, size[0], depth.shape[0] / stored[0], depth.shape[0])
    columns = _nearest_indices(left, right, size[1], depth.shape[1] / stored[1], depth.shape[1])
    return depth[np.ix_(rows, columns)].astype(np.float32)


def _nearest_indices(low: float, high: float, count: int, scale: float, limit: int) -> np.ndarray:
    """Returns indices below `limit`: the centres of `count` intervals from low to high, times `scale`."""
    centres = low + (np.arange(count) + 0.5) * (high - low) / count
    return np.clip((centres * scale).astype(int), 0, limit - 1)


def crop_intrinsics(
    intrinsics: Float64[np.ndarray, "3 3"], box: Box, size: tuple[int, int]
) -> Float64[np.ndarray, "3 3"]:
    """Returns the intrinsics of a box of an image, resized to `size` (height, width)."""
    left, top, right, bottom = box
    x, y = size[1] / (right - left), size[0] / (bottom - top)
    return np.array([[x, 0, -x * left], [0, y, -y * top], [0, 0, 1]]) @ intrinsics


def _scale(old: tuple[int, int], new: tuple[int, int]) -> tuple[float, float]:
    """Returns the horizontal and vertical scale from one size (height, width) to another."""
    return new[1] / old[1], new[0] / old[0]


def _check_sizes(
    frame: Frame, stored: tuple[int, int], depth: tuple[int, int], any_depth_size: bool
) -> None:
    same_aspect = lambda a, b: abs(a[0] * b[1] / (a[1] * b[0]) - 1) < ASPECT_TOLERANCE
    text = lambda size: f"{size[1]}x{size[0]}"
    if depth != stored and not (any_depth_size and same_aspect(depth, stored)):
        raise BadImage(f"{frame.depth}: the depth is {text(depth)}, its image {text(stored)}")
    if frame.size and not same_aspect(frame.size, stored):
        raise BadImage(f"{frame.image} is {text(stored)}, but its camera is for {text(frame.size)}")
