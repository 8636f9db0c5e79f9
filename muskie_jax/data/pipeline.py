"""Builds batches: photographs are loaded through Grain; synthetic rooms only need seeds.

A *load* is the set of groups that are read together: one batch of groups per resolution. It serves `reuse`
passes through the network, each with its own order of views and its own masks. A *slot* is a group's
position in its batch. An update takes one or several passes. With more passes than uses of a load, the uses
of several loads alternate, so that many small loads are used as one large load would be.

A sample is a function of (seed, load, resolution, slot). It does not depend on the worker or host that
computes it, and a run can start at any step. So the step is the only state of the pipeline.

A batch contains either photographs only, which workers load group by group, or synthetic groups only. A
synthetic group is just a seed and masks, so many are drawn at once.
"""

import contextlib
import dataclasses
import functools
import itertools
import math
import tempfile
from collections.abc import Generator, Sequence

import grain
import numpy as np
from absl import flags, logging

from muskie_jax.buckets import Bucket, BucketSchedule
from muskie_jax.data.loads import Batch, PhotoGroup, PhotoLoad, SyntheticLoad, SyntheticSlot, collate
from muskie_jax.data.recordings import RecordedSource, draw_recorded
from muskie_jax.data.samples import draw_sample
from muskie_jax.data.sources import PhotographSource, Source, SyntheticSource
from muskie_jax.data.workers import (
    DIED,
    Deaths,
    describe_worker,
    keep_quiet_about_unread_groups,
    kill_workers,
    reason_of_death,
    start_worker,
    worker_stacks,
)
from muskie_jax.errors import UserError
from muskie_jax.masking import MaskOptions, group_masks

# First word after the seed, so that streams for different purposes are independent.
KIND_STREAM, GROUP_STREAM, HELDOUT_STREAM = 2, 3, 4

BLOCK = 16  # number of consecutive slots of a synthetic load that a host draws together, if it needs any
MAX_GROUPS = 2**40  # length of the practically endless dataset
MIN_IMAGES_FOR_FRACTION = 200  # the fraction of unreadable images is checked from this number drawn


