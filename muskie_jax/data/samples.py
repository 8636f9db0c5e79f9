"""The views of one group of photographs: which scene and frames, whether zoomed, cropped and flipped."""

import dataclasses
import itertools

import numpy as np

from muskie_jax.data.images import BadImage, Box, Photograph
from muskie_jax.data.objects import zoom_region
from muskie_jax.data.sources import PhotographSource
from muskie_jax.data.views import augment, centre_view
from muskie_jax.errors import UserError

STAND_INS = 16  # frames tried in the place of unreadable ones, before views repeat


@dataclasses.dataclass
class Sample:
    """What was drawn from a source.

    Attributes:
      images: uint8 (views, height, width, 3).
      scene, frames, zoomed: what they show: the scene's number and the frames' numbers in it.
      tried: images that were opened, or should have been.
      skipped: messages on those that could not be read; a frame that was not drawn took the place of
        each, or another of the views where there was none.
      error: a message, if the sample could not be made; empty if it was.
    """

    images: np.ndarray
    scene: int
    frames: list[int]
    zoomed: bool
    tried: int
    skipped: tuple[str, ...]
    error: str


def draw_sample(
    rng: np.random.Generator, source: PhotographSource, views: int, size: tuple[int, int], augmented: bool
) -> Sample:
    """Draws a scene uniformly, frames of it, and each view's own crop and flips.

    Args:
      rng: the sample is a function of it, and of the files.
      views: how many.
      size: (height, width) of each.
      augmented: crop and flip at random, and zoom; otherwise the largest centred crop.
    """
    scene = int(rng.integers(len(source.scenes)))
    sample = Sample(np.zeros((views, *size, 3), np.uint8), scene, [], False, 0, (), "")
    try:
        frames, spare = source.draw(rng, scene, views)
    except UserError as error:
        sample.error = str(error)
        return sample
    sample.zoomed = augmented and rng.random() < source.zoom
    # A view draws from a generator of its own: an unreadable file changes no other view.
    seeds = rng.integers(2**63, size=views)
    spare, missing, skipped = iter(spare[:STAND_INS]), [], []

    def crop(view: int, photograph: Photograph, region: Box | None) -> None:
        if augmented:
            pixels = augment(np.random.default_rng(seeds[view]), photograph, size, region)
        else:
            pixels = centre_view(photograph, size)
        sample.images[view] = pixels

    good: list[tuple[int, Photograph, Box | None]] = []
    sample.frames = list(map(int, frames))
    for view, drawn in enumerate(sample.frames):
        for frame in itertools.chain([drawn], map(int, spare)):
            sample.tried += 1
            try:
                photograph = source.open(scene, frame)
                region = _region(source, scene, frame, photograph) if sample.zoomed else None
                crop(view, photograph, region)
            except BadImage as error:
                skipped.append(str(error))
            else:
                good.append((frame, photograph, region))
                sample.frames[view] = frame
                break
        else:
            missing.append(view)
    for view, (frame, photograph, region) in zip(missing, itertools.cycle(good)):
        crop(view, photograph, region)
        sample.frames[view] = frame
    if not good:
        sample.error = _nothing_readable(source, scene, skipped)
    sample.skipped = tuple(skipped)
    return sample


def _region(source: PhotographSource, scene: int, frame: int, photograph: Photograph) -> Box | None:
    """The box of the object in a photograph, grown; None where there is none."""
    box = source.object_box(scene, frame)
    return box and zoom_region(box, photograph.height, photograph.width)


def _nothing_readable(source: PhotographSource, scene: int, skipped: list[str]) -> str:
    name, frames = source.scenes[scene]
    tried = "none of its images" if len(skipped) == len(frames) else f"none of {len(skipped)} images tried"
    return f"scene {name!r} of {source.name} ({source.root}): {tried} can be read, such as {skipped[-1]}"
