"""Whose views help to reconstruct whose: targets, their contexts, distractors and masks.

The first view of a group is its *target*. The others are its *context*, in an order drawn from the
group's label; a context of fewer views has the first of these. A target is also given the context of a
*distractor*, a group of another scene, view for view in the places of its own. What is hidden is drawn from
the target's label: of the target and of each place in its context. Nothing here depends on a network or
on what else is evaluated with it.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from muskie_jax.data.overlap import visible_fraction
from muskie_jax.data.posed.views import Group, PosedViews
from muskie_jax.errors import UserError
from muskie_jax.masking import MODES, Grid

Key = tuple[str, int]  # name of a set, number of a group in it


class ViewSet(Protocol):
    """Groups of views: a `PosedSet`, or one whose geometry is not known.

    `load` gives `PosedViews`, or anything that has but `images`, uint8 (V, H, W, 3).
    """

    name: str
    groups: tuple[Group, ...]
    parallel: bool

    def load(self, number: int, size: tuple[int, int]) -> Any: ...


class Targets(NamedTuple):
    """What is evaluated of a set.

    Attributes:
      views: the numbers of views, smallest first, that all these groups have.
      groups: numbers of the groups.
      distractors: of each group; empty where there is but one number of views, 1, or one scene in all.
    """

    views: tuple[int, ...]
    groups: tuple[int, ...]
    distractors: tuple[Key, ...]


def choose_targets(sets: Sequence[ViewSet], views: Sequence[int], groups: int) -> dict[str, Targets]:
    """Targets and distractors by name of the set.

    The points of a curve are about the same targets, so they are taken from the groups that have as many
    views as the largest number asked for that half of the set's groups have.

    Args:
      sets: with groups.
      views: numbers of views, the target included.
      groups: of each set at most, evenly spaced.

    Raises:
      UserError: if a set is empty, or has too few views.
    """
    usable, chosen = {}, {}
    for one in sets:
        counts = sorted(len(group.frames) for group in one.groups)
        if not counts:
            raise UserError(f"{one.name} has no groups of views to reconstruct")
        common = counts[(len(counts) - 1) // 2]
        usable[one.name] = tuple(count for count in sorted(set(views)) if count <= common)
        if not usable[one.name]:
            raise UserError(
                f"config.evaluate.reconstruction.views={tuple(views)}, but groups of {one.name} have "
                f"{common} views: write a number up to {common}"
            )
        enough = [i for i, group in enumerate(one.groups) if len(group.frames) >= usable[one.name][-1]]
        count = min(groups, len(enough))
        chosen[one.name] = tuple(enough[i * len(enough) // count] for i in range(count))
    labels = {one.name: [group.label for group in one.groups] for one in sets}
    lengths = {one.name: [len(group.frames) for group in one.groups] for one in sets}
    targets = {}
    for name, numbers in chosen.items():
        most = usable[name][-1]
        fitting = {
            other: [number for number in those if lengths[other][number] >= most]
            for other, those in chosen.items()
        }
        found = [distractor_of(name, number, fitting, labels) for number in numbers] if most > 1 else []
        distractors = tuple(key for key in found if key)
        targets[name] = Targets(
            usable[name], numbers, distractors if len(distractors) == len(numbers) else ()
        )
    return targets


def distractor_of(
    name: str, number: int, groups: Mapping[str, Sequence[int]], labels: Mapping[str, Sequence[str]]
) -> Key | None:
    """A group that shows another scene; None if there is none.

    It is one of the same set whose label shares the fewest leading folders with that of the target. Where
    all share them, as groups of one sequence do, it is one of another set.

    Args:
      name, number: the target.
      groups: by set, those that may be chosen, the target among them.
      labels: by set, of all groups.
    """

    def folders(other: int) -> list[str]:
        *above, last = labels[name][other].split("/")
        return above or [last]

    position = groups[name].index(number)
    candidates = [(name, other) for other in groups[name] if other != number]
    alike = lambda other: zip(folders(number), folders(other))
    same = lambda pair: pair[0] == pair[1]
    shared = {key: len([*itertools.takewhile(same, alike(key[1]))]) for key in candidates}
    least = min(shared.values(), default=len(folders(number)))
    if least < len(folders(number)):
        candidates = [key for key in candidates if shared[key] == least]
    else:
        candidates = [(other, i) for other, numbers in groups.items() if other != name for i in numbers]
    if not candidates:
        return None
    return candidates[(position + len(candidates) // 2) % len(candidates)]


def _generator(*texts: str) -> np.random.Generator:
    """A stream of its own for every purpose and label."""
    return np.random.default_rng(list("\0".join(texts).encode()))


def view_order(group: Group) -> np.ndarray:
    """The target's number and then those of its context, int (V,)."""
    context = 1 + _generator("context", group.label).permutation(len(group.frames) - 1)
    return np.concatenate([[0], context])


def draw_masks(label: str, views: int, grid: Grid, mode: str, ratio: float) -> np.ndarray:
    """What is hidden of a target and its context, bool (views, L), where no view stays whole.

    Fewer views have the masks of the first of more, and a random mask is part of one of a larger ratio.
    """
    rng = _generator("masks", label)
    return np.stack([MODES[mode](rng, grid, ratio, 1).ravel() for _ in range(views)])


def seen_by_context(views: Any, order: np.ndarray) -> np.ndarray:
    """The share of the target that each view of its context sees, float (V - 1,); nan if not known.

    It is known where depth and cameras are: of the target's pixels that have depth.
    """
    if not isinstance(views, PosedViews):
        return np.full(len(order) - 1, np.nan, np.float32)
    depth, intrinsics, poses = (x[order] for x in (views.depth, views.intrinsics, views.world_to_camera))
    shares = visible_fraction(0, list(depth), intrinsics, poses)
    # A view that does not even see itself has no depth.
    return np.where(shares[0] > 0, shares[1:], np.nan)


def arrange(target: np.ndarray, context: np.ndarray, references: int) -> np.ndarray:
    """Reference views, the target, then the other views: as in training, the whole ones come first.

    Args:
      target: (...), something of the target.
      context: (views - 1, ...), the same of its context.

    Returns:
      (views, ...), with the target at number `references`.
    """
    return np.concatenate([context[:references], target[None], context[references:]])
