"""Random crops of views with known cameras, for training."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from muskie_jax.data.images import Box

SIDES = (0.8, 1.2)  # range of the fraction of each side that is used; more than 1 counts as 1
SMALLEST_MARGIN = 4  # pixels of a resized image beyond the view, on both sides together
LARGEST_MARGIN = 0.3  # of the view's side; small margins are the most frequent


class Crop(NamedTuple):
    """A view as part of an image.

    Attributes:
      box: the part that the view shows; it may extend beyond the image. (left, top, right, bottom), pixels.
      limits: the part whose pixels are known. The rest of the view is black, without depth.
    """

    box: Box
    limits: Box


def random_crop(
    rng: np.random.Generator,
    stored: tuple[int, int],
    intrinsics: Float64[np.ndarray, "3 3"],
    size: tuple[int, int],
) -> Crop:
    """Draws a crop around the principal point, as published.

    The image is cut to a random fraction of each side, around the principal point. It is then resized, with
    its aspect ratio, so that it is larger than the view by a random margin; the view is its part around the
    principal point. So the aspect ratio of pixels never changes, and the principal point becomes central.

    Args:
      rng: the generator.
      stored: (height, width) of the image.
      intrinsics: camera matrix, in pixels of the image.
      size: (height, width) of the view.
    """
    sides = np.array(stored[::-1], float) * np.minimum(rng.uniform(*SIDES, 2), 1)
    centre = intrinsics[:2, 2]
    low = np.maximum(centre - sides / 2, 0)
    high = np.minimum(centre + sides / 2, stored[::-1])
    view = np.array(size[::-1], float)
    resized = view * (1 + rng.triangular(0, 0, LARGEST_MARGIN)) + SMALLEST_MARGIN
    half = view / max(resized / (high - low)) / 2
    box = (*(centre - half).tolist(), *(centre + half).tolist())
    return Crop(box, (*low.tolist(), *high.tolist()))


def known_part(crop: Crop, size: tuple[int, int]) -> tuple[slice, slice, Box]:
    """Returns the rows and columns of a view of `size` that lie within the limits, and their box."""
    spans, edges = [], []
    for axis, pixels in ((1, size[0]), (0, size[1])):
        start, step = crop.box[axis], (crop.box[axis + 2] - crop.box[axis]) / pixels
        first = max(0, int(np.ceil((crop.limits[axis] - start) / step - 1e-6)))
        last = min(pixels, int(np.floor((crop.limits[axis + 2] - start) / step + 1e-6)))
        spans.append(slice(first, last))
        edges.append((start + first * step, start + last * step))
    (top, bottom), (left, right) = edges
    return spans[0], spans[1], (left, top, right, bottom)
