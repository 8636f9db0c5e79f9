"""Recordings as training sources: random crops keep geometry, and windows are the published ones."""

import functools

import numpy as np
import pytest

from muskie_jax.buckets import Bucket
from muskie_jax.config import recordings
from muskie_jax.data.doctor import inspect
from muskie_jax.data.loads import collate
from muskie_jax.data.mixture import build_mixture, training_sampler
from muskie_jax.data.pipeline import Pipeline
from muskie_jax.data.posed.crops import Crop, known_part, random_crop
from muskie_jax.data.posed.dataset import read_posed
from muskie_jax.data.posed.pixels import load_view
from muskie_jax.data.recordings import draw_frames, split_recordings
from muskie_jax.errors import UserError
from muskie_jax.sharding import GEOMETRY
from muskie_tests import posed_trees
from muskie_tests.posed_trees import SQUARE, WALL, colour_of
from muskie_tests.runs import nano_reconstruction

INTRINSICS = np.array([[500.0, 0, 330], [0, 500, 250], [0, 0, 1]])


def test_crops_are_the_published_ones():
    sides, margins, rng = [], [], np.random.default_rng(0)
    for _ in range(500):
        crop = random_crop(rng, (480, 640), INTRINSICS, (224, 224))
        left, top, right, bottom = crop.box
        assert ((left + right) / 2, (top + bottom) / 2) == pytest.approx((330, 250))
        assert right - left == pytest.approx(bottom - top)
        low, high = np.array(crop.limits[:2]), np.array(crop.limits[2:])
        assert (low >= 0).all() and (high <= (640, 480)).all()
        sides.append((high - low) / (640, 480))
        margins.append(224 * min(high - low) / (right - left) / 224 - 4 / 224)
    sides, margins = np.array(sides), np.array(margins)
    assert sides.min() > 0.79 and (sides.max(0) > 0.95).all()
    # Both sides reach 224 + 4 + Triangular(0, 0, 0.3) 224, whose mean is 0.1.
    assert margins.min() >= 1 - 1e-9 and margins.max() < 1.3 and abs(margins.mean() - 1.1) < 0.01


def test_the_unknown_part_of_a_view_is_left_out():
    rows, columns, box = known_part(Crop((-10.0, 0.0, 30.0, 20.0), (0.0, 0.0, 25.0, 20.0)), (4, 8))
    assert (rows, columns, box) == (slice(0, 4), slice(2, 7), (0.0, 0.0, 25.0, 20.0))
    inside = Crop((3.2, 1.1, 20.7, 19.3), (0.0, 0.0, 30.0, 20.0))
    rows, columns, box = known_part(inside, (32, 48))
    assert (rows, columns) == (slice(0, 32), slice(0, 48)) and box == pytest.approx(inside.box)


@pytest.fixture
def desk(tmp_path):
    posed_trees.cameras(tmp_path, count=12)
    return tmp_path


def shown_points(depth, intrinsics, world_to_camera):
    """The world points of a view's pixels."""
    rows, columns = np.mgrid[: depth.shape[0], : depth.shape[1]] + 0.5
    pixels = np.stack([columns, rows, np.ones_like(rows)], -1)
    local = pixels @ np.linalg.inv(intrinsics).T * depth[..., None]
    return (local - world_to_camera[:3, 3]) @ world_to_camera[:3, :3]


def check_view(image, depth, intrinsics, world_to_camera):
    """Checks that pixels and depth are those of the recorded scene: a wall, and a square in front of it."""
    known, points = depth > 0, shown_points(depth, intrinsics, world_to_camera)
    assert known.mean() > 0.5 and not image[~known].any()
    difference = np.abs(colour_of(points) - image)[known].mean(-1)
    assert np.median(difference) < 8  # 0.7 pixels of the recording
    distances = [np.abs(points @ normal - offset)[known] for normal, offset in (WALL, SQUARE)]
    assert np.quantile(np.minimum(*distances), 0.9) < 0.01


