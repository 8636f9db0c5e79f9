"""Readers of posed datasets return the scene that was written, at any size."""

import numpy as np
import pytest

from muskie_jax.data.posed import open_posed
from muskie_jax.data.posed.rooms import Rooms
from muskie_jax.data.posed.settings import READERS, posed
from muskie_tests import posed_trees as trees
from muskie_tests.posed_trees import SIZE, SQUARE, WALL, colour_of

# Largest error of depth in metres: half a step of the file format, or its rounding.
DEPTH_ERROR = {"transforms": 6e-5, "colmap": 1e-6, "tum": 1.1e-4}
EXACT = ("cameras", "transforms", "seven_scenes", "neural_rgbd", "colmap", "tum")
ALL = (*EXACT, "scannet", "navi", "scannetpp", "arkitscenes", "blendedmvs")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A cached function of a reader: its tree's views by name, and the dataset in groups of three."""
    trees_by_reader = {}

    def of(reader):
        if reader not in trees_by_reader:
            root = tmp_path_factory.mktemp(reader)
            views = {view.name: view for view in getattr(trees, reader)(root)}
            settings = posed(reader, str(root), groups=0, select="rotation")
            settings.every = 20 if reader == "seven_scenes" else 1
            trees_by_reader[reader] = views, open_posed("mine", settings, 3)
        return trees_by_reader[reader]

    return of


def back_project(views):
    """World points (V, H, W, 3) of views' depth."""
    rows, columns = np.mgrid[: views.depth.shape[1], : views.depth.shape[2]] + 0.5
    pixels = np.stack([columns, rows, np.ones_like(rows)], -1)
    local = np.einsum("vij,hwj->vhwi", np.linalg.inv(views.intrinsics), pixels) * views.depth[..., None]
    turn, shift = views.world_to_camera[:, :3, :3], views.world_to_camera[:, :3, 3]
    return np.einsum("vji,vhwj->vhwi", turn, local - shift[:, None, None])


@pytest.mark.parametrize("reader", trees.readers(*EXACT))
def test_a_reader_returns_what_was_written(written, reader):
    expected, opened = written(reader)
    assert opened.name == "mine" and len(opened.groups) == len(expected)
    assert [group.label for group in opened.groups] == list(expected)
    for number, group in enumerate(opened.groups):
        views = opened.load(number, SIZE)
        assert views.images.dtype == np.uint8 and views.depth.dtype == np.float32
        assert views.intrinsics.dtype == views.world_to_camera.dtype == np.float64
        for i, name in enumerate(group.frames):
            view = expected[name]
            np.testing.assert_array_equal(views.images[i], view.image)
            assert views.valid[i].all() and (views.depth[i] > 0).all()
            error = DEPTH_ERROR.get(reader, 6e-4)
            np.testing.assert_allclose(views.depth[i], view.depth, atol=error)
            np.testing.assert_allclose(views.intrinsics[i], view.intrinsics, atol=1e-9)
            np.testing.assert_allclose(views.world_to_camera[i], view.world_to_camera, atol=1e-9)


@pytest.mark.parametrize("size", [(48, 48), (30, 64), (90, 70)])
@pytest.mark.parametrize("reader", trees.readers(*ALL))
def test_pixels_of_resized_and_cropped_views_match_their_geometry(written, reader, size):
    _, opened = written(reader)
    scale = 4 if reader == "navi" else 1  # that scene is scaled by a quarter
    for number in (0, len(opened.groups) - 1):
        views = opened.load(number, size)
        assert views.images.shape == (3, *size, 3) and views.depth.shape == (3, *size)
        points = back_project(views)[views.valid] * scale
        off = np.min([np.abs(points @ n - far) / np.linalg.norm(n) for n, far in (WALL, SQUARE)], 0)
        assert np.quantile(off, 0.95) < 0.03
        colours = views.images[views.valid].astype(float)
        errors = np.abs(colours - colour_of(points)).max(-1)
        # At edges, nearest-pixel depth and smoothed colours may come from two surfaces.
        assert np.median(errors) < 4 and np.quantile(errors, 0.9) < 16
        moved = np.abs(colours - colour_of(np.roll(back_project(views) * scale, 1, 2)[views.valid])).max(-1)
        assert np.median(moved) > 1.8 * np.median(errors), (
            "colours differ by more if geometry is off by one pixel"
        )


