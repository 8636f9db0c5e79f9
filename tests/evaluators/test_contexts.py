"""Choice of targets, contexts, distractors and masks."""

import numpy as np
import pytest

from muskie_jax.data.posed.views import Group, PosedViews
from muskie_jax.errors import UserError
from muskie_jax.evaluators.contexts import (
    arrange,
    choose_targets,
    distractor_of,
    draw_masks,
    seen_by_context,
    view_order,
)


class Listed:
    """A set whose views are never loaded."""

    parallel = True

    def __init__(self, name, labels, views=8):
        views = [views] * len(labels) if isinstance(views, int) else views
        self.name = name
        self.groups = tuple(Group(label, tuple(map(str, range(v)))) for label, v in zip(labels, views))


def distractor_label(own, *others, elsewhere=()):
    labels = {"here": [own, *others], "there": list(elsewhere)}
    found = distractor_of("here", 0, {key: range(len(value)) for key, value in labels.items()}, labels)
    return found and labels[found[0]][found[1]]


def test_a_distractor_shows_another_scene():
    assert distractor_label("attic/1", "attic/2", "attic/3", "barn/1") == "barn/1"
    assert (
        distractor_label("cup/scan_1/1", "cup/scan_2/1", "cup/scan_1/2", "shoe/scan_1/1") == "shoe/scan_1/1"
    )
    assert distractor_label("all/cup/1", "all/cup/2", "all/shoe/1") == "all/shoe/1"
    assert distractor_label("room_1", "room_2", elsewhere=["x/1"]) == "room_2", (
        "without folders, each label is a scene"
    )
    assert distractor_label("attic/1", "attic/2", elsewhere=["x/1"]) == "x/1", "from another set"
    assert distractor_label("attic/1", elsewhere=["x/1"]) == "x/1"
    assert distractor_label("attic/1", "attic/2", "attic/3") is None, "one scene only"
    assert distractor_label("attic/1") is None


def test_distractors_vary():
    targets = choose_targets([Listed("rooms", [f"room_{i}" for i in range(9)])], (1, 2), 9)["rooms"]
    assert targets.groups == tuple(range(9))
    assert all(distractor != ("rooms", own) for own, distractor in zip(targets.groups, targets.distractors))
    assert len(set(targets.distractors)) >= 8


def test_all_points_of_a_curve_use_the_same_targets():
    several = Listed("several", "abcdef", views=[8, 5, 4, 7, 3, 9])
    targets = choose_targets([several], (1, 2, 4, 8), 10)["several"]
    assert targets.views == (1, 2, 4)  # half of the groups have 5 or more, 8 only two
    assert targets.groups == (0, 1, 2, 3, 5)
    assert choose_targets([several], (4, 2), 3)["several"].groups == (0, 1, 3)
    alone = choose_targets([Listed("one", "a")], (1,), 3)["one"]
    assert alone.distractors == ()
    assert choose_targets([Listed("one", ["a/1", "a/2"])], (1, 2), 3)["one"].distractors == ()
    # A distractor from another set must have enough views, too.
    few = Listed("few", ["b/1", "c/1", "d/1"], views=[4, 4, 8])
    assert choose_targets([Listed("one", ["a/1"]), few], (4, 8), 3)["one"].distractors == (("few", 2),)
    with pytest.raises(UserError, match=r"reconstruction.views=\(8, 16\).* 5 views: use at most 5"):
        choose_targets([several], (8, 16), 3)
    with pytest.raises(UserError, match="none has no groups"):
        choose_targets([Listed("none", "")], (1,), 3)


def test_masks_and_order_come_from_the_label():
    masks = draw_masks("attic/1", 8, (6, 8), "random", 0.75)
    assert masks.shape == (8, 48) and (masks.sum(1) == 36).all()
    assert len({mask.tobytes() for mask in masks}) == 8
    np.testing.assert_array_equal(draw_masks("attic/1", 3, (6, 8), "random", 0.75), masks[:3])
    assert (draw_masks("attic/2", 8, (6, 8), "random", 0.75) != masks).any()
    assert (draw_masks("attic/1", 8, (6, 8), "random", 0.9) >= masks).all(), "a larger ratio hides more"
    group = Group("attic/1", tuple("abcdefgh"))
    order = view_order(group)
    assert order[0] == 0 and sorted(order) == list(range(8))
    np.testing.assert_array_equal(view_order(group), order)
    others = {tuple(view_order(group._replace(label=f"attic/{i}"))) for i in range(5)}
    assert len(others) == 5 and tuple(range(8)) not in others
    seeded = [view_order(Group(label, group.frames, seed="a digest")) for label in ("attic/1", "barn/7")]
    np.testing.assert_array_equal(*seeded)


def test_reference_views_come_before_the_target():
    context = np.array([1, 2, 3])
    assert arrange(np.array(0), context, 0).tolist() == [0, 1, 2, 3]
    assert arrange(np.array(0), context, 2).tolist() == [1, 2, 0, 3]


def test_overlap_is_a_fraction_of_the_targets_pixels():
    """Cameras side by side, 2 m from a wall, of which each sees 2 m."""
    depth = np.full((4, 48, 64), 2.0, np.float32)
    depth[3] = 0
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, 0, 3] = [0, -0.5, -1.5, 0]
    intrinsics = np.tile([[64.0, 0, 32], [0, 64.0, 24], [0, 0, 1]], (4, 1, 1))
    views = PosedViews(np.zeros((4, 48, 64, 3), np.uint8), depth, depth > 0, intrinsics, poses)
    np.testing.assert_allclose(seen_by_context(views, np.array([0, 2, 1])), [0.25, 0.75], atol=0.02)
    np.testing.assert_allclose(seen_by_context(views, np.array([1, 2])), [0.5], atol=0.02)
    assert np.isnan(seen_by_context(views, np.array([3, 1, 2]))).all(), "no depth"

    class OnlyImages:
        images = views.images

    assert np.isnan(seen_by_context(OnlyImages(), np.arange(4))).all()
