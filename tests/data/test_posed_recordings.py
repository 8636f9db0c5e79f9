"""Recordings of TUM RGB-D, NeRF, ScanNet++, ARKitScenes and BlendedMVS as people have them."""

import json
import math

import numpy as np
import pytest

from muskie_jax.data.posed import open_posed
from muskie_jax.data.posed.distortion import distortion_pixels
from muskie_jax.data.posed.settings import posed
from muskie_jax.errors import UserError
from muskie_tests import posed_trees as trees
from muskie_tests.posed_trees import OPENGL, SIZE


def opened(reader, root, views=2, **settings):
    settings = {"groups": 0, "select": "rotation", "every": 1} | settings
    return open_posed("mine", posed(reader, str(root), **settings), views)


def error_of(reader, root, **settings):
    with pytest.raises(UserError) as caught:
        opened(reader, root, **settings)
    return str(caught.value)


@pytest.fixture
def desk(tmp_path):
    trees.tum(tmp_path, 4)
    return tmp_path / "rgbd_dataset_freiburg3_desk"


def change_line(path, number, change):
    lines = path.read_text().splitlines()
    lines[number] = change(lines[number])
    path.write_text("\n".join(lines))


def test_tum_images_without_depth_or_pose_nearby_are_left_out(desk, capsys):
    later = lambda line: f"{float(line.split()[0]) + 0.03:.6f} {line.split(maxsplit=1)[1]}"
    change_line(desk / "depth.txt", 1, later)
    poses = (desk / "groundtruth.txt").read_text().splitlines()
    (desk / "groundtruth.txt").write_text("\n".join(poses[:7] + poses[10:]))  # none near the third image
    groups = opened("tum", desk).groups
    assert [float(group.label.split("/")[1]) - 1341845820.25 for group in groups] == [0, 1.5]
    assert capsys.readouterr().err == (
        f"config.posed.mine: {desk}: left out 2 of 4 images, which have no depth or pose within 0.02 s\n"
    )
    assert len(opened("tum", desk, views=1, every=3).groups) == 2
    assert capsys.readouterr().err == "", "only images that are read are counted"


def test_tum_without_depth(desk):
    (desk / "depth.txt").unlink()
    recording = opened("tum", desk)
    assert not recording.has_depth and not recording.load(0, SIZE).depth.any()


@pytest.mark.parametrize("name, focal", [("rgbd_dataset_freiburg1_xyz", 517.3), ("fr2-desk", 520.9)])
def test_tum_intrinsics(desk, name, focal):
    renamed = desk.rename(desk.with_name(name))
    assert opened("tum", renamed).load(0, SIZE).intrinsics[0, 0, 0] == pytest.approx(focal / 8, abs=0.01)
    given = opened("tum", renamed, intrinsics=(70.0, 71.0, 40.0, 30.0)).load(0, SIZE).intrinsics[0]
    np.testing.assert_allclose(given, [[70, 0, 40], [0, 71, 30], [0, 0, 1]])
    other = renamed.rename(desk.with_name("afr1ca"))
    message = error_of("tum", other)
    names = "freiburg1, freiburg2, freiburg3, fr1, fr2, fr3"
    assert f"its name contains none of {names}: set the dataset's intrinsics" in message


def test_tum_depth_has_its_unit(desk):
    depth = opened("tum", desk).load(0, SIZE).depth
    np.testing.assert_allclose(
        opened("tum", desk, depth_unit=1e-3, check=False).load(0, SIZE).depth, 5 * depth, rtol=1e-6
    )


def test_invalid_tum_files(desk):
    change_line(desk / "groundtruth.txt", 2, lambda line: line[:-20])
    assert "groundtruth.txt cannot be parsed" in error_of("tum", desk)
    change_line(desk / "rgb.txt", 2, lambda line: "nothing")
    assert "rgb.txt cannot be parsed" in error_of("tum", desk)


@pytest.fixture
def lego(tmp_path):
    """A synthetic scene of NeRF: three splits, an angle instead of intrinsics, no depth."""
    names = [f"{split}/r_{number}" for split in ("train", "val", "test") for number in range(2)]
    views = trees.views_of(names, trees.CENTRED)
    for split in ("train", "val", "test"):
        frames = []
        for view in views:
            if view.name.startswith(split):
                trees.save(tmp_path / "lego" / f"{view.name}.png", view.image)
                pose = np.linalg.inv(view.world_to_camera) @ OPENGL
                frames.append({"file_path": f"./{view.name}", "transform_matrix": pose.tolist()})
        contents = {"camera_angle_x": 2 * math.atan(40 / 70), "frames": frames}
        (tmp_path / "lego" / f"transforms_{split}.json").write_text(json.dumps(contents))
    return tmp_path / "lego", {f"lego/{view.name}": view for view in views}


def test_splits_of_nerf_become_one_sequence(lego, capsys):
    folder, views = lego
    scene = opened("transforms", folder.parent, views=6)
    assert not scene.has_depth and [group.label for group in scene.groups] == list(views)
    loaded = scene.load(0, SIZE)
    for i, name in enumerate(scene.groups[0].frames):
        np.testing.assert_array_equal(loaded.images[i], views[name].image)
        np.testing.assert_allclose(loaded.intrinsics[i], trees.CENTRED)
        np.testing.assert_allclose(loaded.world_to_camera[i], views[name].world_to_camera, atol=1e-9)
    train = opened("transforms", folder / "transforms_train.json")
    assert [group.label for group in train.groups] == ["transforms_train/r_0", "transforms_train/r_1"]
    (folder / "val" / "r_1.png").unlink()
    assert len(opened("transforms", folder).groups) == 5
    assert "left out 1 of 6 frames, whose image does not exist, such as " in capsys.readouterr().err


