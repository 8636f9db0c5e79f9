"""Which image size and how many views each update trains on.

A bucket fixes every shape of a batch, so that each bucket is one compiled program. The buckets of an
update are a pure function of the seed and the step: hosts agree on them without talking, and a
continued run draws the ones it would have drawn.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Keeps random streams that serve different purposes apart (first word after the seed).
BUCKET_STREAM = 1

ImageSize = tuple[int, int]


class Bucket(NamedTuple):
    """The shape of a batch: image height and width in pixels, and views per group."""

    height: int
    width: int
    views: int

    def __str__(self) -> str:
        return f"{self.height}x{self.width}, {self.views} view{'s' * (self.views != 1)}"

    def grid(self, patch: int) -> tuple[int, int]:
        """(hp, wp), the patches of a view."""
        return self.height // patch, self.width // patch


class BucketSchedule:
    """The buckets of every update.

    Args:
      resolutions: an update has one batch per entry; an entry lists the image sizes (height, width)
        it may have, one of which is drawn for each update (an entry listed twice is twice as likely).
      views: the view counts to draw from, for each resolution and update on its own.
      seed: of the run.
    """

    def __init__(self, resolutions: Sequence[Sequence[ImageSize]], views: Sequence[int], seed: int):
        self.resolutions = tuple(tuple(tuple(s) for s in sizes) for sizes in resolutions)
        self.views = tuple(views)
        self.seed = seed

    def at(self, step: int) -> tuple[Bucket, ...]:
        """The buckets of update `step`, one per resolution."""
        rng = np.random.default_rng([self.seed, BUCKET_STREAM, step])
        drawn = []
        for sizes in self.resolutions:
            height, width = sizes[int(rng.integers(len(sizes)))]
            drawn.append(Bucket(height, width, self.views[int(rng.integers(len(self.views)))]))
        return tuple(drawn)

    def canvas(self, resolution: int) -> ImageSize:
        """The size that contains all sizes of a resolution; photographs are loaded at it."""
        heights, widths = zip(*self.resolutions[resolution])
        return max(heights), max(widths)

    def all(self) -> tuple[Bucket, ...]:
        """Every bucket that can occur, each once, smallest first."""
        sizes = set(itertools.chain.from_iterable(self.resolutions))
        buckets = {Bucket(h, w, v) for (h, w), v in itertools.product(sizes, self.views)}
        return tuple(sorted(buckets, key=lambda b: (b.height * b.width, b)))

    def positions(self) -> tuple[tuple[Bucket, bool], ...]:
        """Every bucket, and whether it is the first of an update; both, if it can be either."""
        first, *later = (set(sizes) for sizes in self.resolutions)
        at = ((first, True), (set().union(*later), False))
        return tuple((b, is_first) for b in self.all() for sizes, is_first in at if b[:2] in sizes)
