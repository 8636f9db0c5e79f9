"""Chooses targets to reconstruct, their context views, distractors and masks.

The first view of a group is its *target*. The other views are its *context*, in an order drawn from the
group's seed; a smaller context is a prefix of a larger one. A target is also reconstructed with the
context of a *distractor*: a group of another scene. Its views replace the target's context one by one.
Masks of the target and of each context position are drawn from the target's seed. Nothing here depends on
the network or on what else is evaluated.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float, Int

from muskie_jax.data.overlap import visible_fraction
from muskie_jax.data.posed.views import Group, PosedViews
from muskie_jax.errors import UserError
from muskie_jax.masking import MODES, Grid

GroupKey = tuple[str, int]  # set name, index of a group in the set


class ViewSet(Protocol):
    """Groups of views: a `PosedSet`, or a set without depth and cameras.

    `load` returns `PosedViews`, or any object with `images`, uint8 (V, H, W, 3).
    """

    name: str
    groups: tuple[Group, ...]
    parallel: bool

    def load(self, number: int, size: tuple[int, int]) -> Any: ...


class Targets(NamedTuple):
    """The targets of one set.

    Attributes:
      views: view counts to evaluate, ascending; every group has at least the largest.
      groups: indices of the groups.
      distractors: one per group. Empty if the only view count is 1, or if there is only one scene.
    """

    views: tuple[int, ...]
    groups: tuple[int, ...]
    distractors: tuple[GroupKey, ...]


def choose_targets(sets: Sequence[ViewSet], views: Sequence[int], groups: int) -> dict[str, Targets]:
    """Returns targets and distractors by set name.

    All points of a curve use the same targets. The largest view count is therefore the largest requested
    one that at least half of the set's groups have. Smaller groups are left out.

    Args:
      sets: sets with at least one group each.
      views: view counts, including the target.
      groups: maximum number of targets per set; they are evenly spaced.

    Raises:
      UserError: if a set is empty, or has too few views.
    """
    labels = {each.name: [group.label for group in each.groups] for each in sets}
    num_views = {each.name: [len(group.frames) for group in each.groups] for each in sets}
    usable = {name: _usable_views(name, counts, views) for name, counts in num_views.items()}
    chosen: dict[str, tuple[int, ...]] = {}
    for name, counts in num_views.items():
        large_enough = [i for i, count in enumerate(counts) if count >= usable[name][-1]]
        count = min(groups, len(large_enough))
        chosen[name] = tuple(large_enough[i * len(large_enough) // count] for i in range(count))
    targets = {}
    for name, numbers in chosen.items():
        most = usable[name][-1]
        candidates = {
            other: [number for number in theirs if num_views[other][number] >= most]
            for other, theirs in chosen.items()
        }
        found = [distractor_of(name, number, candidates, labels) for number in numbers] if most > 1 else []
        distractors = tuple(key for key in found if key)
        targets[name] = Targets(
            usable[name], numbers, distractors if len(distractors) == len(numbers) else ()
        )
    return targets


def _usable_views(name: str, counts: Sequence[int], views: Sequence[int]) -> tuple[int, ...]:
    """Returns the requested view counts that at least half of a set's groups have, ascending."""
    if not counts:
        raise UserError(f"{name} has no groups of views to reconstruct")
    common = sorted(counts)[(len(counts) - 1) // 2]
    usable = tuple(count for count in sorted(set(views)) if count <= common)
    if not usable:
        raise UserError(
            f"config.evaluate.reconstruction.views={tuple(views)}, but groups of {name} have "
            f"{common} views: use at most {common}"
        )
    return usable


def distractor_of(
    name: str, number: int, groups: Mapping[str, Sequence[int]], labels: Mapping[str, Sequence[str]]
) -> GroupKey | None:
    """Returns a group that shows a different scene from the target, or None if there is none.

    Prefers groups of the same set whose label shares the fewest leading folders with the target's label. If
    all labels are in the same folder, as for groups of one sequence, takes a group of another set.

    Args:
      name, number: the target.
      groups: indices of the candidates by set, including the target.
      labels: labels of all groups, by set.
    """

    def folders(other: int) -> list[str]:
        *parents, last = labels[name][other].split("/")
        return parents or [last]

    def shared_folders(other: int) -> int:
        pairs = zip(folders(number), folders(other))
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))

    position = groups[name].index(number)
    shared = {other: shared_folders(other) for other in groups[name] if other != number}
    fewest = min(shared.values(), default=len(folders(number)))
    if fewest < len(folders(number)):
        candidates = [(name, other) for other, count in shared.items() if count == fewest]
    else:
        candidates = [(other, i) for other, numbers in groups.items() if other != name for i in numbers]
    if not candidates:
        return None
    return candidates[(position + len(candidates) // 2) % len(candidates)]


def seed_of(group: Group) -> str:
    """Returns the text that a group's masks and the order of its views are drawn from."""
    return group.seed or group.label


def _generator(*texts: str) -> np.random.Generator:
    """Returns a random generator that depends only on the texts."""
    return np.random.default_rng(list("\0".join(texts).encode()))


def view_order(group: Group) -> Int[np.ndarray, " V"]:
    """Returns the indices of the target and then of its context."""
    context = 1 + _generator("context", seed_of(group)).permutation(len(group.frames) - 1)
    return np.concatenate([[0], context])


def draw_masks(seed: str, views: int, grid: Grid, mode: str, ratio: float) -> Bool[np.ndarray, "views L"]:
    """Returns the masks of a target and its context, all partly hidden; True = hidden.

    Masks of fewer views are a prefix of the masks of more views. A random mask contains the random mask of
    a smaller ratio.
    """
    rng = _generator("masks", seed)
    return np.stack([MODES[mode](rng, grid, ratio, 1).ravel() for _ in range(views)])


def seen_by_context(views: Any, order: Int[np.ndarray, " V"]) -> Float[np.ndarray, " V-1"]:
    """Returns the fraction of the target's pixels with depth that each context view sees.

    NaN where depth or cameras are unknown.
    """
    if not isinstance(views, PosedViews):
        return np.full(len(order) - 1, np.nan, np.float32)
    depth, intrinsics, poses = (x[order] for x in (views.depth, views.intrinsics, views.world_to_camera))
    fractions = visible_fraction(0, list(depth), intrinsics, poses)
    # A view that does not even see itself has no depth.
    return np.where(fractions[0] > 0, fractions[1:], np.nan)


def arrange(target: np.ndarray, context: np.ndarray, references: int) -> np.ndarray:
    """Inserts the target (...) into its context (V - 1, ...), at index `references`: (V, ...).

    The reference views, which are not masked, thus come first, as in training.
    """
    return np.concatenate([context[:references], target[None], context[references:]])
