"""Recordings with depth and cameras as training sources: draws groups of views near each other in time."""

import dataclasses
import functools
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict

from muskie_jax.data.images import BadImage
from muskie_jax.data.posed.crops import random_crop
from muskie_jax.data.posed.dataset import read_posed
from muskie_jax.data.posed.frames import RGBDDataset, Sequence
from muskie_jax.data.posed.pixels import load_view
from muskie_jax.data.posed.warp_refusal import check_geometry
from muskie_jax.data.scenes import held_out_numbers
from muskie_jax.errors import UserError

TRIES = 16  # frames that are tried in place of one that cannot be read


@dataclasses.dataclass(frozen=True, eq=False)
class RecordedSource:
    """Sequences of frames with depth and cameras.

    Attributes:
      name: the source's name in the config.
      dataset: how files are read.
      sequences: the sequences to draw from.
      window: number of frames before the first view's frame that other views are drawn from, and after it.
      weight: probability of drawing the source, relative to the other sources.
    """

    name: str
    dataset: RGBDDataset
    sequences: tuple[Sequence, ...]
    window: int
    weight: float = 1.0


class RecordedSample(NamedTuple):
    """Views drawn from a sequence: see `muskie_jax.data.loads.PhotoGroup`."""

    name: str
    images: UInt8[np.ndarray, "views height width 3"]
    tried: int
    skipped: tuple[str, ...]
    error: str
    geometry: tuple[np.ndarray, ...]


def split_recordings(
    name: str, source: ConfigDict, data_root: str
) -> tuple[RecordedSource, RecordedSource, list[str]]:
    """Opens a source: returns its training part, its held-out part, and notes for the user.

    If no sequence can be held out, both parts are the same object.

    Args:
      name: the source's name in the config.
      source: its settings.
      data_root: folder that a relative root starts from.

    Raises:
      UserError: if files are missing or cannot be parsed, there is no depth, or depth and cameras do not
        fit the images.
    """
    path = f"config.sources.{name}"
    dataset = read_posed(name, source, data_root, path)
    if not dataset.has_depth or not dataset.sequences:
        raise UserError(f"{path}: the recordings in {source.root} have no depth, which training needs")
    check_geometry(name, source, dataset, path)
    every = dataset.sequences
    held = held_out_numbers(len(every), source.holdout)
    part = lambda wanted: RecordedSource(
        name,
        dataset,
        tuple(each for i, each in enumerate(every) if (i in held) == wanted),
        source.window,
        source.weight,
    )
    seen = part(False)
    unseen = part(True) if held else seen
    frames = sum(len(sequence.frames) for sequence in every)
    count = f"{len(every)} sequence{'s' * (len(every) != 1)}"
    held_out = f"{len(held)} of them held out" if held else "none held out"
    return seen, unseen, [f"{name}: {count} ({held_out}), {frames} frames in {source.root}"]


def draw_recorded(
    rng: np.random.Generator,
    source: RecordedSource,
    views: int,
    size: tuple[int, int],
    augmented: bool,
) -> RecordedSample:
    """Draws a sequence, a frame of it, and other frames around this one; then each view's own crop.

    A frame that cannot be read is replaced by another one of the window.

    Args:
      rng: the generator. The sample is a function of its state and of the files.
      source: the source to draw from.
      views: number of views.
      size: (height, width) of each view.
      augmented: whether to crop at random. Otherwise each view is the largest centred crop of its frame.
    """
    sequence = source.sequences[int(rng.integers(len(source.sequences)))]
    numbers = draw_frames(rng, len(sequence.frames), views, source.window)
    # Each view has a generator of its own, so that an unreadable file does not change other views.
    seeds = rng.integers(2**63, size=views)
    read, skipped, tried = [], [], 0
    for number, seed in zip(numbers, seeds):
        of_view = np.random.default_rng(seed)
        for attempt in range(TRIES):
            if attempt:
                number = draw_frames(of_view, len(sequence.frames), 2, source.window, int(numbers[0]))[1]
            frame, tried = sequence.frames[int(number)], tried + 1
            crop = functools.partial(random_crop, of_view, size=size) if augmented else None
            try:
                read.append((*load_view(frame, size, source.dataset, crop), frame.world_to_camera))
                break
            except BadImage as error:
                skipped.append(str(error))
            except UserError as error:
                return _failed(sequence.name, views, size, tried, skipped, f"{source.name}: {error}")
        else:
            error = (
                f"sequence {sequence.name!r} of {source.name}: none of {TRIES} frames can be read, such as "
            )
            return _failed(sequence.name, views, size, tried, skipped, error + skipped[-1])
    images, depth, intrinsics, poses = (np.stack(arrays) for arrays in zip(*read))
    geometry = (depth, intrinsics.astype(np.float32), poses.astype(np.float32))
    return RecordedSample(sequence.name, images, tried, tuple(skipped), "", geometry)


def draw_frames(
    rng: np.random.Generator, count: int, views: int, window: int, first: int | None = None
) -> Int[np.ndarray, " views"]:
    """Returns the numbers of `views` frames: one of all `count`, then others around it, with repetition.

    Frame a is followed by frames of [a - window, a + window), as published.

    Args:
      rng: the generator.
      count: number of frames of the sequence.
      views: number of frames to draw.
      window: see above.
      first: the first frame; None draws it.
    """
    anchor = int(rng.integers(count)) if first is None else first
    others = rng.integers(max(0, anchor - window), min(count, anchor + window), size=views - 1)
    return np.array([anchor, *others])


def _failed(name, views, size, tried, skipped, error) -> RecordedSample:
    geometry = (
        np.zeros((views, *size), np.float32),
        np.zeros((views, 3, 3), np.float32),
        np.zeros((views, 4, 4), np.float32),
    )
    return RecordedSample(
        name, np.zeros((views, *size, 3), np.uint8), tried, tuple(skipped), error, geometry
    )
