"""From sources to batches: photographs with Grain, seeds of synthetic rooms without.

Everything random in a sample is a function of (seed, load, resolution, slot): the sample is the same
whichever worker or host makes it, and a run can start at any step. So the state of the pipeline is the
step, and nothing else need be saved.

A *load* is one batch of groups for each resolution; it serves `reuse` updates, each with its own order
of views and its own masks. It is all photographs, which workers load group by group, or all synthetic: then
a group is so little here, a seed and its masks, that many are drawn at once.
"""

import contextlib
import dataclasses
import itertools
import math
import signal
from collections.abc import Iterator, Sequence
from typing import Any

import grain
import numpy as np
from absl import logging

from muskie_jax.buckets import Bucket, BucketSchedule
from muskie_jax.data.allocation import keep_freed_memory
from muskie_jax.data.processes import exit_with_parent
from muskie_jax.data.samples import draw_sample
from muskie_jax.data.sources import Source, SyntheticSource
from muskie_jax.errors import UserError
from muskie_jax.masking import MaskOptions, group_masks

# Keeps random streams that serve different purposes apart (first word after the seed).
KIND_STREAM, GROUP_STREAM, HELDOUT_STREAM = 2, 3, 4

BLOCK = 16  # slots of a synthetic load that are drawn together, whichever of them a host needs
MAX_GROUPS = 2**40  # of the endless dataset
SECONDS_TO_SAVE = 300  # that a worker process lives on after SIGTERM
ENOUGH_IMAGES = 200  # before the share of unreadable ones means something


