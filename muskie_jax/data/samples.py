"""Draws the views of one group of photographs: their scene, frames, zoom, crops and flips."""

import dataclasses
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from muskie_jax.data.images import BadImage, Box, Photograph
from muskie_jax.data.objects import zoom_region
from muskie_jax.data.sources import PhotographSource
from muskie_jax.data.views import augment, centre_view
from muskie_jax.errors import UserError

MAX_REPLACEMENTS = 16  # frames tried per sample in place of unreadable ones; after that, views repeat


@dataclasses.dataclass(frozen=True)
class Sample:
    """The views that were drawn from one scene of a source.

    Attributes:
      images: the views.
      scene: index of the scene.
      frames: index of each view's frame in the scene.
      zoomed: whether all views are cropped to the object.
      tried: number of images that were opened, or failed to open.
      skipped: one message per unreadable image. Each is replaced by a frame that was not drawn, or by
        another view of the sample if no such frame is left.
      error: the reason why the sample could not be drawn; empty if it could.
    """

    images: UInt8[np.ndarray, "views height width 3"]
    scene: int
    frames: list[int]
    zoomed: bool
    tried: int
    skipped: tuple[str, ...]
    error: str


def draw_sample(
    rng: np.random.Generator, source: PhotographSource, views: int, size: tuple[int, int], augmented: bool
) -> Sample:
    """Draws a scene uniformly, then frames of the scene, then each view's own crop and flips.

    Args:
      rng: the generator. The sample is a function of its state and of the files.
      source: the source to draw from.
      views: number of views.
      size: (height, width) of each view.
      augmented: whether to crop and flip at random, and to zoom. Otherwise each view is the largest
        centred crop of its frame.
    """
    scene = int(rng.integers(len(source.scenes)))
    images = np.zeros((views, *size, 3), np.uint8)
    try:
        drawn, spare = source.draw(rng, scene, views)
    except UserError as error:
        return Sample(images, scene, [], zoomed=False, tried=0, skipped=(), error=str(error))
    zoomed = augmented and rng.random() < source.zoom
    # Each view has a generator of its own, so that an unreadable file does not change other views.
    seeds = rng.integers(2**63, size=views)
    reader = _ViewReader(source, scene, zoomed, size, seeds if augmented else None)

    frames = drawn.tolist()
    # Shared by all views; each replacement is used once.
    replacements = iter(spare[:MAX_REPLACEMENTS].tolist())
    readable, missing = [], []
    for view, frame in enumerate(frames):
        opened = reader.first_readable(view, itertools.chain([frame], replacements), images[view])
        if opened is None:
            missing.append(view)
        else:
            readable.append(opened)
            frames[view] = opened.number
    for view, opened in zip(missing, itertools.cycle(readable)):
        images[view] = reader.crop(view, opened)
        frames[view] = opened.number
    error = "" if readable else _nothing_readable(source, scene, reader.skipped)
    return Sample(images, scene, frames, zoomed, reader.tried, tuple(reader.skipped), error)


class _OpenedFrame(NamedTuple):
    """A frame with a readable header, and the box to crop views from; None: the whole frame."""

    number: int
    photograph: Photograph
    region: Box | None


@dataclasses.dataclass
class _ViewReader:
    """Crops views from the frames of one scene, and counts what it tried and skipped.

    Attributes:
      seeds: seed of each view's random crop and flips; None for centred crops.
      tried, skipped: see `Sample`.
    """

    source: PhotographSource
    scene: int
    zoomed: bool
    size: tuple[int, int]
    seeds: np.ndarray | None
    tried: int = 0
    skipped: list[str] = dataclasses.field(default_factory=list)

    def first_readable(self, view: int, candidates: Iterable[int], out: np.ndarray) -> _OpenedFrame | None:
        """Writes a view from the first readable candidate to `out`; returns None if there is none."""
        for number in candidates:
            self.tried += 1
            try:
                opened = self.open(number)
                out[:] = self.crop(view, opened)
                return opened
            except BadImage as error:
                self.skipped.append(str(error))
        return None

    def open(self, number: int) -> _OpenedFrame:
        """Opens a frame; raises `BadImage`."""
        photograph = self.source.open(self.scene, number)
        box = self.source.object_box(self.scene, number) if self.zoomed else None
        region = zoom_region(box, photograph.height, photograph.width) if box else None
        return _OpenedFrame(number, photograph, region)

    def crop(self, view: int, opened: _OpenedFrame) -> np.ndarray:
        """Decodes and crops a view from a frame; raises `BadImage`."""
        if self.seeds is None:
            return centre_view(opened.photograph, self.size)
        rng = np.random.default_rng(self.seeds[view])
        return augment(rng, opened.photograph, self.size, opened.region)


def _nothing_readable(source: PhotographSource, scene: int, skipped: list[str]) -> str:
    name, frames = source.scenes[scene]
    tried = "none of its images" if len(skipped) == len(frames) else f"none of {len(skipped)} tried images"
    return f"scene {name!r} of {source.name} ({source.root}): {tried} can be read, such as {skipped[-1]}"