@dataclasses.dataclass(frozen=True)
class GroupSampler:
    """Draws the groups that are read together in a load: source, scene, views, orders of views, and masks.

    Attributes:
      sources: datasets to draw from, by weight. A batch's `source` is the index in this tuple.
      schedule: the schedule of buckets.
      views, reuse: see `config.batch`.
      patch: side of a patch, in pixels.
      masks: options for drawing masks; None for groups with depth and cameras, which have no masks. Their
        views keep the order in which they were drawn.
      seed: the run's seed.
      stream: random stream; training and evaluation use different ones.
      augmented: whether to crop and flip at random. Otherwise each view is the largest centred crop.
    """

    sources: tuple[Source, ...]
    schedule: BucketSchedule
    views: int
    reuse: int
    patch: int
    masks: MaskOptions | None
    seed: int
    stream: int = GROUP_STREAM
    augmented: bool = True

    def weights(self, synthetic: bool) -> np.ndarray:
        """Returns one weight per source: 0 for sources of the other kind (synthetic or photographs)."""
        kind = [isinstance(source, SyntheticSource) == synthetic for source in self.sources]
        return np.array([source.weight for source in self.sources], float) * kind

    def synthetic_fraction(self) -> float:
        """Returns the fraction of the total weight that synthetic sources have."""
        synthetic, photographs = self.weights(True).sum(), self.weights(False).sum()
        return synthetic / (synthetic + photographs)

    def is_synthetic(self, load: int, resolution: int) -> bool:
        """Returns whether a batch contains only synthetic groups. Otherwise it contains only photographs.

        Rendered and loaded groups enter the compiled step differently, so a batch does not mix them. A
        batch is synthetic with the probability `synthetic_fraction`.
        """
        rng = np.random.default_rng([self.seed, KIND_STREAM, self.stream, load, resolution])
        return rng.random() < self.synthetic_fraction()

    def photo_group(self, load: int, resolution: int, slot: int) -> PhotoGroup:
        """Loads the group of photographs in one slot of a load that is not synthetic."""
        rng = np.random.default_rng([self.seed, self.stream, load, resolution, slot])
        (number,) = self._draw_sources(rng, False, 1)
        source, size = self.sources[number], self.schedule.canvas(resolution, load * self.reuse)
        if isinstance(source, RecordedSource):
            recorded = draw_recorded(rng, source, self.views, size, self.augmented)
            orders, masks = self._orders_and_masks(rng, load, resolution, 1)
            return PhotoGroup(source=number, orders=orders, masks=masks, **recorded._asdict())
        assert isinstance(source, PhotographSource)
        sample = draw_sample(rng, source, self.views, size, self.augmented)
        orders, masks = self._orders_and_masks(rng, load, resolution, 1)
        return PhotoGroup(
            source=number,
            name=source.scenes[sample.scene].name + (", zoomed" if sample.zoomed else ""),
            images=sample.images,
            orders=orders,
            masks=masks,
            tried=sample.tried,
            skipped=sample.skipped,
            error=sample.error,
        )

    def synthetic_load(self, load: int, resolution: int, rows: Sequence[int]) -> SyntheticLoad:
        """Draws the seeds, view orders and masks of the groups at positions `rows` of a synthetic batch.

        See `is_synthetic`. BLOCK slots are drawn together, so a group does not depend on `rows`.
        """
        slots = np.asarray(rows)
        numbers, block_of = np.unique(slots // BLOCK, return_inverse=True)
        blocks = [self._synthetic_block(load, resolution, number) for number in numbers.tolist()]
        wanted = block_of * BLOCK + slots % BLOCK
        join = lambda parts: np.concatenate(parts)[wanted]
        join_passes = lambda per_block: [join(parts) for parts in zip(*per_block)]
        return SyntheticLoad(
            source=join([block.source for block in blocks]),
            scene=join([block.scene for block in blocks]),
            orders=join_passes(block.orders for block in blocks),
            masks=join_passes(block.masks for block in blocks),
        )

    def _synthetic_block(self, load: int, resolution: int, block: int) -> SyntheticLoad:
        """Draws BLOCK consecutive groups."""
        rng = np.random.default_rng([self.seed, self.stream, load, resolution, block])
        source = self._draw_sources(rng, True, BLOCK)
        scene = rng.integers(2**32, size=(BLOCK, 2), dtype=np.uint32)
        orders, masks = self._orders_and_masks(rng, load, resolution, BLOCK)
        return SyntheticLoad(source, scene, orders, masks)

    def _draw_sources(self, rng: np.random.Generator, synthetic: bool, count: int) -> np.ndarray:
        """Draws the indices of `count` sources of one kind, int32 (count,)."""
        weights = self.weights(synthetic)
        return rng.choice(len(weights), count, p=weights / weights.sum()).astype(np.int32)

    def _orders_and_masks(
        self, rng: np.random.Generator, load: int, resolution: int, groups: int
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Draws the `orders` and `masks` of several groups (see `PhotoGroup`)."""
        orders, masks = [], []
        for number in range(load * self.reuse, (load + 1) * self.reuse):
            if self.masks is None:
                orders.append(np.tile(np.arange(self.views), (groups, 1)))
                continue
            bucket = self.schedule.at(number)[resolution]
            orders.append(rng.permuted(np.tile(np.arange(self.views), (groups, 1)), axis=1))
            splits, grid = self.views // bucket.views, bucket.grid(self.patch)
            drawn = group_masks(rng, groups * splits, bucket.views, grid, self.masks)
            masks.append(drawn.reshape(groups, splits, *drawn.shape[1:]))
        return orders, masks


@dataclasses.dataclass(frozen=True)
class _PhotoStream:
    """Loads the group at a position of this host's stream, which runs through all slots of all loads."""

    sampler: GroupSampler
    rows: Sequence[int]

    def __call__(self, position: int) -> PhotoGroup | SyntheticSlot:
        batch, row = divmod(position, len(self.rows))
        load, resolution = divmod(batch, len(self.sampler.schedule.resolutions))
        if self.sampler.is_synthetic(load, resolution):
            return SyntheticSlot()
        return self.sampler.photo_group(load, resolution, self.rows[row])


class Pipeline:
    """The batches of a run, from any step on.

    Args:
      sampler: draws the groups.
      rows: slots of the groups that this host contributes to each load.
      workers, threads: see `config.data`.

    Attributes:
      tried: number of images drawn so far.
      skipped: how often each unreadable image was drawn, by the message about it.
    """

    def __init__(self, sampler: GroupSampler, rows: Sequence[int], workers: int = 0, threads: int = 4):
        self.sampler, self.rows = sampler, rows
        self.workers, self.threads = workers, threads
        self.tried = 0
        self.skipped: dict[str, int] = {}
        self._deaths = Deaths()
        self._abandoned = False
        self._folder: str | None = None  # files of the worker processes; None: there are none
        self._awaited: int | None = None  # position in the stream of the group that is awaited

    def updates(
        self, first: int = 0, stop: int | None = None
    ) -> Generator[tuple[tuple[Bucket, Batch], ...], None, None]:
        """Yields the (bucket, batch) pairs of each update from `first` to before `stop`.

        An update has one pair per resolution of each of its passes.

        Raises:
          UserError: if a group cannot be loaded.
        """
        reuse, schedule = self.sampler.reuse, self.sampler.schedule
        loads = self._loads(self._load_and_use(self._first_pass(first))[0])
        loaded: dict[int, tuple[PhotoLoad | SyntheticLoad, ...]] = {}
        for step in itertools.count(first) if stop is None else range(first, stop):
            update = []
            for number in range(self._first_pass(step), self._first_pass(step + 1)):
                load, use = self._load_and_use(number)
                if load not in loaded:
                    loaded[load] = tuple(next(loads) for _ in schedule.resolutions)
                for bucket, part in zip(schedule.at(load * reuse + use), loaded[load]):
                    update.append((bucket, part.batch(use, bucket)))
                if use == reuse - 1:
                    del loaded[load]
            yield tuple(update)

    @property
    def _loads_together(self) -> int:
        """The number of loads whose uses alternate: those that replace one load of a larger batch."""
        together, rest = divmod(self.sampler.schedule.passes, self.sampler.reuse)
        return 1 if rest else together

    def _load_and_use(self, number: int) -> tuple[int, int]:
        """Returns the load of pass `number`, and how many earlier passes have used it.

        With several loads together, the first uses of all of them precede their second uses.
        """
        together = self._loads_together
        turn, position = divmod(number, together * self.sampler.reuse)
        use, offset = divmod(position, together)
        return turn * together + offset, use

    def _first_pass(self, step: int) -> int:
        """Returns the number of the first pass of update `step`.

        An update of several passes starts with the last uses of loads, as published: with two passes and
        two uses, it takes the second use of one load and the first use of the next. Its gradient then
        averages more groups. With eight times the passes, of an eighth of the groups each, it takes the
        second uses of eight loads and the first uses of the next eight, so the same number of groups.
        """
        passes = self.sampler.schedule.passes
        return step * passes + (self._loads_together * (self.sampler.reuse - 1) if passes > 1 else 0)

    def _loads(self, first: int) -> Generator[PhotoLoad | SyntheticLoad, None, None]:
        """Yields each load from `first` on, one resolution after the other."""
        with contextlib.closing(self._photo_groups(first)) as stream:
            for load in itertools.count(first):
                for resolution in range(len(self.sampler.schedule.resolutions)):
                    groups = list(itertools.islice(stream, len(self.rows)))
                    if self.sampler.is_synthetic(load, resolution):
                        yield self.sampler.synthetic_load(load, resolution, self.rows)
                    else:
                        photos = [group for group in groups if isinstance(group, PhotoGroup)]
                        yield self._checked(collate(photos))

    def _photo_groups(self, first: int) -> Generator[PhotoGroup | SyntheticSlot, None, None]:
        """Yields one element per slot of each load from `first` on."""
        if self.sampler.synthetic_fraction() == 1.0:
            while True:  # no worker processes are started: they would have nothing to do
                yield SyntheticSlot()
        position = first * len(self.sampler.schedule.resolutions) * len(self.rows)
        while True:
            try:
                with contextlib.closing(self._read_ahead(position)) as groups:
                    for group in groups:
                        yield group
                        position += 1
            except RuntimeError as error:
                if DIED not in str(error) or self._abandoned:
                    raise
                # A group depends on its position alone, so new workers continue with the same groups.
                self._deaths.add(error)
                logging.warning(
                    "A data worker died (%s): all workers are started again", reason_of_death(error)
                )

    def _read_ahead(self, position: int) -> Generator[PhotoGroup | SyntheticSlot, None, None]:
        """Yields the groups from `position` on, which threads or worker processes read ahead."""
        per_load = len(self.sampler.schedule.resolutions) * len(self.rows)
        groups = grain.MapDataset.range(position, MAX_GROUPS).map(_PhotoStream(self.sampler, self.rows))
        # The loads of two updates, but at least two loads, are read ahead, by threads of this process or by
        # all worker processes together.
        ahead = max(1, math.ceil(2 * self._loads_together * per_load / max(self.workers, 1)))
        stream = groups.to_iter_dataset(grain.ReadOptions(min(self.threads, ahead), ahead))
        with contextlib.ExitStack() as stack:
            if self.workers:
                if not flags.FLAGS.is_parsed():  # in a script or notebook; Grain reads its own flags
                    flags.FLAGS.mark_as_parsed()
                keep_quiet_about_unread_groups()
                folder = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="muskie_workers_", ignore_cleanup_errors=True)
                )
                options = grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=ahead)
                stream = stream.mp_prefetch(options, functools.partial(start_worker, folder))
                self._folder = folder
                stack.callback(setattr, self, "_folder", None)
            elements = stack.enter_context(contextlib.closing(iter(stream)))
            for number in itertools.count():
                self._awaited = number
                group = next(elements)
                self._awaited = None
                yield group

    def abandon(self) -> None:
        """Kills the worker processes, which may hang. `updates` then raises an error in another thread."""
        self._abandoned = True
        kill_workers()

    @property
    def is_abandoned(self) -> bool:
        return self._abandoned

    def describe_wait(self) -> str:
        """Describes what the pipeline waits for, such as a worker process; empty if it does not wait.

        May be called by other threads.
        """
        awaited, folder = self._awaited, self._folder
        if awaited is None:
            return ""
        if folder is None:
            return "the threads that load photographs"
        return describe_worker(folder, awaited % self.workers, self.workers)

    def worker_stacks(self) -> str:
        """Returns the stacks of the worker processes; empty if there are none."""
        folder = self._folder
        return worker_stacks(folder, self.workers) if folder else ""

    def _checked(self, load: PhotoLoad) -> PhotoLoad:
        """Counts a load's images, and raises UserError if a group could not be loaded."""
        self.tried += load.tried
        for message in load.skipped:
            if message not in self.skipped:
                logging.warning("Skipped an unreadable image: %s", message)
            self.skipped[message] = self.skipped.get(message, 0) + 1
        if load.error:
            raise UserError(load.error)
        return load

    def check_bad_fraction(self, max_fraction: float) -> None:
        """Raises UserError if more than `max_fraction` of the images drawn so far were unreadable.

        Does nothing before MIN_IMAGES_FOR_FRACTION images have been drawn.
        """
        bad = sum(self.skipped.values())
        if self.tried >= MIN_IMAGES_FOR_FRACTION and bad > max_fraction * self.tried:
            raise UserError(
                f"{bad} of {self.tried} images drawn were unreadable, such as {next(iter(self.skipped))}: "
                f"repair or remove them, or set config.data.max_bad_fraction above {max_fraction}"
            )

    def skipped_lines(self) -> list[str]:
        """Returns lines that list the skipped images and how often each was drawn; none if none was."""
        if not self.skipped:
            return []
        bad = sum(self.skipped.values())
        fraction = bad / self.tried
        lines = [f"Skipped {bad} of {self.tried} images drawn ({fraction:.1%}), unreadable files:"]
        return lines + [f"  {message} ({times} times)" for message, times in self.skipped.items()]
