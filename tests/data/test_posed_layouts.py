"""What is specific to each layout of posed datasets: splits, formulas, missing or registered depth."""

import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image

from muskie_jax.data.posed import navi, open_posed, seven_scenes
from muskie_jax.data.posed.dataset import read_posed
from muskie_jax.data.posed.frames import Sequence
from muskie_jax.data.posed.pixels import object_crop
from muskie_jax.data.posed.settings import posed
from muskie_tests import posed_trees as trees
from muskie_tests.posed_trees import SIZE


def test_navi_evaluates_the_last_tenth_of_objects_with_a_wild_set(tmp_path):
    def folders(name, *collections):
        for collection in collections:
            (tmp_path / name / collection).mkdir(parents=True)
        return [folder.name for folder in navi.validation_collections(tmp_path / name)]

    many = [f"multiview_{i}_ipad" for i in range(20)]
    assert folders("a", *many, "wild_set", "video_0") == ["multiview_18_ipad", "multiview_19_ipad"]
    assert folders("b", *many[:3], "wild_set") == ["multiview_2_ipad"], "one at least; 0.3 rounds up"
    assert folders("c", "multiview-00-pixel_5", "wild_set") == ["multiview-00-pixel_5"]
    assert folders("d", *many) == [] == folders("e", "wild_set")


def test_navi_evaluates_every_twentieth_group(tmp_path):
    for name, count in (("bottle", 15), ("vase", 12)):
        trees.navi(tmp_path, count, name=name)
    every = open_posed("n", posed("navi", str(tmp_path), groups=0, select="rotation"), 3).groups
    groups = open_posed("n", posed("navi", str(tmp_path), groups=0), 3).groups
    assert len(every) == 27 and groups == every[::20] and groups[1].label.startswith("vase/multiview_00")
    # Each camera of the tree is rotated slightly further than the one before.
    assert [name[-3:] for name in groups[1].frames[:1]] == ["005"]
    assert {name[-3:] for name in groups[1].frames} == {"004", "005", "006"}


def test_navi_depth_is_inverse(tmp_path):
    steps = np.array([[0, 655, 65535, 1]], np.uint16)
    Image.fromarray(steps).save(tmp_path / "d.png")
    depth = navi.read_object_depth(tmp_path / "d.png")
    np.testing.assert_allclose(depth, [[0, 655.350 / 655, 0.01, 655.35]], rtol=1e-6)


def test_navi_quaternions_begin_with_the_real_part():
    half = math.sqrt(0.5)
    quarter_about_z = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    np.testing.assert_allclose(
        navi.rotation_from_quaternion(np.array([half, 0, 0, half])), quarter_about_z, atol=1e-12
    )
    turn = trees.rotation(0.3, -0.5, 0.7)
    np.testing.assert_allclose(navi.rotation_from_quaternion(3 * trees.quaternion(turn)), turn, atol=1e-12)


def test_navi_views_show_the_complete_object_at_full_size(tmp_path):
    expected = {view.name: view for view in trees.navi(tmp_path)}
    opened = open_posed("n", posed("navi", str(tmp_path), groups=0, select="rotation"), 3)
    for number, group in enumerate(opened.groups):
        views = opened.load(number, (48, 48))
        for i, name in enumerate(group.frames):
            rows, columns = np.nonzero(views.valid[i])
            extents = [np.ptp(axis) + 1 for axis in (rows, columns)]
            assert max(extents) >= 47, "its longer side is that of the view"
            shown = (expected[name].depth[:, 10:70] > 0).sum()  # in the square in the middle
            pixel = (70 / views.intrinsics[i, 0, 0]) ** 2
            assert views.valid[i].sum() * pixel == pytest.approx(shown, rel=0.05)
            assert views.intrinsics[i, 0, 0] == pytest.approx(views.intrinsics[i, 1, 1])


def test_an_objects_crop_stays_inside_and_has_the_aspect_ratio_of_the_view():
    depth = np.zeros((60, 80))
    depth[0:10, 20:25] = 1  # at the upper border, beyond which the square must not extend
    box = (10.0, 0.0, 70.0, 60.0)
    assert object_crop(depth, (60, 80), box, (16, 16)) == pytest.approx((17.5, 0, 27.5, 10))
    assert object_crop(depth, (60, 80), box, (32, 16)) == pytest.approx((20, 0, 25, 10))
    assert object_crop(depth, (120, 160), (20.0, 0, 140, 120), (16, 16)) == pytest.approx((35, 0, 55, 20))
    depth[:] = 1
    assert object_crop(depth, (60, 80), box, (16, 16)) == pytest.approx(box)
    assert object_crop(0 * depth, (60, 80), box, (16, 16)) == box
    depth[:], depth[20:24, 66:80] = 0, 1  # pixels outside of `box` do not count
    assert object_crop(depth, (60, 80), box, (16, 16)) == pytest.approx((66, 20, 70, 24))


