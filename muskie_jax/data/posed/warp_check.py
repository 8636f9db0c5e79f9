"""Checks that depth and cameras fit the images, by warping views into each other.

Geometry that fits brings the points of one view to the same depth and colour in another. The check
measures this with the geometry as it was read, without it, and under the usual mistakes: camera axes of
OpenGL or OpenCV, inverted poses, and a wrong unit of depth. The geometry is refused if one of these fits
clearly better on most pairs of views. It is not refused if views do not overlap, or if the camera hardly
moves, since then nothing can be measured.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from muskie_jax.data.depth import natural_unit
from muskie_jax.data.images import BadImage
from muskie_jax.data.posed.frames import OPENGL, Frame, RGBDDataset, Sequence
from muskie_jax.data.posed.groups import evenly_spaced
from muskie_jax.data.posed.headers import image_size
from muskie_jax.data.posed.pixels import load_view
from muskie_jax.data.posed.views import PosedViews
from muskie_jax.data.posed.warp import (
    Agreement,
    Pairs,
    agreement,
    chance_depth,
    make_pairs,
    relative_poses,
)
from muskie_jax.errors import UserError

SIDE = 160  # longer side of the views that are warped, pixels
STEPS = (0, 1, 2, 4, 8, 16, 32)  # offsets of a clip's frames, for small to large camera motion
SHORT = 10  # a sequence of at most this many frames is one clip
CLIPS = 2, 4  # minimum and maximum number of clips per sequence
MAX_CLIPS = 8  # clips of all sequences together; each sequence has at least CLIPS[0]
MAX_SEQUENCES = 8  # sequences that are checked, evenly spaced
THREADS = 8
# Factors on depth that are tried. A factor between 0.63 and 1.6 is not taken for a wrong unit.
EXPONENTS = np.array([-3.7, -3, -2, *np.arange(-10, -1) / 10, *np.arange(2, 11) / 10, 2, 3, 3.7])
COLOUR_WEIGHT = 0.5  # weight of the agreement of colours; that of depth is 1
MARGIN = 0.05  # mean difference of scores that refuses a geometry
MIN_WINS = 0.6  # fraction of pairs on which the other geometry must be better
MIN_PAIRS = 6  # pairs that must differ by more than NOISE
NOISE = 0.01
FITTING_DEPTH = 0.4  # a pair fits if its depth agrees by this much better than random points
MIN_FITTING = 0.5  # fraction of pairs that must fit under another hypothesis
MIN_FLOATING = 0.08  # fraction of points in front of surfaces that refuses a geometry if no other fits
MAX_UNFITTING = 0.1  # a geometry that fits at most this fraction of pairs is refused even if no other fits


class Hypothesis(NamedTuple):
    """What may be wrong with a geometry.

    Attributes:
      inverted: whether poses are the inverse of what was expected.
      flipped: whether camera axes are OpenGL's where OpenCV's were expected, or the reverse.
      scale: factor by which depth must be multiplied.
      moves: False for no geometry at all: each point stays at its pixel.
    """

    inverted: bool = False
    flipped: bool = False
    scale: float = 1.0
    moves: bool = True


GIVEN = Hypothesis()
STILL = Hypothesis(moves=False)
POSES = tuple(Hypothesis(inverted, flipped) for inverted in (False, True) for flipped in (False, True))


class WarpReport(NamedTuple):
    """How well the geometry of a sequence fits its images.

    Attributes:
      name: name of the sequence.
      frames: names of the frames that were loaded.
      depth_unit: metres per step of its depth maps; 0 if they have no steps.
      views: these frames, at a small size.
      pairs: the pairs of views that were warped.
      given, still: agreement of each pair with the geometry, and without.
      best: the hypothesis to believe: GIVEN unless another fits clearly better.
    """

    name: str
    frames: tuple[str, ...]
    depth_unit: float
    views: PosedViews
    pairs: Pairs
    given: Agreement
    still: Agreement
    best: Hypothesis


def examine_dataset(dataset: RGBDDataset) -> Iterator[WarpReport]:
    """Yields reports on at most MAX_SEQUENCES sequences; without depth, yields nothing."""
    if not dataset.has_depth:
        return
    long_enough = [each for each in dataset.sequences if len(each.frames) > 1]
    chosen = [long_enough[number] for number in evenly_spaced(len(long_enough), MAX_SEQUENCES)]
    min_clips, max_clips = CLIPS
    clips = min(max(MAX_CLIPS // max(len(chosen), 1), min_clips), max_clips)
    for sequence in chosen:
        report = examine(sequence, dataset, clips)
        if report:
            yield report


def examine(sequence: Sequence, dataset: RGBDDataset, count: int = CLIPS[1]) -> WarpReport | None:
    """Returns the report on `count` clips of a sequence; None without two readable views."""
    clips = choose_clips(len(sequence.frames), count)
    loaded = load_small(sequence, dataset, sorted({i for clip in clips for i in clip}))
    if loaded is None:
        return None
    numbers, views = loaded
    frames = [sequence.frames[i] for i in numbers]
    clips = [[numbers.index(i) for i in clip if i in numbers] for clip in clips]
    names = tuple(frame.name for frame in frames)
    return examine_views(sequence.name, names, views, clips, _depth_unit(frames[0]))


def _depth_unit(frame: Frame) -> float:
    """Returns metres per step of the depth map; 0 if its format has no steps, as COLMAP's dense depth."""
    if frame.depth is None or frame.depth.suffix == ".bin":
        return 0.0
    return frame.depth_unit or natural_unit(frame.depth)


