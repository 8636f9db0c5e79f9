"""Which frames are evaluated together."""

import dataclasses
import pathlib

import numpy as np
import pytest

from muskie_jax.data.overlap import visible_fraction
from muskie_jax.data.posed import groups, open_posed
from muskie_jax.data.posed.frames import Frame, Sequence
from muskie_jax.data.posed.groups import choose_groups, evenly_spaced, overlap_from_depth
from muskie_jax.data.posed.settings import posed
from muskie_jax.errors import UserError
from muskie_tests import posed_trees as trees
from muskie_tests.posed_trees import SIZE

NO_FILE = pathlib.Path()
INTRINSICS = np.array([[80.0, 0, 40], [0, 80.0, 30], [0, 0, 1]])


def walk(name, numbers, step=0.1):
    """A camera that moves along a wall 2 m away, of which it sees 2 m, and slowly rotates."""
    frames = []
    for number in numbers:
        pose = np.eye(4)
        pose[0, 3] = -step * number
        pose[:3, :3] = trees.rotation(0, 0, 1e-3 * number)
        frames.append(Frame(f"{number:03d}", number, NO_FILE, NO_FILE, INTRINSICS, pose, SIZE))
    return Sequence(name, tuple(frames))


def groups_of(select, *sequences, views=3, **settings):
    wall = np.full(SIZE, 2.0, np.float32)
    chosen = choose_groups(
        sequences,
        views,
        select,
        overlap_of=overlap_from_depth(lambda frame: wall),
        key="config.posed.mine",
        **settings,
    )
    assert len({group.label for group in chosen}) == len(chosen)
    assert all(len(group.frames) == views and group.frames[0] == group.label for group in chosen)
    return [[name.split("/") for name in group.frames] for group in chosen]


def numbers(group):
    assert len({name for name, _ in group}) == 1, "all of one sequence"
    return [int(number) for _, number in group]


def test_evenly_spaced_numbers_are_the_middles_of_equal_parts():
    assert evenly_spaced(10, 2) == [2, 7] and evenly_spaced(3, 5) == [0, 1, 2] == evenly_spaced(3, 0)
    assert evenly_spaced(1000, 4) == [125, 375, 625, 875] and evenly_spaced(0, 3) == []


def test_consecutive_frames():
    found = groups_of("consecutive", walk("a", [0, 10, 20, 60, 70, 80, 90]), walk("b", [1, 2]), stride=10)
    assert [numbers(group) for group in found] == [[0, 10, 20], [60, 70, 80], [70, 80, 90]]
    assert found[0][0][0] == "a"
    assert groups_of("consecutive", walk("a", range(100)), max_groups=4, stride=1)[0][0][1] == "012"


def test_nearest_rotations():
    found = groups_of("rotation", walk("a", [0, 5, 7, 20, 21]))
    assert [numbers(group) for group in found] == [
        [0, 5, 7], [5, 7, 0], [7, 5, 0], [20, 21, 7], [21, 20, 7]
    ]  # fmt: skip
    frame = walk("s", [3]).frames[0]
    still = Sequence("s", tuple(dataclasses.replace(frame, name=str(number)) for number in range(4)))
    assert [numbers(group) for group in groups_of("rotation", still, views=2)] == [
        [0, 1],
        [1, 0],
        [2, 0],
        [3, 0],
    ]
    assert groups_of("rotation", walk("a", range(50)), group_stride=20)[1][0][1] == "020"


def test_overlaps_cover_the_requested_range():
    found = groups_of("overlap", walk("a", range(30)), views=4, overlap=(0.3, 0.8), max_groups=5)
    assert [numbers(group)[0] for group in found] == [3, 9, 15, 21, 27]
    for group in found:
        first, *others = numbers(group)
        away = np.abs(np.array(others) - first)  # each step of 0.1 m changes 5% of the visible 2 m
        assert (away >= 4).all() and (away <= 14).all()
        assert (np.diff(away) >= 0).all() and away[-1] - away[0] >= 5, "in order of decreasing overlap"
    assert groups_of("overlap", walk("a", range(30)), max_groups=5) == groups_of(
        "overlap", walk("a", range(30)), max_groups=5
    )