def test_pixels_depth_and_cameras_of_a_crop_agree(desk):
    dataset = read_posed("desk", recordings("cameras", str(desk)))
    frame = dataset.sequences[0].frames[3]
    for seed in range(5):
        crop = functools.partial(random_crop, np.random.default_rng(seed), size=(64, 64))
        image, depth, intrinsics = load_view(frame, (64, 64), dataset, crop)
        assert intrinsics[:2, 2] == pytest.approx([32, 32])
        check_view(image, depth, intrinsics, frame.world_to_camera)


def test_frames_are_drawn_from_the_window():
    rng, drawn = np.random.default_rng(0), set()
    for _ in range(300):
        first, *others = draw_frames(rng, 100, 8, 5).tolist()
        assert 0 <= first < 100 and len(others) == 7
        assert all(max(0, first - 5) <= other < min(100, first + 5) for other in others)
        drawn |= {other - first for other in others}
    assert drawn == set(range(-5, 5))
    assert (draw_frames(rng, 1, 4, 5) == 0).all()


def test_published_windows():
    windows = {name: recordings(name).window for name in ("scannetpp", "arkitscenes", "blendedmvs", "tum")}
    assert windows == {"scannetpp": 16, "arkitscenes": 32, "blendedmvs": 32, "tum": 32}


def test_batches_hold_ordered_views_and_their_geometry(desk):
    config = nano_reconstruction()
    config.sources = {"desk": recordings("cameras", str(desk), holdout=0.0)}
    config.buckets.resolutions = (((48, 32), (32, 64)),)
    mixture = build_mixture(config)
    assert "no scene is held out: evaluation uses the scenes of training" in mixture.notes
    sampler = training_sampler(config, mixture)
    group = sampler.photo_group(0, 0, 0)
    assert group.images.shape == (2, 48, 64, 3) and not group.error and group.masks == []
    bucket = Bucket(32, 64, 2)
    batch = collate([group]).batch(0, bucket)
    assert batch["images"].shape == (1, 2, 32, 64, 3) and "mask" not in batch
    for view in range(2):
        check_view(*(batch[key][0, view] for key in ("images", *GEOMETRY)))
    updates = next(Pipeline(sampler, range(4)).updates())
    again = next(Pipeline(sampler, range(4), workers=1).updates())
    for (_, one), (_, other) in zip(updates, again):
        assert one.keys() == other.keys() == {"images", "depth", "intrinsics", "world_to_camera", "source"}
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_unreadable_frames_are_replaced_and_counted(desk):
    config = nano_reconstruction()
    config.sources = {"desk": recordings("cameras", str(desk), holdout=0.0, check=False)}
    broken = sorted((desk / "desk/images").iterdir())
    for path in broken[:6]:
        path.write_bytes(b"no image")
    sampler = training_sampler(config, build_mixture(config))
    groups = [sampler.photo_group(0, 0, slot) for slot in range(8)]
    assert not any(group.error for group in groups)
    assert sum(len(group.skipped) for group in groups) > 0
    assert all(group.tried == 2 + len(group.skipped) for group in groups)
    for path in broken:
        path.write_bytes(b"no image")
    assert "none of 16 frames can be read" in sampler.photo_group(0, 0, 0).error


def test_recordings_without_depth_are_refused(desk):
    import json

    path = desk / "desk/cameras.json"
    frames = json.loads(path.read_text())["frames"]
    path.write_text(json.dumps({"frames": [{k: v for k, v in f.items() if k != "depth"} for f in frames]}))
    with pytest.raises(UserError, match="^config.sources.desk: the recordings in .* have no depth, which"):
        split_recordings("desk", recordings("cameras", str(desk)), "")


def test_inspection_draws_groups_of_recordings(desk, tmp_path):
    config = nano_reconstruction()
    config.sources = {"desk": recordings("cameras", str(desk), holdout=0.0)}
    result = inspect(config, tmp_path / "inspection", check=0, draw=2)
    (report,) = result["sources"]
    assert (report["kind"], report["sequences"], report["frames"]) == ("recordings", 1, 12)
    assert report["errors"] == [] and result["views_per_second"] is None
    assert (tmp_path / "inspection/contact_sheet.png").is_file()