def test_one_file_is_preferred_to_splits(lego):
    folder, _ = lego
    (folder / "transforms_val.json").rename(folder / "transforms.json")
    assert [group.label for group in opened("transforms", folder).groups] == ["lego/r_0", "lego/r_1"]


def test_depth_of_nerf_may_be_floats(tmp_path):
    expected = trees.transforms(tmp_path, 2)
    path = tmp_path / "lego" / "transforms.json"
    contents = json.loads(path.read_text())
    del contents["depth_unit_scale_factor"]
    for number, frame in enumerate(contents["frames"]):
        frame["depth_file_path"] = f"depth_{number}.npy"
        np.save(tmp_path / "lego" / f"depth_{number}.npy", expected[number].depth)
    path.write_text(json.dumps(contents))
    depth = opened("transforms", tmp_path).load(0, SIZE).depth
    np.testing.assert_allclose(depth[0], expected[0].depth, rtol=1e-6)
    contents["depth_unit_scale_factor"] = 0.5
    path.write_text(json.dumps(contents))
    np.testing.assert_allclose(opened("transforms", tmp_path).load(0, SIZE).depth, depth / 2)


def test_negligible_distortion_of_nerf_is_accepted(tmp_path):
    trees.transforms(tmp_path, 2)
    path = tmp_path / "lego" / "transforms.json"
    contents = json.loads(path.read_text())
    path.write_text(json.dumps(contents | {"camera_model": "OPENCV", "k1": 1e-3, "p1": -1e-4, "k4": 0}))
    assert opened("transforms", tmp_path).load(0, SIZE).valid.all()
    path.write_text(json.dumps(contents | {"k4": 1e-5}))
    assert "the camera model is FULL_OPENCV, not a pinhole: undistort" in error_of("transforms", tmp_path)


def test_distortion_follows_the_model_of_opencv():
    intrinsics, size = np.array([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]), (80, 100)
    x, y, r2 = 0.5, 0.4, 0.41  # the corners
    assert distortion_pixels({"k1": 0.01}, intrinsics, size) == pytest.approx(
        100 * 0.01 * r2 * math.hypot(x, y)
    )
    assert distortion_pixels({"p1": 0.01}, intrinsics, size) == pytest.approx(
        100 * 0.01 * math.hypot(2 * x * y, r2 + 2 * y * y)
    )
    # k1 r^2 + k2 r^4 = 0 at the corners, but not between.
    assert distortion_pixels({"k1": 0.041, "k2": -0.1}, intrinsics, size) > 0.19
    assert distortion_pixels({"fl_x": 100.0, "k1": None}, intrinsics, size) == 0


def test_scannetpp_and_arkitscenes_metadata(tmp_path, capsys):
    trees.scannetpp(tmp_path / "s")
    trees.arkitscenes(tmp_path / "a")
    assert len(opened("scannetpp", tmp_path / "s" / "0a5c013435").groups) == 6
    labels = [group.label for group in opened("arkitscenes", tmp_path / "a" / "Test").groups]
    assert labels[0] == "41048190/41048190_3414.100" and capsys.readouterr().err == ""
    assert [group.label for group in opened("arkitscenes", tmp_path / "a").groups] == labels
    assert f"config.posed.mine: {tmp_path}/a/Test: only these scenes are read" in capsys.readouterr().err
    path = tmp_path / "s" / "0a5c013435" / "scene_metadata.npz"
    with np.load(path) as arrays:
        contents = dict(arrays)
    np.savez(path, **(contents | {"trajectories": contents["trajectories"][1:]}))
    assert "scene_metadata.npz cannot be parsed" in error_of("scannetpp", tmp_path / "s")
    del contents["intrinsics"]
    np.savez(path, **contents)
    assert "scene_metadata.npz cannot be parsed" in error_of("scannetpp", tmp_path / "s")
    path.write_bytes(b"PK no zip")
    assert "scene_metadata.npz cannot be parsed" in error_of("scannetpp", tmp_path / "s")


@pytest.mark.extras
def test_invalid_blendedmvs_cameras(tmp_path):
    pytest.importorskip("OpenEXR", reason="OpenEXR is not installed")
    trees.blendedmvs(tmp_path, 3)
    (camera, *_) = sorted(tmp_path.rglob("*.npz"))
    np.savez(camera, intrinsics=np.eye(3))
    assert "00000000.npz cannot be parsed: " in error_of("blendedmvs", tmp_path)
    camera.unlink()
    assert len(opened("blendedmvs", tmp_path).groups) == 2, "images without a camera are not read"


def test_depth_of_cameras_json_may_be_floats_or_have_a_unit(tmp_path):
    expected = trees.cameras(tmp_path, 2)
    path = tmp_path / "desk" / "cameras.json"
    tenfold = opened("cameras", tmp_path, depth_unit=0.01).load(0, SIZE).depth
    np.testing.assert_allclose(tenfold[0], 10 * expected[0].depth, atol=6e-3)
    text = path.read_text()
    for number in range(2):
        text = text.replace(f"depth/000{number}.png", f"depth/000{number}.npy")
        np.save(tmp_path / "desk" / "depth" / f"000{number}.npy", expected[number].depth)
    path.write_text(text)
    np.testing.assert_allclose(
        opened("cameras", tmp_path).load(0, SIZE).depth[0], expected[0].depth, rtol=1e-6
    )