def test_navi_originals_are_read_upright_without_downscaled_files(tmp_path):
    trees.navi(tmp_path, 2)
    settings = posed("navi", str(tmp_path), groups=0)
    smaller = open_posed("n", settings, 2).load(0, (40, 40))
    folder = tmp_path / "vase" / "multiview_00_pixel"
    for path in [*folder.glob("*/downsampled_*")]:
        path.rename(path.with_name(path.name.removeprefix("downsampled_")))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    for path in (folder / "images").glob("*.jpg"):
        with Image.open(path) as image:
            turned = image.transpose(Image.Transpose.ROTATE_180)
        turned.save(path, quality=100, subsampling=0, exif=exif)
    views = open_posed("n", settings, 2).load(0, (40, 40))
    assert np.abs(views.images.astype(int) - smaller.images).mean() < 2
    assert (views.depth == smaller.depth).all()


def test_scannet_groups_are_consecutive_and_at_most_35_apart(tmp_path):
    trees.scannet(tmp_path, (15, 30, 60, 90, 126, 150, 180, 0))
    open_with = lambda views: open_posed("s", posed("scannet", str(tmp_path), groups=0), views).groups
    numbers = [[name.split("/")[1] for name in group.frames] for group in open_with(3)]
    assert numbers == [["0", "15", "30"], ["15", "30", "60"], ["30", "60", "90"], ["126", "150", "180"]]


def test_scannet_frames_without_a_pose_are_skipped(tmp_path):
    trees.scannet(tmp_path)
    trees.write_matrix(tmp_path / "scene0707_00" / "pose" / "30.txt", np.full((4, 4), -np.inf))
    groups = open_posed("s", posed("scannet", str(tmp_path), groups=0, stride=50), 2).groups
    assert [group.label.split("/")[1] for group in groups] == ["15", "60", "90"]


def test_scannet_intrinsics_may_be_in_the_scene(tmp_path):
    trees.scannet(tmp_path)
    settings = posed("scannet", str(tmp_path), groups=1)
    first = open_posed("s", settings, 2).load(0, SIZE)
    np.testing.assert_allclose(first.intrinsics, np.stack([trees.INTRINSICS] * 2))
    matrix = np.eye(4)
    matrix[:3, :3] = np.load(tmp_path / "intrinsics.npz")["scene0707_00"]
    np.savez(tmp_path / "intrinsics.npz", scene0000_00=np.eye(3))
    trees.write_matrix(tmp_path / "scene0707_00" / "intrinsic" / "intrinsic_depth.txt", matrix)
    np.testing.assert_allclose(open_posed("s", settings, 2).load(0, SIZE).intrinsics, first.intrinsics)


def test_seven_scenes_depth_is_registered_to_the_colour_camera(tmp_path):
    views = trees.seven_scenes(tmp_path, registered=False)
    opened = open_posed("s", posed("seven_scenes", str(tmp_path)), 6)
    (group,) = opened.groups
    assert group.frames == tuple(view.name for view in views), "every twentieth frame of the test sequence"
    loaded = opened.load(0, SIZE)
    for depth, view in zip(loaded.depth, views):
        # The depth camera has a smaller field of view, (525 / 585)^2, and two of its rows are missing.
        assert (depth > 0).mean() == pytest.approx(0.78, abs=0.02)
        errors = np.abs(depth - view.depth)[depth > 0]
        assert np.median(errors) < 0.01 and np.quantile(errors, 0.93) < 0.05
        raw = np.abs(
            trees.render(np.diag([1 / 8, 1 / 8, 1]) @ seven_scenes.DEPTH_INTRINSICS, view.world_to_camera)[
                1
            ]
        )
        assert np.median(np.abs(raw - view.depth)) > 2 * np.median(errors)


def test_registering_keeps_the_nearest_point_of_a_pixel():
    shared = 0
    for row in range(20, 40):
        for below in (0, 1):  # the nearer point comes last, or first
            depth = np.zeros(SIZE, np.float32)
            depth[row, 41], depth[row + below, 40] = 1.0, 2.0
            registered = seven_scenes.register(depth)
            kept = registered[registered > 0]
            assert kept.min() == pytest.approx(1.0, abs=0.01)
            shared += below and len(kept) == 1
    assert shared, "somewhere, two points of adjacent rows fall into one pixel"


def test_seven_scenes_root_may_be_a_scene_or_a_sequence(tmp_path):
    trees.seven_scenes(tmp_path)
    for below, name in (("chess", "chess/seq-03/000000"), ("chess/seq-03", "seq-03/000000")):
        groups = open_posed("s", posed("seven_scenes", str(tmp_path / below)), 6).groups
        assert [group.label for group in groups] == [name]


