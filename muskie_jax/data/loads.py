"""The groups of a load as `muskie_jax.data.pipeline` reads them, and the batches they become.

A load serves several passes through the network, each with its own order of views and its own masks.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Int32, UInt8, UInt32

from muskie_jax.buckets import Bucket
from muskie_jax.sharding import GEOMETRY

# The arrays of a batch by key: see "How data flows" in docs/training.md.
Batch = dict[str, np.ndarray]


class PhotoGroup(NamedTuple):
    """One group of photographs.

    Each pass splits the group into smaller groups of V views, the number in its bucket. L is the number
    of patches per view.

    Attributes:
      source: index of the source.
      name: the scene's name, for display.
      images: all views, at the canvas size of their resolution.
      orders: one order of the views per pass that the load serves.
      masks: one array per pass that the load serves: the masks of the smaller groups, True = masked.
      tried: number of images that were opened, or failed to open.
      skipped: one message per unreadable image.
      error: the reason why the group could not be loaded; empty if it could.
      geometry: depth and cameras of all views, in the order of GEOMETRY, see
        `muskie_jax.rendering.BatchPlacer`. Empty for photographs without geometry.
    """

    source: np.int32
    name: str
    images: UInt8[np.ndarray, "views height width 3"]
    orders: list[Int[np.ndarray, "1 views"]]
    masks: list[Bool[np.ndarray, "1 splits V L"]]
    tried: int
    skipped: tuple[str, ...]
    error: str
    geometry: tuple[np.ndarray, ...] = ()


class SyntheticSlot(NamedTuple):
    """A placeholder for a slot of a synthetic load in the stream of groups of photographs.

    The stream has one element per slot of every load. Grain drops elements that are None, which would
    break the order in which it reads from worker processes.
    """


@dataclasses.dataclass(frozen=True)
class PhotoLoad:
    """The g groups of photographs that this host contributes to one batch.

    Attributes:
      source: index of each group's source.
      images: each group's views, in the memory where the worker left them.
      orders, masks, tried, skipped, error: see `PhotoGroup`.
      geometry: of each group, see `PhotoGroup`.
    """

    source: Int32[np.ndarray, " g"]
    images: list[UInt8[np.ndarray, "views height width 3"]]
    orders: list[Int[np.ndarray, "g views"]]
    masks: list[Bool[np.ndarray, "g splits V L"]]
    tried: int
    skipped: tuple[str, ...]
    error: str
    geometry: Sequence[tuple[np.ndarray, ...]] = ()

    def batch(self, use: int, bucket: Bucket) -> Batch:
        """Returns the batch of pass `use`: views in their new order, cropped and split into groups."""
        order = self.orders[use]
        height, width = bucket.height, bucket.width
        canvas = self.images[0].shape[1:3]
        top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
        # Only the views are copied, each once: this process has to keep up with all workers.
        images = np.empty((*order.shape, height, width, 3), np.uint8)
        for ordered, views, numbers in zip(images, self.images, order):
            for position, number in enumerate(numbers):
                ordered[position] = views[number, top : top + height, left : left + width]
        batch = _masks_and_source(self.masks, use, self.source, order.shape[1] // bucket.views)
        for key, of_groups in zip(GEOMETRY, zip(*self.geometry)):
            ordered = np.stack([of_views[numbers] for of_views, numbers in zip(of_groups, order)])
            if key == "depth":
                ordered = ordered[..., top : top + height, left : left + width]
            elif key == "intrinsics":
                ordered = ordered - np.array([[0, 0, left], [0, 0, top], [0, 0, 0]], np.float32)
            batch[key] = ordered.reshape(-1, bucket.views, *ordered.shape[2:])
        return batch | {"images": images.reshape(-1, bucket.views, height, width, 3)}


@dataclasses.dataclass(frozen=True)
class SyntheticLoad:
    """The g synthetic groups that this host contributes to one batch.

    Attributes:
      source: index of each group's source.
      scene: seed of each group's room.
      orders, masks: see `PhotoGroup`.
    """

    source: Int32[np.ndarray, " g"]
    scene: UInt32[np.ndarray, "g 2"]
    orders: list[Int[np.ndarray, "g views"]]
    masks: list[Bool[np.ndarray, "g splits V L"]]

    def batch(self, use: int, bucket: Bucket) -> Batch:
        """Returns the batch of pass `use`. The device renders `scene` and applies `order`."""
        order = self.orders[use].astype(np.int32)
        batch = _masks_and_source(self.masks, use, self.source, order.shape[1] // bucket.views)
        return batch | {"scene": self.scene, "order": order}


def _masks_and_source(
    masks: Sequence[Bool[np.ndarray, "g splits V L"]],
    use: int,
    source: Int32[np.ndarray, " g"],
    splits: int,
) -> Batch:
    """Returns `source` (g * splits,) of the batch of pass `use`, and `mask` (g * splits, V, L) if any."""
    batch = {"source": np.repeat(source, splits)}
    return batch | ({"mask": masks[use].reshape(-1, *masks[use].shape[2:])} if masks else {})


def collate(groups: Sequence[PhotoGroup]) -> PhotoLoad:
    """Joins groups of photographs of one batch, in the order of their slots."""
    join_passes = lambda per_group: [np.concatenate(parts) for parts in zip(*per_group)]
    return PhotoLoad(
        source=np.stack([group.source for group in groups]),
        images=[group.images for group in groups],
        orders=join_passes(group.orders for group in groups),
        masks=join_passes(group.masks for group in groups),
        tried=sum(group.tried for group in groups),
        skipped=tuple(message for group in groups for message in group.skipped),
        error=next((group.error for group in groups if group.error), ""),
        geometry=[group.geometry for group in groups],
    )
