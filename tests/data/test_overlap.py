"""Overlap of views, and samples of overlapping views."""

import json

import numpy as np
import pytest
from PIL import Image

from muskie_jax.data.mixture import build_mixture, training_sampler
from muskie_jax.data.overlap import sample_overlapping, scene_overlap, visible_fraction
from muskie_jax.data.sources import PhotographSource
from muskie_jax.errors import UserError
from muskie_tests.runs import nano_config
from muskie_tests.trees import draw, which

SIZE = (48, 64)
INTRINSICS = np.array([[64.0, 0, 32], [0, 64.0, 24], [0, 0, 1]])
HERE = np.eye(4)
WALL = 2.0  # metres to the wall that all cameras face; each sees 2 x 1.5 m of it


def moved(x: float) -> np.ndarray:
    """world_to_camera of a camera x metres to the right of the origin."""
    pose = np.eye(4)
    pose[0, 3] = -x
    return pose


@pytest.fixture
def wall(tmp_path):
    """A scene of eight cameras side by side, half a metre apart, in front of a wall."""
    scene, frames = tmp_path / "wall", []
    for number in range(8):
        draw(scene / "images" / f"{number}.png", 1, number, SIZE)
        depth = np.full(SIZE, 1000 * WALL, np.uint16)
        (scene / "depth").mkdir(exist_ok=True)
        Image.fromarray(depth).save(scene / "depth" / f"{number}.png")
        frames.append(
            {
                "image": f"images/{number}.png",
                "depth": f"depth/{number}.png",
                "intrinsics": INTRINSICS.tolist(),
                "world_to_camera": moved(number / 2).tolist(),
            }
        )
    (scene / "cameras.json").write_text(json.dumps({"frames": frames}))
    return tmp_path


def test_overlap_follows_from_the_geometry(wall):
    names = tuple(f"wall/images/{i}.png" for i in range(8))
    overlap = scene_overlap(wall / "wall", names)
    shift = np.abs(np.arange(8)[:, None] - np.arange(8)) * 0.5
    np.testing.assert_allclose(overlap, np.clip(1 - shift / 2, 0, 1), atol=0.02)
    unknown = scene_overlap(wall / "wall", (names[1], "wall/images/unknown.png", names[0]))
    np.testing.assert_allclose(unknown, [[1, 0, 0.75], [0, 0, 0], [0.75, 0, 1]], atol=0.02)


def test_occluded_points_are_not_visible_and_missing_depth_occludes_nothing():
    wall, box = np.full(SIZE, WALL, np.float32), np.full(SIZE, WALL, np.float32)
    box[:, :32] = 1.0  # a near object in front of the left half of the second view
    hole = box.copy()
    hole[:, :32] = 0
    intrinsics = np.stack([INTRINSICS] * 2)
    fraction = lambda first, second: visible_fraction(
        0, [first, second], intrinsics, np.stack([np.eye(4)] * 2)
    )
    assert fraction(wall, box)[1] == pytest.approx(0.5, abs=0.02)
    assert fraction(wall, hole)[1] == 1 == fraction(wall, wall * 0.97)[1]
    assert (fraction(wall * 0, wall) == 0).all()
    backwards = np.diag([-1.0, 1, -1, 1])
    assert visible_fraction(0, [wall] * 2, intrinsics, np.stack([np.eye(4), backwards]))[1] == 0


def test_samples_have_the_requested_overlap():
    shift = np.abs(np.arange(20)[:, None] - np.arange(20))
    overlap = np.clip(1 - shift / 10, 0, 1)
    rng, first = np.random.default_rng(0), []
    for _ in range(200):
        sample = sample_overlapping(rng, overlap, 4, 0.3, 0.8)
        assert sample is not None
        frames, spare = sample
        assert len(set(frames)) == 4 and not set(frames) & set(spare)
        fits = (overlap[frames] >= 0.3 - 1e-9) & (overlap[frames] <= 0.8 + 1e-9)
        anchors = [a for a, row in zip(frames, fits) if row[frames].sum() == 3]
        assert anchors, "no frame has the requested overlap with all others"
        first.append(frames[0])
    assert len(set(first)) == 20
    sample = sample_overlapping(rng, np.ones((3, 3)) - 0.5 * np.eye(3)[::-1], 7, 0.4, 0.6)
    assert sample is not None
    few, spare = sample
    assert max(np.bincount(few)) - min(np.bincount(few)[np.unique(few)]) <= 1 and len(spare) == 0
    assert sample_overlapping(rng, np.eye(5), 4, 0.3, 0.9) is None


@pytest.mark.parametrize("structured", [False, True])
def test_overlap_is_read_from_lists_of_pairs(tmp_path, structured):
    pairs = np.array([(0, 2, 0.5), (1, 2, 0.25)])
    if structured:
        pairs = np.array([tuple(p) for p in pairs], [("a", "i4"), ("b", "i4"), ("score", "f4")])
    np.savez(tmp_path / "scene_metadata.npz", images=["a.png", "b", "c.jpg"], pairs=pairs)
    overlap = scene_overlap(tmp_path, ("x/c.jpg", "x/b.jpg", "x/a.jpg"))
    np.testing.assert_array_equal(overlap, [[0, 0.25, 0.5], [0.25, 0, 0], [0.5, 0, 0]])


def test_a_source_draws_overlapping_views(wall):
    config = nano_config(wall, glob="wall/images/*", holdout=0, overlap=(0.6, 0.8))
    mixture = build_mixture(config)
    (source,) = mixture.training
    assert isinstance(source, PhotographSource) and source.scenes[0].name == "wall/images"
    sampler = training_sampler(config, mixture)
    for slot in range(10):
        group = sampler.photo_group(0, 0, slot)
        assert not group.error
        frames = {which(image)[1] for image in group.images}
        # Neighbours overlap by three quarters; cameras further apart overlap by half, which is too little.
        assert len(frames) <= 3 and max(frames) - min(frames) <= 2, frames


def test_unknown_overlap_is_an_error_of_one_line(wall):
    (wall / "wall" / "cameras.json").unlink()
    config = nano_config(wall, glob="wall/images/*", holdout=0, overlap=(0.6, 0.8))
    with pytest.raises(UserError, match="has neither scene_metadata.npz nor cameras.json"):
        build_mixture(config)
    (wall / "wall" / "cameras.json").write_text("{}")
    with pytest.raises(UserError, match="KeyError 'frames'"):
        scene_overlap(wall / "wall", ("0.png",))
