"""Draws the image size and view count of every batch.

An update has one or several passes through the network, and a pass has one batch per resolution. A bucket
fixes every shape of a batch, so each bucket needs its own compiled program. The buckets of a pass are a
pure function of seed and pass number. Hosts therefore agree on them without communication, and a resumed
run draws the same buckets as an uninterrupted run.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.config import total_steps

BUCKET_STREAM = 1  # second word of the random seed, different for every purpose

ImageSize = tuple[int, int]
Resolutions = Sequence[Sequence[ImageSize]]  # the image sizes to draw from, for each batch of a pass


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
      late: resolutions that replace `resolutions` from pass `late_from` on; as many of them.
      late_from: number of the first pass with the late resolutions. All uses of a load must be on one side.
    """

    def __init__(
        self,
        resolutions: Resolutions,
        views: Sequence[int],
        seed: int,
        passes: int = 1,
        late: Resolutions = (),
        late_from: float = math.inf,
    ):
        self.resolutions, self.late = _as_tuples(resolutions), _as_tuples(late)
        self.views = tuple(views)
        self.seed, self.passes, self.late_from = seed, passes, late_from
        assert late_from == math.inf or len(self.late) == len(self.resolutions)

    @classmethod
    def of(cls, config: ConfigDict) -> "BucketSchedule":
        """Returns the schedule of a config's training batches."""
        buckets, batch = config.buckets, config.batch
        late_from, updates = math.inf, total_steps(config)
        if late_updates := round(buckets.late_fraction * updates):
            loads = math.ceil((updates - late_updates) * batch.passes / batch.reuse)
            late_from = loads * batch.reuse
        return cls(buckets.resolutions, buckets.views, config.seed, batch.passes, buckets.late, late_from)

    @property
    def batches_per_update(self) -> int:
        return len(self.resolutions) * self.passes

    def at(self, number: int) -> tuple[Bucket, ...]:
        """Returns the buckets of pass `number`, one per resolution."""
        rng = np.random.default_rng([self.seed, BUCKET_STREAM, number])
        drawn = []
        for sizes in self.resolutions_at(number):
            height, width = sizes[int(rng.integers(len(sizes)))]
            drawn.append(Bucket(height, width, self.views[int(rng.integers(len(self.views)))]))
        return tuple(drawn)

    def resolutions_at(self, number: int) -> tuple[tuple[ImageSize, ...], ...]:
        """Returns the resolutions of pass `number`."""
        return self.resolutions if number < self.late_from else self.late

    def canvas(self, resolution: int, number: int = 0) -> ImageSize:
        """Returns the smallest size that covers all sizes of a resolution in pass `number`.

        Photographs are loaded at this size.
        """
        heights, widths = zip(*self.resolutions_at(number)[resolution])
        return max(heights), max(widths)

    def all(self) -> tuple[Bucket, ...]:
        """Returns every possible bucket once, smallest first."""
        late = self.late if self.late_from < math.inf else ()
        sizes = set(itertools.chain.from_iterable((*self.resolutions, *late)))
        buckets = {Bucket(h, w, v) for (h, w), v in itertools.product(sizes, self.views)}
        return tuple(sorted(buckets, key=lambda b: (b.height * b.width, b)))


def _as_tuples(resolutions: Resolutions) -> tuple[tuple[ImageSize, ...], ...]:
    return tuple(tuple((height, width) for height, width in sizes) for sizes in resolutions)
