"""A PyTorch DataLoader with Pillow: the baseline for loading speed.

It crops, interpolates and flips like the training pipeline, and yields normalised float tensors without
masks. It runs as a separate program, so that its worker processes do not import JAX:

    python -m muskie_jax.perf.torch_loader <size> <views of a batch> <workers> <seconds>

The program reads paths of photographs from standard input, one per line, and prints batches per second. It
needs the extra [torch].
"""

import math
import pathlib
import random
import sys
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, RandomSampler

from muskie_jax.data.views import CROP_AREA, CROP_ASPECT, CROP_TRIES, FLIP_CHANCE, centre_box
from muskie_jax.perf.throughput import items_per_second

BICUBIC = Image.Resampling.BICUBIC
MEAN = STD = 0.5  # mean and standard deviation of every channel
SAMPLES_PER_EPOCH = 10**9  # more than any measurement loads


class TorchPhotographs(Dataset):
    """Photographs as float tensors (3, size, size) in [-1, 1], read, cropped and flipped at each access."""

    def __init__(self, paths: Sequence[pathlib.Path], size: int):
        self.paths, self.size = tuple(paths), size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self.paths[index]) as file:
            image = file.convert("RGB")
        image = image.crop(crop_box(*image.size)).resize((self.size, self.size), BICUBIC)
        if random.random() < FLIP_CHANCE:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if random.random() < FLIP_CHANCE:
            image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float().div_(255)
        return tensor.sub_(MEAN).div_(STD)


def crop_box(width: int, height: int) -> tuple[int, int, int, int]:
    """Returns the box (left, top, right, bottom), pixels, of a RandomResizedCrop to a square."""
    for _ in range(CROP_TRIES):
        area = width * height * random.uniform(*CROP_AREA)
        aspect = math.exp(random.uniform(*map(math.log, CROP_ASPECT)))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = random.randint(0, width - w), random.randint(0, height - h)
            return left, top, left + w, top + h
    low, high = CROP_ASPECT
    left, top, right, bottom = centre_box((height, width), min(max(width / height, low), high))
    return round(left), round(top), round(right), round(bottom)


def photograph_loader(paths: Sequence[pathlib.Path], size: int, batch: int, workers: int) -> DataLoader:
    """Returns a loader that yields random batches without end, float32 (batch, 3, size, size)."""
    photographs = TorchPhotographs(paths, size)
    return DataLoader(
        photographs,
        batch,
        sampler=RandomSampler(photographs, replacement=True, num_samples=SAMPLES_PER_EPOCH),
        num_workers=workers,
    )


if __name__ == "__main__":
    size, batch, workers, seconds = map(float, sys.argv[1:])
    torch.set_num_threads(1)  # as in DataLoader's own workers
    paths = [pathlib.Path(line) for line in sys.stdin.read().splitlines()]
    loader = photograph_loader(paths, int(size), int(batch), int(workers))
    print(items_per_second((batch for batch in loader), seconds))