def test_anchors_without_overlapping_frames_are_skipped():
    far = walk("far", range(0, 4000, 100))
    found = groups_of("overlap", far, walk("near", range(10)), views=2, max_groups=6)
    assert len(found) == 6 and all(group[0][0] == "near" for group in found)
    assert len(groups_of("overlap", far, walk("near", range(10)), views=2)) == 10


@pytest.mark.parametrize("side", [96, 40])
def test_overlap_does_not_depend_on_the_size_of_depth_maps(tmp_path, monkeypatch, side):
    monkeypatch.setattr(groups, "OVERLAP_SIDE", side)
    views = trees.cameras(tmp_path, 6)
    fractions = visible_fraction(
        2, [v.depth for v in views], np.stack([v.intrinsics for v in views]),
        np.stack([v.world_to_camera for v in views]),
    )  # fmt: skip
    within = [i for i in range(6) if i != 2 and 0.5 <= fractions[i] <= 0.98]
    settings = posed("cameras", str(tmp_path), groups=0, overlap=(0.5, 0.98))
    (group,) = [g for g in open_posed("c", settings, len(within) + 1).groups if g.label == "desk/0002"]
    assert {int(name[-1]) for name in group.frames[1:]} == set(within) and len(within) >= 2


def test_every_second_frame(tmp_path):
    trees.cameras(tmp_path, 6)
    opened = open_posed("c", posed("cameras", str(tmp_path), select="rotation", every=2), 2)
    assert [group.label for group in opened.groups] == ["desk/0000", "desk/0002", "desk/0004"]


def fewer(views):
    return f"fewer views, such as config.evaluate.views=({views},)"


EVERY = "config.posed.mine.every=1 (now one of every 20 frames is read), or "
WIDER = "config.posed.mine.overlap=(0.05, 1.0), or config.posed.mine.select='consecutive'"


@pytest.mark.parametrize(
    "select, views, every, expected",
    [
        ("rotation", 7, 1, f"7 frames, the longest has 6: use {fewer(6)}"),
        ("rotation", 7, 20, f"7 frames, the longest has 6: use {EVERY}{fewer(6)}"),
        (
            "consecutive",
            5,
            1,
            f"5 frames at most 3 apart: use config.posed.mine.stride=17, or {fewer(3)}",
        ),
        ("consecutive", 2, 20, f"2 frames at most 1 apart: use {EVERY}config.posed.mine.stride=2"),
        ("overlap", 2, 1, f"2 frames that see 99% to 100% of another: use {WIDER}"),
        (
            "overlap",
            3,
            20,
            f"3 frames that see 99% to 100% of another: use {EVERY}{WIDER}, or {fewer(2)}",
        ),
    ],
)
def test_without_any_group_the_message_lists_settings_that_help(select, views, every, expected):
    sequence = walk("a", [0, 2, 4, 13, 30, 33])
    stride = 1 if views == 2 else 3
    with pytest.raises(UserError) as caught:
        groups_of(select, sequence, views=views, every=every, stride=stride, overlap=(0.99, 1.0))
    assert str(caught.value) == f"no sequence has {expected}"


@pytest.mark.parametrize("frames", [[], [4]])
def test_fewer_than_two_views_are_not_suggested(frames):
    with pytest.raises(UserError, match=f"longest has {len(frames)}: add frames$"):
        groups_of("rotation", walk("a", frames), views=2)
    with pytest.raises(UserError, match="mine.stride=100$"):
        groups_of("consecutive", walk("a", [0, 100]), views=2)


def test_the_suggested_settings_help_a_subsampled_recording(tmp_path):
    trees.seven_scenes(tmp_path, numbers=range(0, 1200, 200))
    for path in tmp_path.rglob("frame-*.color.png"):
        if not path.stat().st_size:
            path.unlink()
    settings = posed("seven_scenes", str(tmp_path), every=2)
    with pytest.raises(UserError, match="^config.posed.s: no .*s.every=1 .*s.stride=400$"):
        open_posed("s", settings, 3)
    settings.every = 1
    with pytest.raises(UserError, match="use config.posed.s.stride=200$"):
        open_posed("s", settings, 3)
    settings.stride = 200
    assert len(open_posed("s", settings, 3).groups) == 4
