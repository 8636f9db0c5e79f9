"""Generates JPEG files that decode as slowly as photographs, to measure loading without data."""

import pathlib

import numpy as np
from jaxtyping import Float
from PIL import Image

QUALITY = 90
FALLOFF = 1.6  # amplitude ~ 1 / spatial frequency ** FALLOFF; file sizes then match photographs
CONTRAST, TINT, NOISE = 48.0, 12.0, 2.0  # standard deviations, grey levels


def write_photographs(folder: pathlib.Path, count: int, size: tuple[int, int]) -> None:
    """Writes `count` synthetic JPEG files of `size` (height, width) to a folder; keeps existing files.

    Files of 640x480 pixels take about 70 kB, and files of 1920x1440 pixels about 430 kB.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number:03d}.jpg"
        if not path.exists():
            part = path.with_suffix(".part")
            synthetic_photograph(np.random.default_rng(number), size).save(part, "JPEG", quality=QUALITY)
            part.rename(path)


def synthetic_photograph(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Returns an image of weakly coloured noise with a photograph's spectrum, plus sensor noise."""
    light = CONTRAST * _power_law_noise(rng, size)
    colours = np.stack([128 + light + TINT * _power_law_noise(rng, size) for _ in range(3)], axis=-1)
    noisy = colours + NOISE * rng.standard_normal((*size, 1))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def _power_law_noise(rng: np.random.Generator, size: tuple[int, int]) -> Float[np.ndarray, "H W"]:
    """Returns noise with mean 0 and standard deviation 1, whose amplitude falls with frequency."""
    height, width = size
    rows, columns = np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width) * width
    frequency = np.hypot(rows, columns)
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(size)) / frequency**FALLOFF, s=size)
    return field / field.std()