def examine_views(
    name: str,
    frames: tuple[str, ...],
    views: PosedViews,
    clips: Iterable[Iterable[int]],
    depth_unit: float = 0.0,
) -> WarpReport | None:
    """Warps views into each other, all pairs of each clip; None if there is no pair. See `WarpReport`."""
    pairs = make_pairs(views, clips)
    if not len(pairs.first):
        return None
    given, still = (agreement(pairs, hypothetical(views, pairs, each)) for each in (GIVEN, STILL))
    return WarpReport(name, frames, depth_unit, views, pairs, given, still, best_hypothesis(views, pairs))


def choose_clips(frames: int, count: int) -> list[list[int]]:
    """Returns at most `count` clips, as indices of frames. The gaps between a clip's frames grow."""
    if frames <= SHORT:
        return [list(range(frames))]
    steps = [step for step in STEPS if step < frames]
    starts = np.unique(np.linspace(0, frames - 1 - steps[-1], count).astype(int))
    return [[int(start) + step for step in steps] for start in starts]


def load_small(
    sequence: Sequence, dataset: RGBDDataset, numbers: list[int], side: int = SIDE
) -> tuple[list[int], PosedViews] | None:
    """Returns the readable frames among `numbers`, and their views at one size; None if there are none.

    Args:
      sequence: a sequence of the dataset.
      dataset: the dataset.
      numbers: indices of frames.
      side: longer side of the views, pixels.
    """

    def load(frame: Frame):
        try:
            return load_view(frame, size, dataset)
        except (BadImage, UserError):  # files of the groups that are evaluated are checked elsewhere
            return None

    size = next(filter(None, (_small_size(sequence.frames[i], dataset, side) for i in numbers)), (1, 1))
    with ThreadPoolExecutor(THREADS) as threads:
        loaded = list(threads.map(load, (sequence.frames[i] for i in numbers)))
    kept = [(i, view) for i, view in zip(numbers, loaded) if view is not None]
    if not kept:
        return None
    indices = [i for i, _ in kept]
    images, depth, intrinsics = map(np.stack, zip(*(view for _, view in kept)))
    poses = np.stack([sequence.frames[i].world_to_camera for i in indices])
    return indices, PosedViews(images, depth, depth > 0, intrinsics, poses)


def _small_size(frame: Frame, dataset: RGBDDataset, side: int) -> tuple[int, int] | None:
    try:
        height, width = image_size(frame.image, dataset.upright)
    except BadImage:
        return None
    scale = min(1, side / max(height, width))
    return max(1, round(scale * height)), max(1, round(scale * width))


