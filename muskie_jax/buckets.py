"""Draws the image size and view count of every batch.

An update has one or several passes through the network, and a pass has one batch per resolution. A bucket
fixes every shape of a batch, so each bucket needs its own compiled program. The buckets of a pass are a
pure function of seed and pass number. Hosts therefore agree on them without communication, and a resumed
run draws the same buckets as an uninterrupted run.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

BUCKET_STREAM = 1  # second word of the random seed, different for every purpose

ImageSize = tuple[int, int]


class Bucket(NamedTuple):
    """The shape of a batch: image height and width in pixels, and views per group."""

    height: int
    width: int
    views: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}, {self.views} view{'s' * (self.views != 1)}"

    def grid(self, patch: int) -> tuple[int, int]:
        """Returns (hp, wp), the patch grid of a view."""
        return self.height // patch, self.width // patch


class BucketSchedule:
    """Draws the buckets of every pass.

    Args:
      resolutions: one entry for each batch of a pass. An entry lists image sizes (height, width).
        Each pass draws one of them; a size that is listed twice is twice as likely.
      views: choices of the view count; one is drawn for each batch.
      seed: the run's random seed.
      passes: number of passes per update.
    """

    def __init__(
        self, resolutions: Sequence[Sequence[ImageSize]], views: Sequence[int], seed: int, passes: int = 1
    ):
        self.resolutions = tuple(tuple(tuple(s) for s in sizes) for sizes in resolutions)
        self.views = tuple(views)
        self.seed, self.passes = seed, passes

    @classmethod
    def of(cls, config: ConfigDict) -> "BucketSchedule":
        """Returns the schedule of a config's training batches."""
        return cls(config.buckets.resolutions, config.buckets.views, config.seed, config.batch.passes)

    @property
    def batches_per_update(self) -> int:
        return len(self.resolutions) * self.passes

    def at(self, number: int) -> tuple[Bucket, ...]:
        """Returns the buckets of pass `number`, one per resolution."""
        rng = np.random.default_rng([self.seed, BUCKET_STREAM, number])
        drawn = []
        for sizes in self.resolutions:
            height, width = sizes[int(rng.integers(len(sizes)))]
            drawn.append(Bucket(height, width, self.views[int(rng.integers(len(self.views)))]))
        return tuple(drawn)

    def canvas(self, resolution: int) -> ImageSize:
        """Returns the smallest size that covers all sizes of a resolution; photographs are loaded at it."""
        heights, widths = zip(*self.resolutions[resolution])
        return max(heights), max(widths)

    def all(self) -> tuple[Bucket, ...]:
        """Returns every possible bucket once, smallest first."""
        sizes = set(itertools.chain.from_iterable(self.resolutions))
        buckets = {Bucket(h, w, v) for (h, w), v in itertools.product(sizes, self.views)}
        return tuple(sorted(buckets, key=lambda b: (b.height * b.width, b)))
