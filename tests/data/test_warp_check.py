"""Geometry that does not fit the images is refused, with what is wrong; geometry that fits is not."""

import json
import re

import numpy as np
import pytest

from muskie_jax.data.posed import PosedViews, open_posed
from muskie_jax.data.posed.settings import PROTOCOLS, posed
from muskie_jax.data.posed.warp import agreement, make_pairs, relative_poses, warp_view
from muskie_jax.data.posed.warp_check import (
    GIVEN,
    best_hypothesis,
    choose_clips,
    examine_views,
)
from muskie_jax.data.posed.warp_refusal import CONVENTIONS, nearest_known
from muskie_jax.errors import UserError
from muskie_tests import posed_trees as trees
from muskie_tests.posed_trees import OPENGL

INSIST = "; to use them anyway, pass --config.posed.mine.check=False"


def opened(reader, root, **settings):
    return open_posed("mine", posed(reader, str(root), select="rotation", **settings), 3)


def problem_of(reader, root, **settings):
    """The part of the error that says what is wrong."""
    with pytest.raises(UserError) as caught:
        opened(reader, root, **settings)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(INSIST)
    known = r"config.posed.mine: \w+: depth and cameras do not fit the images: "
    assert re.match(known, message), message
    return re.sub(known, "", message).removesuffix(INSIST)


def rewrite_poses(root, key, change):
    """Applies a function to all poses of a JSON file."""
    (path,) = root.rglob("*.json")
    contents = json.loads(path.read_text())
    for number, frame in enumerate(contents["frames"]):
        frame[key] = change(np.array(frame[key]), number).tolist()
    path.write_text(json.dumps(contents))


def scale_depth(root, factor):
    from PIL import Image

    for path in root.rglob("depth*/*.png"):
        with Image.open(path) as image:
            depth = np.asarray(image)
        trees.save(path, np.round(depth.astype(float) * factor).astype(np.uint16))


W2C, C2W = "world_to_camera", "camera_to_world"


@pytest.mark.parametrize(
    "change, expected",
    [
        (
            lambda pose, _: OPENGL @ pose,
            f"the poses look like {W2C} with OpenGL's camera axes, but must be {W2C} with OpenCV's: "
            "multiply each by diag(1, -1, -1, 1) from the left",
        ),
        (
            lambda pose, _: np.linalg.inv(pose),
            f"the poses look like {C2W} with OpenCV's camera axes, but must be {W2C} with OpenCV's: invert "
            "each pose",
        ),
        (
            lambda pose, _: np.linalg.inv(pose) @ OPENGL,
            f"the poses look like {C2W} with OpenGL's camera axes, but must be {W2C} with OpenCV's: invert "
            "each pose, then multiply each by diag(1, -1, -1, 1) from the left",
        ),
    ],
)
def test_wrong_poses_of_cameras_json(tmp_path, change, expected):
    trees.cameras(tmp_path)
    opened("cameras", tmp_path)
    rewrite_poses(tmp_path, W2C, change)
    assert problem_of("cameras", tmp_path) == expected
    assert len(opened("cameras", tmp_path, check=False).groups) == 6


@pytest.mark.parametrize(
    "change, expected",
    [
        (
            lambda pose, _: pose @ OPENGL,
            f"the poses look like {C2W} with OpenCV's camera axes, but must be {C2W} with OpenGL's: "
            "multiply each by diag(1, -1, -1, 1) from the right",
        ),
        (
            lambda pose, _: np.linalg.inv(pose),
            f"the poses look like {W2C} with OpenGL's camera axes, but must be {C2W} with OpenGL's: invert "
            "each pose",
        ),
        (
            lambda pose, _: np.linalg.inv(pose @ OPENGL),
            f"the poses look like {W2C} with OpenCV's camera axes, but must be {C2W} with OpenGL's: invert "
            "each pose, then multiply each by diag(1, -1, -1, 1) from the right",
        ),
    ],
)
def test_wrong_poses_of_transforms(tmp_path, change, expected):
    trees.transforms(tmp_path)
    opened("transforms", tmp_path)
    rewrite_poses(tmp_path, "transform_matrix", change)
    assert problem_of("transforms", tmp_path) == expected


def test_what_the_message_asks_for_mends_the_poses(tmp_path):
    trees.transforms(tmp_path)
    key = "transform_matrix"
    rewrite_poses(tmp_path, key, lambda pose, _: np.linalg.inv(pose @ OPENGL))
    steps = problem_of("transforms", tmp_path).partition(": ")[2]
    assert steps == "invert each pose, then multiply each by diag(1, -1, -1, 1) from the right"
    rewrite_poses(tmp_path, key, lambda pose, _: np.linalg.inv(pose) @ np.diag([1.0, -1, -1, 1]))
    opened("transforms", tmp_path)


def test_a_wrong_unit_of_depth(tmp_path):
    trees.cameras(tmp_path)
    scale_depth(tmp_path, 5)
    expected = (
        "depth is about 5 times too large for the poses, as when TUM's 1/5000 m is read as millimetres: "
        "pass --config.posed.mine.depth_unit=0.0002"
    )
    assert problem_of("cameras", tmp_path) == expected
    opened("cameras", tmp_path, depth_unit=2e-4)
    assert problem_of("cameras", tmp_path, depth_unit=1.0) == (
        "depth is about 5000 times too large for the poses: pass --config.posed.mine.depth_unit=0.0002"
    )
    scale_depth(tmp_path, 0.02)  # now 1/10 of the truth
    assert problem_of("cameras", tmp_path).startswith(
        "depth is about 10 times too small for the poses: pass --config.posed.mine.depth_unit=0.01"
    )