def test_neural_rgbd_frames_without_a_pose_are_skipped(tmp_path):
    trees.neural_rgbd(tmp_path)
    path = tmp_path / "kitchen" / "poses.txt"
    lines = path.read_text().splitlines()
    lines[8:12] = ["-nan(ind) -nan(ind) -nan(ind) -nan(ind)"] * 4
    path.rename(path.with_name("trainval_poses.txt")).write_text("\n".join(lines))
    (tmp_path / "kitchen" / "depth").rename(tmp_path / "kitchen" / "depth_filtered")
    opened = open_posed("n", posed("neural_rgbd", str(tmp_path), every=1, groups=0, stride=2), 5)
    assert [name.split("img")[1] for name in opened.groups[0].frames] == ["0", "1", "3", "4", "5"]
    assert opened.load(0, SIZE).valid.all()


def rewritten(tmp_path, change, **settings):
    """Opens the tree of transforms.json after changing the contents of its file."""
    path = tmp_path / "lego" / "transforms.json"
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))
    return open_posed("t", posed("transforms", str(tmp_path), groups=1, select="rotation", **settings), 6)


def test_transforms_may_have_an_angle_and_no_size(tmp_path):
    trees.transforms(tmp_path)

    def change(contents):
        for key in ("fl_x", "fl_y", "cx", "cy", "w", "h"):
            del contents[key]
        contents["camera_angle_x"] = 2 * math.atan(40 / 70)
        contents["frames"][0]["file_path"] += ".png"

    views = rewritten(tmp_path, change).load(0, SIZE)
    np.testing.assert_allclose(views.intrinsics[0], [[70, 0, 40], [0, 70, 30], [0, 0, 1]])


def test_transforms_intrinsics_may_be_for_larger_images(tmp_path):
    trees.transforms(tmp_path)

    def change(contents):
        contents |= {key: 2 * contents[key] for key in ("fl_x", "fl_y", "cx", "cy", "w", "h")}
        contents["frames"][1] |= {key: 142.0 for key in ("fl_x", "fl_y")}

    before = rewritten(tmp_path, lambda contents: None).load(0, SIZE)
    np.testing.assert_allclose(rewritten(tmp_path, change).load(0, SIZE).intrinsics, before.intrinsics)


@pytest.mark.parametrize("key", ["depth_unit_scale_factor", "integer_depth_scale", None])
def test_the_unit_of_transforms_depth(tmp_path, key):
    trees.transforms(tmp_path)

    def change(contents):
        del contents["depth_unit_scale_factor"]
        if key:
            contents[key] = 5e-4

    opened = rewritten(tmp_path, change, check=False)
    depth = opened.load(0, SIZE).depth.mean()
    settings = posed("transforms", str(tmp_path), groups=1, select="rotation", depth_unit=1e-4)
    true = open_posed("t", settings, 6).load(0, SIZE).depth.mean()
    assert depth / true == pytest.approx(5 if key else 10, rel=1e-4)


@pytest.fixture(params=[pytest.param(None, marks=trees.needs("pycolmap"))])
def model(tmp_path):
    return tmp_path


def test_colmap_depth_may_be_pngs_and_the_model_in_a_subfolder(model):
    expected = {view.name: view for view in trees.colmap(model, png=True)}
    (model / "garden" / "sparse").rename(model / "garden" / "0")
    (model / "garden" / "sparse").mkdir()
    (model / "garden" / "0").rename(model / "garden" / "sparse" / "0")
    settings = posed("colmap", str(model), groups=1, select="rotation", depth_unit=2e-4)
    opened = open_posed("c", settings, 6)
    for depth, name in zip(opened.load(0, SIZE).depth, opened.groups[0].frames):
        np.testing.assert_allclose(depth, expected[name].depth, atol=2e-4)


def test_colmap_text_models_and_smaller_depth(model):
    import pycolmap  # pyright: ignore[reportMissingImports]  # an optional extra

    expected = trees.colmap(model)
    sparse = model / "garden" / "sparse"
    reconstruction = pycolmap.Reconstruction(str(sparse))
    for path in sparse.iterdir():
        path.unlink()
    reconstruction.write_text(str(sparse))
    path = model / "garden" / "stereo" / "depth_maps" / "00.png.geometric.bin"
    smaller = expected[0].depth[::2, ::2].astype("<f4")
    smaller[0, 0], smaller[0, 1] = np.nan, -1  # both mean missing
    path.write_bytes(b"40&30&1&" + smaller.tobytes())
    opened = open_posed("c", posed("colmap", str(model), groups=0, select="rotation"), 1)
    views = opened.load(0, (30, 40))
    np.testing.assert_array_equal(views.depth[0].ravel()[2:], smaller.ravel()[2:])
    assert not views.valid[0, 0, :2].any()
    np.testing.assert_allclose(views.intrinsics[0], np.diag([0.5, 0.5, 1]) @ trees.INTRINSICS)