def hypothetical(views: PosedViews, pairs: Pairs, hypothesis: Hypothesis) -> Float[np.ndarray, "P 4 4"]:
    """Returns the poses of the pairs under a hypothesis, in units of the depth as it was read."""
    if not hypothesis.moves:
        return np.broadcast_to(np.eye(4), (len(pairs.first), 4, 4))
    poses = views.world_to_camera
    if hypothesis.inverted:
        poses = np.linalg.inv(poses)
    if hypothesis.flipped:
        poses = OPENGL @ poses
    relative = relative_poses(poses, pairs.first, pairs.second)
    relative[:, :3, 3] /= hypothesis.scale
    return relative


class Fit(NamedTuple):
    """How well the pairs of views fit under a hypothesis.

    Attributes:
      scores: agreement of depth and colours per pair; NaN if the views do not see each other.
      fitting: fraction of the pairs that see each other whose depth fits; NaN if there are fewer than
        MIN_PAIRS.
      floating: mean fraction of points that float in front of surfaces; NaN in the same case.
    """

    scores: Float[np.ndarray, " P"]
    fitting: float
    floating: float


def fit(views: PosedViews, pairs: Pairs, hypothesis: Hypothesis, chance: Float[np.ndarray, " P"]) -> Fit:
    """Measures a hypothesis; `chance` is the agreement of depth between random points."""
    found = agreement(pairs, hypothetical(views, pairs, hypothesis))
    seen = np.isfinite(found.depth)
    fits = (found.depth - chance)[seen] > FITTING_DEPTH
    mean = lambda x: float(x.mean()) if len(x) >= MIN_PAIRS else float("nan")
    return Fit(found.depth + COLOUR_WEIGHT * found.colour, mean(fits), mean(found.floating[seen]))


def gain(
    other: Float[np.ndarray, " P"],
    given: Float[np.ndarray, " P"],
    if_unseen: tuple[Float[np.ndarray, " P"], Float[np.ndarray, " P"]],
) -> float:
    """Returns by how much `other` fits better on average; minus infinity unless it does on most pairs.

    Args:
      other, given: scores of two hypotheses.
      if_unseen: scores of pairs whose views do not see each other under one of the two hypotheses.
    """
    seen = ~(np.isnan(other) & np.isnan(given))
    scores = (np.where(np.isnan(each), unseen, each) for each, unseen in zip((other, given), if_unseen))
    difference = np.subtract(*scores)[seen]
    decided = difference[np.abs(difference) > NOISE]
    if len(decided) < MIN_PAIRS or (decided > 0).mean() < MIN_WINS:
        return -np.inf
    return float(difference.mean())


def best_hypothesis(views: PosedViews, pairs: Pairs) -> Hypothesis:
    """Returns the hypothesis that clearly fits better than the geometry as it was read.

    Without one, returns STILL if the images contradict the geometry, otherwise GIVEN.
    """
    chance = chance_depth(pairs)
    given, still = (fit(views, pairs, each, chance) for each in (GIVEN, STILL))
    # In doubt, the geometry is taken to be right.
    if_unseen = chance, np.fmax(chance, still.scores)
    gains: dict[Hypothesis, float] = {}
    for each in (*POSES[1:], *(Hypothesis(scale=float(10.0**exponent)) for exponent in EXPONENTS)):
        other = fit(views, pairs, each, chance)
        fits = other.fitting >= MIN_FITTING
        gains[each] = gain(other.scores, given.scores, if_unseen) if fits else -np.inf
    best = max(gains, key=gains.__getitem__)
    if gains[best] >= MARGIN:
        return best
    if not given.floating >= MIN_FLOATING:  # views may overlap too little to fit
        return GIVEN
    # Without geometry, all pairs see each other. Only those that the geometry relates can contradict it.
    still_where_seen = np.where(np.isnan(given.scores), np.nan, still.scores)
    worse_than_still = gain(still_where_seen, given.scores, if_unseen) >= MARGIN
    return STILL if worse_than_still or given.fitting <= MAX_UNFITTING else GIVEN