def test_poses_of_other_frames(tmp_path):
    views = trees.cameras(tmp_path, 12)
    rewrite_poses(tmp_path, W2C, lambda _, number: views[(5 * number + 3) % 12].world_to_camera)
    assert "Check that each pose and depth map belongs to its image" in problem_of("cameras", tmp_path)


def test_every_reader_has_conventions():
    assert CONVENTIONS.keys() == PROTOCOLS.keys()


def test_unreadable_frames_are_left_to_other_checks(tmp_path):
    trees.cameras(tmp_path)
    rewrite_poses(tmp_path, W2C, lambda pose, _: np.linalg.inv(pose))
    (tmp_path / "desk" / "images" / "0000.png").unlink()
    (tmp_path / "desk" / "depth" / "0003.png").write_bytes(b"no depth")
    assert "invert each pose" in problem_of("cameras", tmp_path)


def desk():
    """Three views of exact depth and cameras."""
    views = trees.views_of("abc")
    images, depth, intrinsics, poses = map(np.stack, list(zip(*views))[1:])
    return PosedViews(images, depth.astype(np.float32), depth > 0, intrinsics, poses)


def test_points_of_exact_geometry_agree():
    views = desk()
    pairs = make_pairs(views, [range(3)])
    assert sorted(zip(pairs.first.tolist(), pairs.second.tolist())) == [
        (a, b) for a in range(3) for b in range(3) if a != b
    ]
    poses = relative_poses(views.world_to_camera, pairs.first, pairs.second)
    found = agreement(pairs, poses)
    seen = np.isfinite(found.depth)
    assert seen.all() and (found.agreeing > 0.9).all() and (found.colour > 0.9).all()
    apart = agreement(pairs, np.broadcast_to(np.eye(4), poses.shape))
    assert found.difference[seen].mean() < 0.5 * apart.difference[seen].mean()
    behind = poses @ np.diag([1.0, 1, -1, 1])
    assert not agreement(pairs, behind).visible.any(), "points behind a camera are not seen"
    itself = np.array([1])
    same = pairs._replace(
        points=pairs.points[:1], valid=pairs.valid[:1], grey=pairs.grey[:1], first=pairs.first[:1],
        second=pairs.first[:1],
    )  # fmt: skip
    exact = agreement(same, np.eye(4)[None])
    assert exact.visible == exact.depth == exact.agreeing == itself and exact.difference == 0
    farther, nearer = (same._replace(second_depth=same.second_depth * factor) for factor in (2, 0.5))
    assert (
        agreement(farther, np.eye(4)[None]).floating == 1 and agreement(farther, np.eye(4)[None]).depth == 0
    )
    assert agreement(nearer, np.eye(4)[None]).floating == 0, "surfaces may hide points behind them"


def test_a_warped_view_resembles_the_first():
    views = desk()
    warped, seen = warp_view(views, 0, 1)
    assert warped.shape == views.images[0].shape and 0.2 < seen.mean() < 1
    error = np.abs(warped.astype(float) - views.images[0])[seen].mean()
    unwarped = np.abs(views.images[1].astype(float) - views.images[0])[seen].mean()
    assert error < 0.5 * unwarped
    same, all_seen = warp_view(views, 2, 2)
    assert all_seen.all() and (same == views.images[2]).all()


def test_nothing_is_refused_that_cannot_be_measured():
    views = desk()
    still = views._replace(
        images=views.images[[0] * 3], depth=views.depth[[0] * 3],
        intrinsics=views.intrinsics[[0] * 3], world_to_camera=np.repeat(np.eye(4)[None], 3, 0),
    )  # fmt: skip
    apart = views._replace(world_to_camera=views.world_to_camera.copy())
    apart.world_to_camera[:, 2, 3] += [0, 1000, 2000]
    for unmeasurable in (still, apart, views._replace(depth=np.zeros_like(views.depth))):
        pairs = make_pairs(unmeasurable, [range(3)])
        assert best_hypothesis(unmeasurable, pairs) == GIVEN
    assert examine_views("one", ("a",), views, [[0]]) is None


def test_views_that_hide_each_others_points_are_not_refused():
    views = desk()
    depth = views.depth.copy()
    depth[1:] *= 0.5  # something near hides the scene from the other views
    for hidden in (views._replace(depth=depth), views._replace(depth=depth, images=views.images[::-1])):
        pairs = make_pairs(hidden, [range(3)])
        only = pairs.first == 0  # what is near is not in the first view
        first = pairs._replace(
            **{
                name: np.repeat(getattr(pairs, name)[only], 3, 0)
                for name in ("points", "valid", "grey", "first", "second")
            }
        )
        assert best_hypothesis(hidden, first) == GIVEN


def test_clips_have_ever_larger_steps():
    assert choose_clips(6, 4) == [[0, 1, 2, 3, 4, 5]]
    clips = choose_clips(100, 3)
    assert clips[0] == [0, 1, 2, 4, 8, 16, 32] and clips[-1][-1] == 99 and len(clips) == 3
    assert choose_clips(12, 4)[0] == [0, 1, 2, 4, 8] and choose_clips(12, 4)[-1][-1] == 11


@pytest.mark.parametrize(
    "factor, known", [(5.01, 5), (4.2, 5), (990, 1000), (10, 10), (2.51, 2.5), (79.4, 100)]
)
def test_factors_are_named_as_usual_ones(factor, known):
    assert nearest_known(factor) == known