def write_pairs(path, *rows):
    np.savez(path, name=np.array([(707, 0, *row) for row in rows], np.uint16))


def test_scannet_pairs_are_those_of_the_list(tmp_path):
    trees.scannet(tmp_path)
    write_pairs(tmp_path / "test.npz", (15, 300), (15, 60), (90, 30))
    settings = posed("scannet", str(tmp_path), groups=0, pairs="test.npz")
    opened = open_posed("s", settings, 2)
    frames = [tuple(name.removeprefix("scene0707_00/") for name in group.frames) for group in opened.groups]
    assert frames == [("15", "300"), ("15", "60"), ("90", "30")]
    assert [group.label for group in opened.groups[:2]] == ["scene0707_00/15-300", "scene0707_00/15-60"]
    text = tmp_path / "pairs.txt"
    numbers = " ".join(["0.1"] * 36)
    text.write_text(
        f"scene0707_00_frame-000015.jpg scene0707_00_frame-000300.jpg 0 0 {numbers}\n"
        "scene0707_00/color/15.jpg /data/scene0707_00/color/60.jpg\n\n"
        "scene0707_00_frame-000090.jpg scene0707_00_frame-000030.jpg\n"
    )
    settings.pairs = str(text)
    assert open_posed("s", settings, 2).groups == opened.groups
    settings.update(pairs="test.npz", groups=1)
    assert len(open_posed("s", settings, 2).groups) == 1
    settings.select = "consecutive"
    assert len(open_posed("s", settings, 3).groups[0].frames) == 3


def test_scannet_pairs_without_frames_are_left_out(tmp_path):
    trees.scannet(tmp_path)
    write_pairs(tmp_path / "test.npz", (15, 300), (15, 61))
    settings = posed("scannet", str(tmp_path), pairs="test.npz")
    assert len(open_posed("s", settings, 2).groups) == 1
    (note,) = read_posed("s", settings).notes
    assert note == "1 of 2 pairs are left out: a frame is missing or has no pose"


def test_navi_pairs_are_random_images_of_wild_sets(tmp_path):
    both = ("multiview_00_pixel", "wild_set")
    for name, count in (("bottle", 6), ("vase", 5)):
        trees.navi(tmp_path, count, both, name=name)
    trees.navi(tmp_path, 3, ("wild_set",), name="without_multiview")
    settings = posed("navi", str(tmp_path), groups=0, collections="wild", check=False)
    dataset, opened = read_posed("n", settings), open_posed("n", settings, 2)
    assert [sequence.name for sequence in dataset.sequences] == ["bottle/wild_set", "vase/wild_set"]
    assert [first for first, _ in dataset.pairs] == [
        f"{sequence.name}/{frame.name}" for sequence in dataset.sequences for frame in sequence.frames
    ]
    assert all(first != second and first[:5] == second[:5] for first, second in dataset.pairs)
    assert [group.frames for group in opened.groups] == list(dataset.pairs[::4])
    assert opened.load(0, (48, 48)).depth.any()
    assert open_posed("n", settings, 2).groups == opened.groups, "the same draws in every run"
    partners = [
        navi.draw_pairs(s._replace(name=f"{s.name}{i}")) for s in dataset.sequences[:1] for i in (1, 2, 3)
    ]
    assert len({tuple(second[-3:] for _, second in pairs) for pairs in partners}) == 3


def test_navi_pairs_are_rotated_by_at_most_120_degrees(tmp_path):
    trees.navi(tmp_path, 6, ("multiview_00_pixel", "wild_set"))
    sequence = read_posed("n", posed("navi", str(tmp_path), collections="wild")).sequences[0]
    angles = np.radians([0, 100, 119, 130, 240, 350])  # the first and the fourth are 130 degrees apart
    poses = [np.eye(4) for _ in angles]
    for pose, angle in zip(poses, angles):
        pose[:3, :3] = trees.rotation(0, angle, 0)
    frames = [dataclasses.replace(f, world_to_camera=p) for f, p in zip(sequence.frames, poses)]
    drawn = set()
    for i in range(40):
        drawn |= set(navi.draw_pairs(Sequence(f"{i}", tuple(frames))))
    numbers = {tuple(int(name[-3:]) for name in pair) for pair in {(a, b) for a, b in drawn}}
    apart = np.degrees(angles[:, None] - angles) % 360
    apart = np.minimum(apart, 360 - apart)
    assert numbers == {(i, j) for i in range(6) for j in range(6) if i != j and apart[i, j] <= 120}
    alone = Sequence("alone", (frames[0], frames[3]))
    assert navi.draw_pairs(alone) == []
