"""One view's pixels: image and depth resized and cropped alike, the intrinsics with them."""

import numpy as np

from muskie_jax.data.images import BadImage, Box, read_photograph
from muskie_jax.data.posed.frames import Frame, Recordings, check_intrinsics
from muskie_jax.data.posed.headers import image_size

SAME_SHAPE = 0.02  # relative difference of two aspect ratios that are taken for the same


def load_view(
    frame: Frame, size: tuple[int, int], recordings: Recordings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A view of `size` (height, width), the largest and most central part of the image of that shape.

    Images are resized bicubically, antialiased where they shrink. Depth is that of the pixel that a new
    pixel's centre falls into: a mean across an edge would lie on no surface.

    Returns:
      image uint8 (H, W, 3), depth float32 (H, W) in metres, intrinsics float64 (3, 3) of this view.

    Raises:
      BadImage: if a file cannot be read, or sizes or depth cannot be true.
      UserError: if the intrinsics cannot be those of such an image.
    """
    photograph = read_photograph(frame.image, recordings.upright)
    stored = photograph.height, photograph.width
    depth = recordings.read_depth(frame)
    intrinsics = _stored_intrinsics(frame, stored, depth.shape, recordings)
    box = covering_box((0.0, 0.0, stored[1], stored[0]), size)
    if recordings.zoomed:
        box = object_box(depth, stored, box, size)
    sampled = sample_nearest(depth, stored, box, size)
    if not (sampled > 0).any():
        raise BadImage(f"{frame.depth}: its depth is empty")
    return photograph.crop(box, size), sampled, crop_intrinsics(intrinsics, box, size)


def check_headers(frame: Frame, recordings: Recordings) -> None:
    """Raises what `load_view` would, as far as the headers of a frame's files tell."""
    stored = image_size(frame.image, recordings.upright)
    _stored_intrinsics(frame, stored, recordings.depth_size(frame.depth), recordings)


def checked_depth(frame: Frame, recordings: Recordings) -> np.ndarray:
    """Depth of the whole image, float32 (h, w); raises as `load_view` does, and where it is empty."""
    depth = recordings.read_depth(frame)
    stored = image_size(frame.image, recordings.upright)
    _stored_intrinsics(frame, stored, depth.shape, recordings)
    if not (depth > 0).any():
        raise BadImage(f"{frame.depth}: its depth is empty, leave this frame out")
    return depth


def _stored_intrinsics(
    frame: Frame, stored: tuple[int, int], depth_size: tuple[int, int], recordings: Recordings
) -> np.ndarray:
    """Intrinsics in pixels of the image as it is, once sizes (height, width) are found to agree."""
    _check_sizes(frame, stored, depth_size, recordings.any_depth_size)
    intrinsics = np.diag([*_scale(frame.size or stored, stored), 1.0]) @ frame.intrinsics
    check_intrinsics(intrinsics, str(frame.image), stored)
    return intrinsics


def covering_box(around: Box, size: tuple[int, int]) -> Box:
    """The largest box of the shape of `size` (height, width) within another, in its middle."""
    left, top, right, bottom = around
    scale = min((right - left) / size[1], (bottom - top) / size[0])
    return _centred((left + right) / 2, (top + bottom) / 2, scale * size[1], scale * size[0])


def object_box(depth: np.ndarray, stored: tuple[int, int], box: Box, size: tuple[int, int]) -> Box:
    """The smallest box of the shape of `size` around all within `box` that has depth, in its middle.

    Where it would reach beyond `box`, it is moved inside; no side becomes longer than that of `box`.

    Args:
      depth: (h, w) of the whole image; 0 = not the object.
      stored: (height, width) of the image that `box` speaks of.
    """
    to_depth = np.array(_scale(stored, depth.shape))
    corners = np.array(box).reshape(2, 2)
    rows, columns = np.nonzero(depth)
    pixels = (np.stack([columns, rows], 1) + 0.5) / to_depth
    pixels = pixels[((pixels > corners[0]) & (pixels < corners[1])).all(1)]
    if not len(pixels):
        return box  # what is made of it is found empty
    low = np.maximum(pixels.min(0) - 0.5 / to_depth, corners[0])
    high = np.minimum(pixels.max(0) + 0.5 / to_depth, corners[1])
    scale = min(max((high - low) / size[::-1]), (box[2] - box[0]) / size[1])
    half = scale * np.array(size[::-1]) / 2
    middle = np.clip((low + high) / 2, corners[0] + half, np.maximum(corners[1] - half, corners[0] + half))
    return _centred(*middle, *(2 * half))


def _centred(x: float, y: float, width: float, height: float) -> Box:
    return float(x - width / 2), float(y - height / 2), float(x + width / 2), float(y + height / 2)


def sample_nearest(
    depth: np.ndarray, stored: tuple[int, int], box: Box, size: tuple[int, int]
) -> np.ndarray:
    """Depth at the centres of a view's pixels: float32 (H, W).

    Args:
      depth: (h, w) of the whole image, whose size is `stored`.
      box: the part of the image that the view of `size` shows.
    """
    left, top, right, bottom = box
    rows = _indices(top, bottom, size[0], depth.shape[0] / stored[0], depth.shape[0])
    columns = _indices(left, right, size[1], depth.shape[1] / stored[1], depth.shape[1])
    return depth[np.ix_(rows, columns)].astype(np.float32)


def _indices(low: float, high: float, count: int, scale: float, limit: int) -> np.ndarray:
    centres = low + (np.arange(count) + 0.5) * (high - low) / count
    return np.clip((centres * scale).astype(int), 0, limit - 1)


def crop_intrinsics(intrinsics: np.ndarray, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Intrinsics (3, 3) of a box of an image that is resized to `size` (height, width)."""
    left, top, right, bottom = box
    x, y = size[1] / (right - left), size[0] / (bottom - top)
    return np.array([[x, 0, -x * left], [0, y, -y * top], [0, 0, 1]]) @ intrinsics


def _scale(old: tuple[int, int], new: tuple[int, int]) -> tuple[float, float]:
    """How many times wider and higher one size (height, width) is than another."""
    return new[1] / old[1], new[0] / old[0]


def _check_sizes(
    frame: Frame, stored: tuple[int, int], depth: tuple[int, int], any_depth_size: bool
) -> None:
    same_shape = lambda a, b: abs(a[0] * b[1] / (a[1] * b[0]) - 1) < SAME_SHAPE
    text = lambda size: f"{size[1]}x{size[0]}"
    if depth != stored and not (any_depth_size and same_shape(depth, stored)):
        raise BadImage(f"{frame.depth}: the depth is {text(depth)}, its image {text(stored)}")
    if frame.size and not same_shape(frame.size, stored):
        raise BadImage(f"{frame.image} is {text(stored)}, and its camera is of {text(frame.size)}")