@dataclasses.dataclass(frozen=True)
class GroupSampler:
    """Makes the groups of a load: draws scenes, loads photographs, draws orders of views and masks.

    Attributes:
      sources: to draw from, by weight. Their positions are the batch's `source` numbers.
      schedule: of buckets.
      views, reuse: see `config.batch`.
      patch: p.
      masks: how they are drawn.
      seed: of the run.
      stream: which random stream; training and evaluation draw from different ones.
      augmented: crop and flip at random; otherwise the largest centred crop.
    """

    sources: tuple[Source, ...]
    schedule: BucketSchedule
    views: int
    reuse: int
    patch: int
    masks: MaskOptions
    seed: int
    stream: int = GROUP_STREAM
    augmented: bool = True

    def weights(self, synthetic: bool) -> np.ndarray:
        """Of sources of one kind; 0 for the others."""
        kind = [isinstance(source, SyntheticSource) == synthetic for source in self.sources]
        return np.array([source.weight for source in self.sources], float) * kind

    def synthetic_share(self) -> float:
        """Of all loads, by weight."""
        synthetic, photographs = self.weights(True).sum(), self.weights(False).sum()
        return synthetic / (synthetic + photographs)

    def is_synthetic(self, load: int, resolution: int) -> bool:
        """Whether a batch is all synthetic; else it is all photographs.

        Rendered and loaded groups enter the compiled step differently, so that they are not mixed in
        a batch; the share of synthetic batches is the share of synthetic weight.
        """
        rng = np.random.default_rng([self.seed, KIND_STREAM, self.stream, load, resolution])
        return rng.random() < self.synthetic_share()

    def __call__(self, index: tuple[int, int, int]) -> dict[str, Any]:
        """The group of photographs in `slot` of (load, resolution, slot); empty if the load is synthetic.

        Returns a dictionary with `source`; `name`, of the scene; `images` uint8 (views, H, W, 3); for each
        of the `reuse` updates an order of the views in `orders` (1, views) and the masks of the groups it
        is split into in `masks` (1, views/V, V, L); `tried` images and the `skipped` unreadable ones; and
        `error`, a message, when the group could not be made.
        """
        load, resolution, slot = index
        if self.is_synthetic(load, resolution):
            return {}
        rng = np.random.default_rng([self.seed, self.stream, load, resolution, slot])
        (number,) = self._draw_sources(rng, False, 1)
        source, size = self.sources[number], self.schedule.canvas(resolution)
        sample = draw_sample(rng, source, self.views, size, self.augmented)
        orders, masks = self._orders_and_masks(rng, load, resolution, 1)
        return {
            "source": number,
            "name": source.scenes[sample.scene].name + ", zoomed" * sample.zoomed,
            "images": sample.images,
            "orders": orders,
            "masks": masks,
            "tried": sample.tried,
            "skipped": sample.skipped,
            "error": sample.error,
        }

    def synthetic_load(self, load: int, resolution: int, rows: Sequence[int]) -> "Load":
        """Some groups of a load that is synthetic: those in the slots `rows`."""
        slots = np.asarray(rows)
        blocks, block_of = np.unique(slots // BLOCK, return_inverse=True)
        drawn = [self._synthetic_block(load, resolution, block) for block in blocks.tolist()]
        wanted = block_of * BLOCK + slots % BLOCK
        join = lambda parts: np.concatenate(parts)[wanted]
        join_updates = lambda key: [join(parts) for parts in zip(*(block[key] for block in drawn))]
        return Load(
            source=join([block["source"] for block in drawn]),
            images=None,
            scene=join([block["scene"] for block in drawn]),
            orders=join_updates("orders"),
            masks=join_updates("masks"),
        )

    def _synthetic_block(self, load: int, resolution: int, block: int) -> dict[str, Any]:
        """BLOCK consecutive groups; for keys see `Load`."""
        rng = np.random.default_rng([self.seed, self.stream, load, resolution, block])
        source = self._draw_sources(rng, True, BLOCK)
        scene = rng.integers(2**32, size=(BLOCK, 2), dtype=np.uint32)
        orders, masks = self._orders_and_masks(rng, load, resolution, BLOCK)
        return {"source": source, "scene": scene, "orders": orders, "masks": masks}

    def _draw_sources(self, rng: np.random.Generator, synthetic: bool, count: int) -> np.ndarray:
        """Numbers of sources of one kind, int32 (count,)."""
        weights = self.weights(synthetic)
        return rng.choice(len(weights), count, p=weights / weights.sum()).astype(np.int32)

    def _orders_and_masks(
        self, rng: np.random.Generator, load: int, resolution: int, groups: int
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Of some groups and each update that a load serves; for shapes see `Load`."""
        orders, masks = [], []
        for update in range(load * self.reuse, (load + 1) * self.reuse):
            bucket = self.schedule.at(update)[resolution]
            orders.append(rng.permuted(np.tile(np.arange(self.views), (groups, 1)), axis=1))
            splits, grid = self.views // bucket.views, bucket.grid(self.patch)
            drawn = group_masks(rng, groups * splits, bucket.views, grid, self.masks)
            masks.append(drawn.reshape(groups, splits, *drawn.shape[1:]))
        return orders, masks


@dataclasses.dataclass(frozen=True)
class Load:
    """One batch of loaded groups of one resolution, as this host sees it (g = its groups)."""

    source: np.ndarray  # int32 (g,)
    images: list[np.ndarray] | None  # g times uint8 (views, H, W, 3), where the worker left them
    scene: np.ndarray | None  # uint32 (g, 2)
    orders: list[np.ndarray]  # per update (g, views)
    masks: list[np.ndarray]  # per update bool (g, views/V, V, L)
    tried: int = 0
    skipped: tuple[str, ...] = ()
    error: str = ""

    def batch(self, use: int, bucket: Bucket) -> dict[str, np.ndarray]:
        """The batch of one update: views in their new order, cropped and split into groups.

        See "How data flows" in the README for keys and shapes; for synthetic groups `order` stands
        in for the images.
        """
        masks, order = self.masks[use], self.orders[use]
        splits = masks.shape[1]
        batch = {
            "mask": masks.reshape(-1, *masks.shape[2:]),
            "source": np.repeat(self.source, splits),
        }
        if self.images is None:
            return batch | {"scene": self.scene, "order": order.astype(np.int32)}
        height, width = bucket.height, bucket.width
        canvas = self.images[0].shape[1:3]
        top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
        # One copy of each view, all that this process does to it: it has to keep up with all workers.
        images = np.empty((*order.shape, height, width, 3), np.uint8)
        for ordered, views, places in zip(images, self.images, order):
            for number, place in enumerate(places):
                ordered[number] = views[place, top : top + height, left : left + width]
        return batch | {"images": images.reshape(-1, bucket.views, height, width, 3)}


def collate(groups: Sequence[dict[str, Any]]) -> Load:
    """One batch from the groups of photographs of a load, in the order of their slots."""
    per_update = lambda key: [np.concatenate(parts) for parts in zip(*(g[key] for g in groups))]
    return Load(
        source=np.stack([g["source"] for g in groups]),
        images=[g["images"] for g in groups],
        scene=None,
        orders=per_update("orders"),
        masks=per_update("masks"),
        tried=sum(g["tried"] for g in groups),
        skipped=tuple(message for g in groups for message in g["skipped"]),
        error=next((g["error"] for g in groups if g["error"]), ""),
    )


@dataclasses.dataclass(frozen=True)
class _Index:
    """Turns the position in this host's stream of groups into (load, resolution, slot)."""

    resolutions: int
    rows: Sequence[int]

    def __call__(self, position: int) -> tuple[int, int, int]:
        batch, row = divmod(position, len(self.rows))
        load, resolution = divmod(batch, self.resolutions)
        return load, resolution, self.rows[row]


def _start_worker(index: int, count: int) -> None:
    """Runs in a worker process first."""
    del index, count
    keep_freed_memory()
    _end_with_parent()


def _end_with_parent() -> None:
    """Ends a worker process when the training process was killed and cannot do so.

    Ctrl-C at a terminal, and SIGTERM from a scheduler, may reach workers too. But the training process
    needs batches until it has saved (several processes take some updates to agree on when): so workers
    leave Ctrl-C to it, and SIGTERM ends them only later.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SECONDS_TO_SAVE))
    exit_with_parent()


class Pipeline:
    """The batches of a run, from any step on.

    Args:
      sampler: what a group is.
      rows: the groups of each load that this host makes, by their slots.
      workers, threads: see `config.data`.

    Attributes:
      tried, skipped: images drawn so far, and how often each unreadable one was met.
    """

    def __init__(self, sampler: GroupSampler, rows: Sequence[int], workers: int = 0, threads: int = 4):
        self.sampler, self.rows = sampler, rows
        self.workers, self.threads = workers, threads
        self.tried = 0
        self.skipped: dict[str, int] = {}

    def updates(
        self, first: int = 0, stop: int | None = None
    ) -> Iterator[tuple[tuple[Bucket, dict[str, np.ndarray]], ...]]:
        """Yields, for every update from `first` to before `stop`, its (bucket, batch) pairs."""
        reuse, schedule = self.sampler.reuse, self.sampler.schedule
        loads, loaded = self._loads(first // reuse), ()
        for step in itertools.count(first) if stop is None else range(first, stop):
            if not loaded or step % reuse == 0:
                loaded = tuple(self._checked(next(loads)) for _ in schedule.resolutions)
            pairs = zip(schedule.at(step), loaded)
            yield tuple((bucket, load.batch(step % reuse, bucket)) for bucket, load in pairs)

    def _loads(self, first: int) -> Iterator[Load]:
        with contextlib.closing(self._photographs(first)) as photographs:
            for load in itertools.count(first):
                for resolution in range(len(self.sampler.schedule.resolutions)):
                    groups = list(itertools.islice(photographs, len(self.rows)))
                    if self.sampler.is_synthetic(load, resolution):
                        yield self.sampler.synthetic_load(load, resolution, self.rows)
                    else:
                        yield collate(groups)

    def _photographs(self, first: int) -> Iterator[dict[str, Any]]:
        """The groups of all loads from `first` on, those of synthetic loads empty."""
        if self.sampler.synthetic_share() == 1.0:  # no processes for nothing
            yield from itertools.repeat({})  # without end
        per_load = len(self.sampler.schedule.resolutions) * len(self.rows)
        groups = (
            grain.MapDataset.range(first * per_load, MAX_GROUPS)
            .map(_Index(len(self.sampler.schedule.resolutions), self.rows))
            .map(self.sampler)
        )
        # Two loads are read ahead, by threads here or spread over the worker processes.
        ahead = max(1, math.ceil(2 * per_load / max(self.workers, 1)))
        stream = groups.to_iter_dataset(grain.ReadOptions(self.threads, ahead))
        if self.workers:
            options = grain.MultiprocessingOptions(self.workers, per_worker_buffer_size=ahead)
            stream = stream.mp_prefetch(options, _start_worker)
        with contextlib.closing(iter(stream)) as groups:
            yield from groups

    def _checked(self, load: Load) -> Load:
        self.tried += load.tried
        for message in load.skipped:
            if message not in self.skipped:
                logging.warning("Skipped an unreadable image: %s", message)
            self.skipped[message] = self.skipped.get(message, 0) + 1
        if load.error:
            raise UserError(load.error)
        return load

    def check_bad_fraction(self, most: float) -> None:
        """Raises UserError if more than a share of the images drawn so far were unreadable.

        The share is judged once there are enough images to tell.
        """
        bad = sum(self.skipped.values())
        if self.tried >= ENOUGH_IMAGES and bad > most * self.tried:
            raise UserError(
                f"{bad} of {self.tried} images drawn were unreadable, such as {next(iter(self.skipped))}: "
                f"mend the data, or write a config.data.max_bad_fraction above {most}"
            )

    def skipped_lines(self) -> list[str]:
        """Which images were skipped, and how often; empty if none was."""
        if not self.skipped:
            return []
        bad = sum(self.skipped.values())
        share = bad / self.tried
        lines = [f"Skipped {bad} of {self.tried} images drawn ({share:.1%}), unreadable files:"]
        return lines + [f"  {message} ({times} times)" for message, times in self.skipped.items()]
