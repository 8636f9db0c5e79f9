"""Drawing the frames of a sample, and each frame's own crop and flips."""

import math

import numpy as np

from muskie_jax.data.images import Box, Photograph, contiguous

CROP_AREA = (0.8, 1.0)  # share of the image that a random crop covers
CROP_ASPECT = (3 / 4, 4 / 3)  # its width / height, times that of the output
LOG_CROP_ASPECT = np.log(CROP_ASPECT)
CROP_TRIES = 10
FLIP_CHANCE = 0.5


def sample_frames(
    rng: np.random.Generator, num_frames: int, num_views: int, window: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """Frame indices of one sample: a window of consecutive frames, then views drawn from it.

    Args:
      num_frames: frames of the scene, in natural order.
      num_views: views to draw, without replacement; when the window has fewer frames than that,
        every frame is drawn once before any is drawn again.
      window: frames of a window; None means the whole scene.

    Returns:
      The frames, int (num_views,), in random order; and all frames not drawn, in the order in which
      they may stand in for unreadable ones: first those of the window, then the others.
    """
    size = num_frames if window is None else min(window, num_frames)
    start = int(rng.integers(num_frames - size + 1))
    rounds = math.ceil(num_views / size)
    order = np.concatenate([rng.permutation(size) for _ in range(rounds)])
    frames = start + order[:num_views]
    others = np.delete(np.arange(num_frames), slice(start, start + size))
    return frames, np.concatenate([start + order[num_views:size], rng.permutation(others)])


def random_crop_box(
    rng: np.random.Generator, image_size: tuple[int, int], output_size: tuple[int, int]
) -> Box:
    """A RandomResizedCrop's box (left, top, right, bottom) in whole pixels.

    Area and log-aspect are uniform in CROP_AREA and CROP_ASPECT; after CROP_TRIES boxes that do not
    fit, the largest centred box with an allowed aspect is taken, as torchvision does.

    Args:
      image_size, output_size: (height, width).
    """
    image_height, image_width = image_size
    stretch = output_size[1] / output_size[0]
    for _ in range(CROP_TRIES):
        area = image_height * image_width * rng.uniform(*CROP_AREA)
        aspect = stretch * math.exp(rng.uniform(*LOG_CROP_ASPECT))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= image_width and 0 < height <= image_height:
            left = int(rng.integers(int(image_width - width) + 1))
            top = int(rng.integers(int(image_height - height) + 1))
            return left, top, left + width, top + height
    low, high = (stretch * bound for bound in CROP_ASPECT)
    return centre_box(image_size, min(max(image_width / image_height, low), high))


def centre_box(image_size: tuple[int, int], aspect: float) -> Box:
    """The largest centred box (left, top, right, bottom) of a given width / height."""
    height, width = image_size
    box_height, box_width = min(height, width / aspect), min(width, height * aspect)
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def augment(
    rng: np.random.Generator, photograph: Photograph, size: tuple[int, int], region: Box | None = None
) -> np.ndarray:
    """A random crop resized to `size` (height, width), flipped at random: uint8 (height, width, 3).

    Args:
      region: the crop is inside this box of the photograph; None: the whole of it.

    Raises:
      BadImage: if the pixels are damaged.
    """
    left, top, right, bottom = region or (0, 0, photograph.width, photograph.height)
    box = random_crop_box(rng, (bottom - top, right - left), size)
    left_right, up_down = rng.random(2) < FLIP_CHANCE
    pixels = photograph.crop(_inside(box, left, top), size)
    if left_right:
        pixels = pixels[:, ::-1]
    if up_down:
        pixels = pixels[::-1]
    return contiguous(pixels)


def centre_view(photograph: Photograph, size: tuple[int, int], region: Box | None = None) -> np.ndarray:
    """The largest centred crop of the right aspect, resized: uint8 (height, width, 3); no chance.

    See `augment` for `region` and errors.
    """
    left, top, right, bottom = region or (0, 0, photograph.width, photograph.height)
    box = centre_box((bottom - top, right - left), size[1] / size[0])
    return photograph.crop(_inside(box, left, top), size)


def _inside(box: Box, left: float, top: float) -> Box:
    """A box of a region, as a box of the image that the region begins at (left, top) of."""
    return box[0] + left, box[1] + top, box[2] + left, box[3] + top