def test_a_crop_is_centred_and_keeps_the_full_shorter_side(written):
    expected, opened = written("cameras")
    views = opened.load(0, (60, 60))
    np.testing.assert_array_equal(views.images[0], expected[opened.groups[0].label].image[:, 10:70])
    np.testing.assert_allclose(views.intrinsics[0] - trees.INTRINSICS, [[0, 0, -10], [0, 0, 0], [0, 0, 0]])
    smaller = opened.load(0, (20, 20))
    np.testing.assert_array_equal(smaller.depth, views.depth[:, 1::3, 1::3])
    np.testing.assert_allclose(smaller.intrinsics[0, :2] * 3, views.intrinsics[0, :2])


def test_images_with_intrinsics_keep_their_stored_orientation(tmp_path):
    from PIL import Image

    trees.cameras(tmp_path, 2)
    path = tmp_path / "desk" / "images" / "0000.png"
    before = np.asarray(Image.open(path))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    views = open_posed("mine", posed("cameras", str(tmp_path), select="rotation"), 2).load(0, SIZE)
    np.testing.assert_array_equal(views.images[0], before)


def test_a_root_may_be_one_sequence_and_relative(tmp_path, written, monkeypatch):
    trees.cameras(tmp_path / "data", 3)
    dataset = open_posed("a", posed("cameras", "data", select="rotation"), 2, str(tmp_path))
    one = open_posed("a", posed("cameras", "desk", select="rotation"), 2, str(tmp_path / "data"))
    assert dataset.groups == one.groups and dataset.groups[0].label == "desk/0000"
    monkeypatch.chdir(tmp_path / "data" / "desk")
    assert open_posed("a", posed("cameras", ".", select="rotation"), 2).groups == one.groups
    trees.transforms(tmp_path, 2)
    file = posed("transforms", "lego/transforms.json", select="rotation")
    assert open_posed("a", file, 2, str(tmp_path)).groups[0].label == "transforms/r_0"


def test_rooms_are_exact_and_differ():
    world = dict(num_boxes=1, num_ellipsoids=1, num_cylinders=0, samples_per_pixel=1, baseline=(0.1, 0.2))
    settings = posed("synthetic", groups=3, world=world)
    opened = open_posed("rooms", settings, 2)
    assert isinstance(opened, Rooms)
    assert [group.label for group in opened.groups] == ["room_0", "room_1", "room_2"]
    assert opened.groups[1].frames == ("room_1/0", "room_1/1")
    views, other = opened.load(1, (48, 64)), opened.load(2, (48, 64))
    assert views.images.shape == (2, 48, 64, 3) and views.valid.all()
    assert (views.images != other.images).mean() > 0.5
    assert (opened.load(1, (48, 64)).images == views.images).all()
    assert len(opened._programs) == 1
    points = back_project(views)[0]
    local = points @ views.world_to_camera[1, :3, :3].T + views.world_to_camera[1, :3, 3]
    x, y, z = np.moveaxis(local @ views.intrinsics[1].T, -1, 0)
    inside = (z > 0) & (x > 0) & (y > 0) & (x < 64 * z) & (y < 48 * z)
    there = views.depth[1][(y[inside] / z[inside]).astype(int), (x[inside] / z[inside]).astype(int)]
    assert inside.mean() > 0.3 and np.median(np.abs(there - z[inside])) < 0.03
    settings.seed = 1
    other_seed = open_posed("rooms", settings, 2)
    assert isinstance(other_seed, Rooms) and (other_seed.seed_of(1) != opened.seed_of(1)).any()
    with pytest.raises(IndexError):
        opened.load(3, (48, 64))


def test_every_reader_is_tested():
    assert {*ALL, "synthetic"} == set(READERS)
