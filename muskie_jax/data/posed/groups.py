"""Which frames of a posed dataset are evaluated together: always the same for the same settings.

A group has a first frame, by which it is called, and others of its sequence. There are three ways to
choose them, see `choose_groups`.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from muskie_jax.data.images import BadImage
from muskie_jax.data.overlap import visible_fraction
from muskie_jax.data.posed.frames import Frame, Sequence
from muskie_jax.data.posed.pixels import sample_nearest
from muskie_jax.data.posed.views import Group
from muskie_jax.errors import UserError

SMALL = 96  # longer side of the depth maps from which overlap is known, pixels
SELECTIONS = ("overlap", "consecutive", "rotation")

ReadDepth = Callable[[Frame], np.ndarray]


class Choice(NamedTuple):
    """A group, as numbers of frames of a sequence; its first frame first."""

    sequence: Sequence
    frames: list[int]


def choose_groups(
    sequences: tuple[Sequence, ...],
    views: int,
    select: str,
    *,
    read_depth: ReadDepth,
    key: str,
    every: int = 1,
    most: int = 0,
    one_in: int = 1,
    overlap: tuple[float, float] = (0.3, 0.9),
    stride: int = 35,
) -> tuple[Group, ...]:
    """Groups of `views` frames of a sequence, evenly spread over all that there could be.

    Args:
      sequences: those of fewer than `views` frames are left out.
      select: how a group is found for a first frame.
        "consecutive": those that come next, none more than `stride` numbers after the one before;
        "rotation": those whose rotations are nearest to the first one's, the nearest first;
        "overlap": of those that see a share of the first one's pixels within `overlap`, some from the
        largest share to the smallest, evenly spread. Depth is read for that.
      read_depth: see `Recordings`; what it raises is said of the sequence.
      key: of the dataset's settings, such as `config.posed.kitchen`, for messages.
      every: so many frames of the recordings, one is there at all; for messages.
      most: groups, at most; 0: all.
      one_in: of all possible groups, only every so many is a candidate (not for "overlap").

    Raises:
      UserError: if there is none, or depth is read, and cannot be.
    """
    long = [sequence for sequence in sequences if len(sequence.frames) >= views]
    thinned = [f"{key}.every=1 (now one of every {every} frames is read)"] if every > 1 else []
    if not long:
        longest = max((len(sequence.frames) for sequence in sequences), default=0)
        mends = [*thinned, *_fewer(longest)]
        advice = f"write {', or '.join(mends)}" if mends else "add frames"
        raise UserError(f"no sequence has {views} frames, the longest has {longest}: {advice}")
    if select == "overlap":
        chosen = list(_overlapping(long, views, read_depth, most, *overlap))
        wanted = f"frames that see {overlap[0]:.0%} to {overlap[1]:.0%} of another"
        mends = [f"a wider {key}.overlap", f"{key}.select='consecutive'", *_fewer(views - 1)]
    else:
        find = {
            "consecutive": lambda sequence: _consecutive(sequence, views, stride),
            "rotation": lambda sequence: _by_rotation(sequence, views),
        }[select]
        possible = [Choice(sequence, frames) for sequence in long for frames in find(sequence)][::one_in]
        chosen = [possible[i] for i in spread(len(possible), most)]
        wanted = f"frames at most {stride} apart"
        mends = [] if chosen else _consecutive_mends(sequences, views, stride, key)
    if not chosen:
        raise UserError(f"no sequence has {views} {wanted}: write {', or '.join([*thinned, *mends])}")
    return tuple(_group(choice) for choice in chosen)


def _group(choice: Choice) -> Group:
    names = tuple(f"{choice.sequence.name}/{choice.sequence.frames[i].name}" for i in choice.frames)
    return Group(names[0], names)


def spread(count: int, most: int) -> list[int]:
    """Of the numbers below `count`, at most `most` (0: all) in order, evenly spread."""
    most = min(most or count, count)
    return [(2 * i + 1) * count // (2 * most) for i in range(most)]


def _consecutive(sequence: Sequence, views: int, stride: int) -> list[list[int]]:
    numbers = np.array([frame.number for frame in sequence.frames])
    starts = range(len(numbers) - views + 1)
    near = [i for i in starts if (np.diff(numbers[i : i + views]) <= stride).all()]
    return [list(range(i, i + views)) for i in near]


def _consecutive_mends(sequences: tuple[Sequence, ...], views: int, stride: int, key: str) -> list[str]:
    """What to write where no `views` frames are consecutive, though some sequence has as many."""
    has = lambda views, stride: any(_consecutive(sequence, views, stride) for sequence in sequences)
    gaps = {gap for s in sequences for gap in np.diff([frame.number for frame in s.frames]).tolist()}
    enough = next(gap for gap in sorted(gaps) if has(views, gap))
    fewer = next((fewer for fewer in range(views - 1, 1, -1) if has(fewer, stride)), 0)
    return [f"{key}.stride={enough}", *_fewer(fewer)]


def _fewer(views: int) -> list[str]:
    return [f"fewer views, such as config.evaluate.views=({views},)"] if views > 1 else []


def _by_rotation(sequence: Sequence, views: int) -> list[list[int]]:
    rotations = np.stack([frame.world_to_camera[:3, :3] for frame in sequence.frames])
    # The trace of the relative rotation falls as its angle grows.
    traces = np.einsum("aij,bij->ab", rotations, rotations)
    np.fill_diagonal(traces, np.inf)  # of frames that are turned alike, the anchor is the first
    return np.argsort(-traces, axis=1, kind="stable")[:, :views].tolist()


def _overlapping(
    sequences: list[Sequence], views: int, read_depth: ReadDepth, most: int, low: float, high: float
) -> Iterator[Choice]:
    """Groups in order. First frames are tried evenly spread, then ever more densely, until enough work."""
    anchors = [(sequence, i) for sequence in sequences for i in range(len(sequence.frames))]
    most = most or len(anchors)
    small, found = {}, {}
    for number in _ever_denser(len(anchors), most):
        sequence, first = anchors[number]
        if sequence.name not in small:
            small[sequence.name] = _small_geometry(sequence, read_depth)
        shares = visible_fraction(first, *small[sequence.name])
        fits = [i for i in np.argsort(-shares, kind="stable") if low <= shares[i] <= high and i != first]
        if len(fits) >= views - 1:
            found[number] = Choice(sequence, [first, *(fits[i] for i in _some(len(fits), views - 1))])
        if len(found) == most:
            break
    return (found[number] for number in sorted(found))


def _some(count: int, wanted: int) -> list[int]:
    return spread(count, wanted) if wanted else []


def _ever_denser(count: int, most: int) -> dict[int, None]:
    """All numbers below `count`: first `most` of them, evenly spread, then twice as many, and so on."""
    numbers = dict.fromkeys(spread(count, most))
    while most < count:
        most *= 2
        numbers |= dict.fromkeys(spread(count, most))
    return numbers


def _small_geometry(
    sequence: Sequence, read_depth: ReadDepth
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Depth maps of a sequence made small, their intrinsics, and poses, as `visible_fraction` has them."""
    depths, intrinsics = [], []
    for frame in sequence.frames:
        try:
            depth = read_depth(frame)
        except (UserError, BadImage) as error:
            raise UserError(f"{sequence.name}, {error}") from error
        height, width = depth.shape
        size = tuple(max(1, round(side * min(1, SMALL / max(depth.shape)))) for side in depth.shape)
        depths.append(sample_nearest(depth, depth.shape, (0, 0, width, height), size))
        seen_at = frame.size or depth.shape
        scale = np.diag([size[1] / seen_at[1], size[0] / seen_at[0], 1])
        intrinsics.append(scale @ frame.intrinsics)
    return depths, np.stack(intrinsics), np.stack([frame.world_to_camera for frame in sequence.frames])
