"""Draws the frames of a sample, and the crop and flips of each frame."""

import math

import numpy as np
from jaxtyping import Int, UInt8

from muskie_jax.data.images import Box, Photograph, contiguous

# Augmentation of the published recipe.
CROP_AREA = (0.8, 1.0)  # fraction of the image that a random crop covers
CROP_ASPECT = (3 / 4, 4 / 3)  # the crop's width / height, relative to the output's
LOG_CROP_ASPECT = np.log(CROP_ASPECT)
CROP_TRIES = 10
FLIP_CHANCE = 0.5


def sample_frames(
    rng: np.random.Generator, num_frames: int, num_views: int, window: int | None
) -> tuple[Int[np.ndarray, " num_views"], Int[np.ndarray, " spare"]]:
    """Draws a window of consecutive frames, then the frames of one sample from this window.

    Args:
      rng: the generator to draw from.
      num_frames: number of frames in the scene, which are in natural order.
      num_views: number of frames to draw. Frames repeat only after all frames of the window have been
        drawn.
      window: number of frames in a window; None: all frames of the scene.

    Returns:
      The drawn frames in random order, and all other frames in the order in which they may replace
      unreadable ones: frames of the window first.
    """
    size = num_frames if window is None else min(window, num_frames)
    start = int(rng.integers(num_frames - size + 1))
    rounds = math.ceil(num_views / size)
    order = np.concatenate([rng.permutation(size) for _ in range(rounds)])
    frames = start + order[:num_views]
    others = np.delete(np.arange(num_frames), slice(start, start + size))
    return frames, np.concatenate([start + order[num_views:size], rng.permutation(others)])


def random_crop_box(
    rng: np.random.Generator, image_size: tuple[float, float], output_size: tuple[int, int]
) -> Box:
    """Draws the (left, top, right, bottom) of a RandomResizedCrop, in integer pixels.

    Area and log-aspect are uniform in CROP_AREA and CROP_ASPECT. After CROP_TRIES boxes that do not fit,
    the result is the largest centred box with an allowed aspect, as in torchvision.

    Args:
      rng: the generator to draw from.
      image_size, output_size: (height, width) of the image and of the crop after resizing.
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


def centre_box(image_size: tuple[float, float], aspect: float) -> Box:
    """Returns the largest centred box (left, top, right, bottom) with a given aspect, width / height."""
    height, width = image_size
    box_height, box_width = min(height, width / aspect), min(width, height * aspect)
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def augment(
    rng: np.random.Generator, photograph: Photograph, size: tuple[int, int], region: Box | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns a random crop, resized to `size` and flipped at random in each direction.

    Args:
      rng: the generator to draw from.
      photograph: the photograph to crop.
      size: (height, width) of the result.
      region: box of the photograph that contains the crop; None: the whole photograph.

    Raises:
      BadImage: if the pixels are damaged.
    """
    left, top, right, bottom = region or (0, 0, photograph.width, photograph.height)
    box = random_crop_box(rng, (bottom - top, right - left), size)
    left_right, up_down = rng.random(2) < FLIP_CHANCE
    pixels = photograph.crop(_shifted(box, left, top), size)
    if left_right:
        pixels = pixels[:, ::-1]
    if up_down:
        pixels = pixels[::-1]
    return contiguous(pixels)


def centre_view(
    photograph: Photograph, size: tuple[int, int], region: Box | None = None
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns the largest centred crop with the aspect of `size`, resized to `size`.

    See `augment` for arguments and errors.
    """
    left, top, right, bottom = region or (0, 0, photograph.width, photograph.height)
    box = centre_box((bottom - top, right - left), size[1] / size[0])
    return photograph.crop(_shifted(box, left, top), size)


def _shifted(box: Box, left: float, top: float) -> Box:
    """Moves a box right by `left` and down by `top` pixels."""
    return box[0] + left, box[1] + top, box[2] + left, box[3] + top
