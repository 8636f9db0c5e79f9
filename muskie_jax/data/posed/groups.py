"""Chooses which frames of a posed dataset are evaluated together. Equal settings give equal groups.

A group has an anchor frame, which names it, and other frames of its sequence. `choose_groups` documents the
three ways to choose them.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64

from muskie_jax.data.images import BadImage
from muskie_jax.data.overlap import visible_fraction
from muskie_jax.data.posed.frames import Frame, Sequence
from muskie_jax.data.posed.pixels import sample_nearest
from muskie_jax.data.posed.views import Group
from muskie_jax.errors import UserError

OVERLAP_SIDE = 96  # longer side, in pixels, of the depth maps that overlap is computed from
MIN_OVERLAP = 0.05  # the lowest overlap that an error message suggests
SELECTIONS = ("overlap", "consecutive", "rotation")

ReadDepth = Callable[[Frame], np.ndarray]
OverlapOf = Callable[[Sequence, int], Float32[np.ndarray, " frames"]]  # see `RGBDDataset.overlap`


class Choice(NamedTuple):
    """A group as indices of frames in a sequence, the anchor first."""

    sequence: Sequence
    frames: list[int]


def choose_groups(
    sequences: tuple[Sequence, ...],
    views: int,
    select: str,
    *,
    overlap_of: OverlapOf | None,
    key: str,
    every: int = 1,
    max_groups: int = 0,
    group_stride: int = 1,
    overlap: tuple[float, float] = (0.3, 0.9),
    stride: int = 35,
) -> tuple[Group, ...]:
    """Returns groups of `views` frames from the same sequence, evenly spaced over all candidates.

    Args:
      sequences: the dataset's sequences. Those with fewer than `views` frames are ignored.
      views: number of frames per group.
      select: the rule by which frames join an anchor.
        "consecutive": the following frames, if the frame numbers of neighbours differ by at most `stride`.
        "rotation": the frames with the nearest rotations, nearest first.
        "overlap": frames that see a fraction of the anchor's pixels within `overlap`, evenly spaced from
        the largest fraction to the smallest. This reads depth, if there is any.
      overlap_of: function that returns the overlap of a frame with others; None if it is unknown.
      key: path of the dataset's settings, such as `config.posed.kitchen`, for messages.
      every: stride of the frames that were read from the recordings, for messages.
      max_groups: maximum number of groups; 0: all.
      group_stride: only one in this many candidates may become a group. Ignored for "overlap".
      overlap: lowest and highest fraction, for "overlap".
      stride: largest difference between frame numbers, for "consecutive".

    Raises:
      UserError: if there is no group, or depth cannot be read.
    """
    long_enough = [sequence for sequence in sequences if len(sequence.frames) >= views]
    every_frame = [f"{key}.every=1 (now one of every {every} frames is read)"] if every > 1 else []
    if not long_enough:
        longest = max((len(sequence.frames) for sequence in sequences), default=0)
        remedies = [*every_frame, *_fewer_views(longest)]
        advice = f"use {', or '.join(remedies)}" if remedies else "add frames"
        raise UserError(f"no sequence has {views} frames, the longest has {longest}: {advice}")
    if select == "overlap":
        if overlap_of is None:
            others = " or ".join(f"{key}.select={other!r}" for other in SELECTIONS if other != select)
            raise UserError(f"{key}.select='overlap', but the recordings have no depth: use {others}")
        chosen = _choose_by_overlap(long_enough, views, overlap_of, max_groups, *overlap)
    else:
        candidates = [
            Choice(sequence, frames)
            for sequence in long_enough
            for frames in _candidates(sequence, views, select, stride)
        ][::group_stride]
        chosen = [candidates[i] for i in evenly_spaced(len(candidates), max_groups)]
    if chosen:
        return tuple(_group(choice) for choice in chosen)
    if select == "overlap" and overlap_of:
        wanted = f"frames that see {overlap[0]:.0%} to {overlap[1]:.0%} of another"
        has_group = lambda wider: _choose_by_overlap(long_enough, views, overlap_of, 1, *wider)
        wider = next(filter(has_group, _wider(*overlap)), None)
        remedies = [f"{key}.overlap={wider}"] if wider else []
        remedies += [f"{key}.select='consecutive'", *_fewer_views(views - 1)]
    else:  # by rotation, every sequence that is long enough has groups
        wanted = f"frames at most {stride} apart"
        remedies = _remedies_for_gaps(sequences, views, stride, key)
    raise UserError(f"no sequence has {views} {wanted}: use {', or '.join([*every_frame, *remedies])}")


def groups_of_pairs(
    pairs: tuple[tuple[str, str], ...], views: int, key: str, max_groups: int = 0, group_stride: int = 1
) -> tuple[Group, ...]:
    """Returns a group for each listed pair of frames, or for evenly spaced ones.

    Args:
      pairs: see `RGBDDataset.pairs`.
      views, key, max_groups, group_stride: see `choose_groups`.

    Raises:
      UserError: unless `views` is 2.
    """
    if views != 2:
        raise UserError(
            f"groups are listed pairs of views, and config.evaluate.views has {views}: use "
            f"config.evaluate.views=(2,), or choose groups by {key}.select, such as 'rotation'"
        )
    candidates = pairs[::group_stride]
    chosen = [candidates[i] for i in evenly_spaced(len(candidates), max_groups)]
    return tuple(Group(f"{first}-{second.rpartition('/')[2]}", (first, second)) for first, second in chosen)


def _wider(low: float, high: float) -> tuple[tuple[float, float], ...]:
    """Returns ranges of overlap that contain another, to be tried in this order."""
    return (low, 1.0), (min(low, MIN_OVERLAP), high), (min(low, MIN_OVERLAP), 1.0)


def _group(choice: Choice) -> Group:
    names = tuple(f"{choice.sequence.name}/{choice.sequence.frames[i].name}" for i in choice.frames)
    return Group(names[0], names)


def evenly_spaced(count: int, at_most: int) -> list[int]:
    """Returns at most `at_most` (0: all) evenly spaced numbers below `count`, in order."""
    chosen = min(at_most or count, count)
    return [(2 * i + 1) * count // (2 * chosen) for i in range(chosen)]


def _candidates(sequence: Sequence, views: int, select: str, stride: int) -> list[list[int]]:
    if select == "consecutive":
        return _consecutive(sequence, views, stride)
    return _by_rotation(sequence, views)


def _consecutive(sequence: Sequence, views: int, stride: int) -> list[list[int]]:
    numbers = np.array([frame.number for frame in sequence.frames])
    starts = range(len(numbers) - views + 1)
    close = [i for i in starts if (np.diff(numbers[i : i + views]) <= stride).all()]
    return [list(range(i, i + views)) for i in close]


def _remedies_for_gaps(sequences: tuple[Sequence, ...], views: int, stride: int, key: str) -> list[str]:
    """Returns settings that give some sequence a group: a larger stride, or fewer views.

    Some sequence must have `views` frames.
    """
    has_group = lambda views, stride: any(_consecutive(sequence, views, stride) for sequence in sequences)
    gaps = {gap for s in sequences for gap in np.diff([frame.number for frame in s.frames]).tolist()}
    enough = next(gap for gap in sorted(gaps) if has_group(views, gap))
    fewer = next((fewer for fewer in range(views - 1, 1, -1) if has_group(fewer, stride)), 0)
    return [f"{key}.stride={enough}", *_fewer_views(fewer)]


def _fewer_views(views: int) -> list[str]:
    return [f"fewer views, such as config.evaluate.views=({views},)"] if views > 1 else []


def _by_rotation(sequence: Sequence, views: int) -> list[list[int]]:
    rotations = np.stack([frame.world_to_camera[:3, :3] for frame in sequence.frames])
    # The trace of the relative rotation decreases as its angle grows.
    traces = np.einsum("aij,bij->ab", rotations, rotations)
    np.fill_diagonal(traces, np.inf)  # the anchor comes first, also among frames of equal rotation
    return np.argsort(-traces, axis=1, kind="stable")[:, :views].tolist()


def _choose_by_overlap(
    sequences: list[Sequence], views: int, overlap_of: OverlapOf, max_groups: int, low: float, high: float
) -> list[Choice]:
    """Returns groups in order of their anchors.

    Anchors are tried evenly spaced, then more and more densely, until there are enough groups.
    """
    anchors = [(sequence, i) for sequence in sequences for i in range(len(sequence.frames))]
    max_groups = max_groups or len(anchors)
    found = {}
    for number in _progressively_denser(len(anchors), max_groups):
        sequence, anchor = anchors[number]
        fractions = overlap_of(sequence, anchor)
        by_fraction = np.argsort(-fractions, kind="stable").tolist()
        fits = [i for i in by_fraction if low <= fractions[i] <= high and i != anchor]
        if len(fits) >= views - 1:
            others = [fits[i] for i in evenly_spaced(len(fits), views - 1)] if views > 1 else []
            found[number] = Choice(sequence, [anchor, *others])
        if len(found) == max_groups:
            break
    return [found[number] for number in sorted(found)]


def _progressively_denser(count: int, at_most: int) -> dict[int, None]:
    """Returns all numbers below `count`: first `at_most` evenly spaced ones, then more between them."""
    numbers = dict.fromkeys(evenly_spaced(count, at_most))
    while at_most < count:
        at_most *= 2
        numbers |= dict.fromkeys(evenly_spaced(count, at_most))
    return numbers


def overlap_from_depth(read_depth: ReadDepth) -> OverlapOf:
    """Returns a function that measures overlap by depth; it reads all depth maps of a sequence at once.

    Args:
      read_depth: function that returns a frame's depth of the whole image.
    """
    geometry = {}

    def overlap(sequence: Sequence, number: int) -> Float32[np.ndarray, " frames"]:
        if sequence.name not in geometry:
            geometry[sequence.name] = _small_geometry(sequence, read_depth)
        return visible_fraction(number, *geometry[sequence.name])

    return overlap


def _small_geometry(
    sequence: Sequence, read_depth: ReadDepth
) -> tuple[
    list[Float32[np.ndarray, "h w"]], Float64[np.ndarray, "frames 3 3"], Float64[np.ndarray, "frames 4 4"]
]:
    """Returns downsampled depth maps, their intrinsics and world_to_camera, for `visible_fraction`."""
    depths, intrinsics = [], []
    for frame in sequence.frames:
        try:
            depth = read_depth(frame)
        except (UserError, BadImage) as error:
            raise UserError(f"{sequence.name}, {error}") from error
        height, width = depth.shape
        scale = min(1, OVERLAP_SIDE / max(height, width))
        size = max(1, round(scale * height)), max(1, round(scale * width))
        depths.append(sample_nearest(depth, (height, width), (0, 0, width, height), size))
        of_intrinsics = frame.size or (height, width)
        to_small = np.diag([size[1] / of_intrinsics[1], size[0] / of_intrinsics[0], 1])
        intrinsics.append(to_small @ frame.intrinsics)
    return depths, np.stack(intrinsics), np.stack([frame.world_to_camera for frame in sequence.frames])
