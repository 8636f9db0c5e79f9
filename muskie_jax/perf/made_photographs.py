"""Photographs to measure with where there are none: they cost as much to decode as real ones."""

import pathlib

import numpy as np
from PIL import Image

QUALITY = 90
FALLOFF = 1.6  # amplitude over spatial frequency; with it files are as large as cameras' of this quality
CONTRAST, TINT, NOISE = 48.0, 12.0, 2.0  # standard deviations, grey levels


def make_photographs(folder: pathlib.Path, count: int, size: tuple[int, int]) -> None:
    """Writes `count` JPEG files of a size (height, width) to a folder, unless they are there already.

    640x480 pixels make about 70 kB, 1920x1440 about 430 kB.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number:03d}.jpg"
        if not path.exists():
            part = path.with_suffix(".part")
            made_photograph(np.random.default_rng(number), size).save(part, "JPEG", quality=QUALITY)
            part.rename(path)


def made_photograph(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """A picture with the spectrum of a photograph, weakly coloured, with a sensor's noise."""
    light = CONTRAST * _field(rng, size)
    colours = np.stack([128 + light + TINT * _field(rng, size) for _ in range(3)], axis=-1)
    noisy = colours + NOISE * rng.standard_normal((*size, 1))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _field(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Noise of size (height, width), weaker the finer it is; of mean 0 and standard deviation 1."""
    height, width = size
    rows, columns = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(size)) / frequency**FALLOFF, s=size)
    return field / field.std()
