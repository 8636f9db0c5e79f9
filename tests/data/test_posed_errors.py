"""Errors in a posed dataset are one line that names the sequence or the file."""

import json
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from muskie_jax.data.images import BadImage
from muskie_jax.data.posed import colmap, open_posed
from muskie_jax.data.posed.settings import READERS, check_posed, posed
from muskie_jax.errors import UserError
from muskie_tests import posed_trees as trees
from muskie_tests.posed_trees import SIZE


def load_all(reader, root, size=SIZE, views=3):
    """Opens a folder, and loads every group."""
    every = 20 if reader == "seven_scenes" else 1
    opened = open_posed("mine", posed(reader, str(root), groups=0, select="rotation", every=every), views)
    for number in range(len(opened.groups)):
        opened.load(number, size)


def error_of(reader, root, **options):
    with pytest.raises(UserError) as caught:
        load_all(reader, root, **options)
    message = str(caught.value)
    assert message.startswith(("config.posed.mine: ", "config.posed.mine.root: "))
    return message


@pytest.fixture
def desk(tmp_path):
    """A folder of one sequence with a cameras.json, and a function that changes a value of a frame."""
    trees.cameras(tmp_path, 3)
    path = tmp_path / "desk" / "cameras.json"

    def change(key, value, frame=1):
        contents = json.loads(path.read_text())
        old = np.array(contents["frames"][frame][key]) if key not in ("image", "depth") else None
        new = value(old) if callable(value) else value
        contents["frames"][frame][key] = new.tolist() if isinstance(new, np.ndarray) else new
        path.write_text(json.dumps(contents))

    return tmp_path, change


def with_value(row, column, value):
    def change(matrix):
        matrix[row, column] = value
        return matrix

    return change


@pytest.mark.parametrize(
    "key, change, expected",
    [
        ("world_to_camera", with_value(0, 0, np.nan), "the pose is not finite"),
        (
            "world_to_camera",
            lambda m: m * np.array([[1.01], [1.01], [1.01], [1]]),
            "invalid rotation, its axes are not orthonormal",
        ),
        (
            "world_to_camera",
            lambda m: m * np.array([[-1], [1], [1], [1]]),
            "invalid rotation, it is a reflection",
        ),
        ("world_to_camera", with_value(3, 0, 1.0), r"last row of the pose is \[1.0, 0.0, 0.0, 1.0\]"),
        ("intrinsics", with_value(0, 0, 0.0), "invalid, the focal lengths .* are not positive"),
        ("intrinsics", with_value(1, 1, -70.0), "invalid, the focal lengths .* are not positive"),
        ("intrinsics", with_value(0, 2, np.inf), "intrinsics are not finite"),
        ("intrinsics", lambda m: m.T, "not of the form fx 0 cx, 0 fy cy"),
        ("intrinsics", with_value(0, 0, 0.5), "implausible, focal lengths"),
        ("intrinsics", with_value(0, 2, 500.0), "implausible, the centre"),
    ],
)
def test_invalid_cameras(desk, key, change, expected):
    root, rewrite = desk
    rewrite(key, change)
    message = error_of("cameras", root)
    assert "0001.png: " in message
    with pytest.raises(UserError, match=expected):
        load_all("cameras", root)


def test_a_pose_is_checked_before_any_pixel_is_read(desk):
    root, rewrite = desk
    rewrite("world_to_camera", with_value(0, 0, 2.0))
    with pytest.raises(UserError, match="desk, .*0001.png: the pose has an invalid rotation"):
        open_posed("mine", posed("cameras", str(root), select="rotation"), 2)


def test_rounding_errors_are_tolerated(desk):
    root, rewrite = desk
    rewrite("world_to_camera", lambda m: np.round(m, 4))
    load_all("cameras", root)


def test_invalid_depth(desk):
    root, _ = desk
    path = root / "desk" / "depth" / "0001.png"
    trees.save(path, np.zeros(SIZE, np.uint16))
    assert "0001.png: its depth is empty" in error_of("cameras", root)
    trees.save(path, np.ones((30, 40), np.uint16))
    assert "0001.png: the depth is 40x30, its image 80x60" in error_of("cameras", root)
    trees.save(path, np.ones(SIZE, np.uint8))
    assert "0001.png: its depth has pixel mode L, not 16 bits of grey" in error_of("cameras", root)
    trees.save(path, np.ones(SIZE, np.uint16))
    path.write_bytes(path.read_bytes()[:60])
    assert "0001.png: its depth: " in error_of("cameras", root)
    path.unlink()
    assert f"{path}: No such file or directory" in error_of("cameras", root)


def test_depth_outside_the_crop(desk):
    root, _ = desk
    depth = np.zeros(SIZE, np.uint16)
    depth[:, :5] = 1000
    trees.save(root / "desk" / "depth" / "0001.png", depth)
    load_all("cameras", root)
    assert "0001.png: its depth is empty" in error_of("cameras", root, size=(60, 60))


def test_unreadable_images(desk):
    root, _ = desk
    path = root / "desk" / "images" / "0002.png"
    path.write_bytes(b"no image")
    assert f"{path}: not one of JPEG" in error_of("cameras", root)
    path.write_bytes((root / "desk" / "images" / "0000.png").read_bytes()[:500])
    assert str(path) in error_of("cameras", root)


def test_invalid_cameras_json(desk):
    root, rewrite = desk
    rewrite("image", "images/0000.png")
    message = error_of("cameras", root)
    assert "desk, " in message and "0000.png: this image occurs twice" in message
    rewrite("intrinsics", [[1, 2], [3, 4]])
    assert "cameras.json cannot be parsed: ValueError" in error_of("cameras", root)
    (root / "desk" / "cameras.json").write_text("[]")
    assert "cameras.json cannot be parsed" in error_of("cameras", root)
    message = error_of("cameras", root / "desk" / "depth")
    assert "it does not contain cameras.json, nor does a subfolder" in message


def edit_json(path, change):
    contents = json.loads(path.read_text())
    change(contents)
    path.write_text(json.dumps(contents))


TRANSFORMS_ERRORS = {
    "r_0: the lens distortion (OPENCV) is up to 3.0 pixels, over 0.1: undistort": lambda contents: (
        contents.update(k1=0.1)
    ),
    "the camera model is OPENCV_FISHEYE, not a pinhole: undistort": lambda contents: contents.update(
        camera_model="OPENCV_FISHEYE"
    ),
    "neither fl_x nor camera_angle_x is given": lambda contents: contents.pop("fl_x"),
    "r_0: the pose has an invalid rotation": lambda contents: contents["frames"][0].update(
        transform_matrix=(2 * np.eye(4) - np.diag([0, 0, 0, 1])).tolist()
    ),
    "transforms.json cannot be parsed: 'frames' is missing": lambda contents: contents.pop("frames"),
    "r_0.png is 80x60, but its camera is for 60x80": lambda contents: contents.update(
        w=60, h=80, cx=30, cy=40
    ),
}


@pytest.mark.parametrize("expected", TRANSFORMS_ERRORS)
def test_invalid_transforms(tmp_path, expected):
    trees.transforms(tmp_path, 3)
    edit_json(tmp_path / "lego" / "transforms.json", TRANSFORMS_ERRORS[expected])
    assert expected in error_of("transforms", tmp_path)


def test_scannet_errors(tmp_path):
    trees.scannet(tmp_path)
    scene = tmp_path / "scene0707_00"
    pose = scene / "pose" / "30.txt"
    trees.write_matrix(pose, 2 * np.eye(4))
    assert "30.txt: " in error_of("scannet", tmp_path)
    pose.write_text("1 2 3")
    assert "30.txt cannot be parsed" in error_of("scannet", tmp_path)
    pose.unlink()
    assert "30.txt cannot be parsed: [Errno 2]" in error_of("scannet", tmp_path)
    (tmp_path / "intrinsics.npz").write_bytes(b"PK no zip")
    assert "intrinsics.npz cannot be parsed" in error_of("scannet", tmp_path)
    (tmp_path / "intrinsics.npz").unlink()
    assert "no intrinsics, neither in" in error_of("scannet", tmp_path)
    assert "it does not contain color/<n>.jpg" in error_of("scannet", scene / "color")


def test_seven_scenes_and_neural_rgbd_errors(tmp_path):
    trees.seven_scenes(tmp_path / "seven")
    pose = tmp_path / "seven" / "chess" / "seq-03" / "frame-000020.pose.txt"
    trees.write_matrix(pose, np.full((4, 4), np.nan))
    assert "frame-000020.pose.txt: the pose is not finite" in error_of("seven_scenes", tmp_path / "seven")
    (tmp_path / "seven" / "chess" / "TestSplit.txt").write_text("sequence3\nsequence12\n")
    assert "TestSplit.txt lists a sequence that does not exist: seq-12" in error_of(
        "seven_scenes", tmp_path / "seven"
    )
    trees.neural_rgbd(tmp_path / "neural")
    kitchen = tmp_path / "neural" / "kitchen"
    lines = (kitchen / "poses.txt").read_text().splitlines()
    (kitchen / "poses.txt").write_text("\n".join(lines[:8]))
    assert "poses.txt has 2 poses, none for img2.png" in error_of("neural_rgbd", tmp_path / "neural")
    (kitchen / "poses.txt").unlink()
    assert "neither poses.txt nor trainval_poses.txt exists" in error_of("neural_rgbd", tmp_path / "neural")
    (kitchen / "focal.txt").unlink()
    assert "it does not contain focal.txt" in error_of("neural_rgbd", tmp_path / "neural")


def test_errors_of_lists_of_pairs(tmp_path):
    trees.scannet(tmp_path)
    pairs = tmp_path / "pairs.txt"

    def error(name="pairs.txt", views=2):
        with pytest.raises(UserError) as caught:
            open_posed("mine", posed("scannet", str(tmp_path), pairs=name), views)
        return str(caught.value)

    assert "pairs.txt cannot be parsed: [Errno 2]" in error()
    pairs.write_text("")
    assert "pairs.txt has no pairs" in error()
    pairs.write_text("a.jpg b.jpg")
    assert "'a.jpg' is not the name of an image, such as scene0707_00_frame-000015.jpg" in error()
    pairs.write_text("scene0707_00_frame-000015.jpg")
    assert "pairs.txt cannot be parsed" in error()
    pairs.write_text("scene0708_00/color/1.jpg scene0708_00/color/2.jpg")
    assert "no frame of its 1 pairs is in" in error() and "such as scene0708_00/1" in error()
    pairs.write_text("scene0707_00/color/15.jpg scene0707_00/color/30.jpg")
    assert "config.evaluate.views has 8: use config.evaluate.views=(2,)" in error(views=8)
    (tmp_path / "test.npz").write_bytes(b"PK\x03\x04 broken")
    assert "test.npz cannot be parsed" in error("test.npz")


def test_navi_errors(tmp_path):
    trees.navi(tmp_path)
    path = tmp_path / "vase" / "multiview_00_pixel" / "annotations.json"
    edit_json(path, lambda images: images[0]["camera"].update(q=[0, 0, 0, 0]))
    assert "005.jpg: the pose is not finite" in error_of("navi", tmp_path)
    edit_json(path, lambda images: images[0].pop("camera"))
    assert "annotations.json cannot be parsed: 'camera' is missing" in error_of("navi", tmp_path)
    (tmp_path / "vase" / "wild_set").rmdir()
    assert "it does not contain <object>/multiview_*/annotations.json and <object>/wild_set" in error_of(
        "navi", tmp_path
    )


def test_colmap_without_pycolmap_names_the_install_command(tmp_path, monkeypatch):
    (tmp_path / "garden" / "sparse").mkdir(parents=True)
    (tmp_path / "garden" / "sparse" / "cameras.txt").touch()
    monkeypatch.setitem(sys.modules, "pycolmap", None)
    assert 'pip install -e ".[colmap]"' in error_of("colmap", tmp_path)


@pytest.mark.parametrize("data", [b"", b"4&3&1&" + bytes(47), b"4&3&3&" + bytes(144), b"0&0&1&"])
def test_truncated_colmap_depth(tmp_path, data):
    path = tmp_path / "a.png.geometric.bin"
    path.write_bytes(data)
    with pytest.raises(BadImage, match="a.png.geometric.bin: it is not a COLMAP depth map"):
        colmap.read_depth(path)


@pytest.mark.extras
def test_colmap_errors(tmp_path):
    pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    trees.colmap(tmp_path / "a", 3, model="OPENCV")
    assert "garden, 00.png: the lens distortion (OPENCV) is up to " in error_of("colmap", tmp_path / "a")
    trees.colmap(tmp_path / "b", 3)
    for path in (tmp_path / "b" / "garden" / "sparse").glob("images.*"):
        path.unlink()
    assert "pycolmap cannot read the model" in error_of("colmap", tmp_path / "b")


EXPECTED_FILES = {
    "navi": "<object>/multiview_*/annotations.json and <object>/wild_set",
    "scannet": "color/<n>.jpg",
    "seven_scenes": "<scene>/seq-XX/frame-XXXXXX.color.png",
    "neural_rgbd": "focal.txt",
    "cameras": "cameras.json",
    "transforms": "transforms.json or transforms_train.json",
    "colmap": "sparse/cameras.bin, sparse/0/cameras.bin, colmap/sparse/0/cameras.bin or their .txt",
    "tum": "rgb.txt and groundtruth.txt",
    "scannetpp": "<scene>/scene_metadata.npz and <scene>/images",
    "arkitscenes": "<scene>/scene_metadata.npz and <scene>/vga_wide",
    "blendedmvs": "<scene>/<number>.jpg, .npz and .exr",
}


@pytest.mark.parametrize("reader", [reader for reader in READERS if reader != "synthetic"])
def test_a_wrong_root_is_reported_with_the_expected_files(tmp_path, reader):
    root, none = "config.posed.mine.root", tmp_path / "none"
    message = error_of(reader, none)
    assert message.startswith(f"{root}: folder '{none}' does not exist: choose one")
    assert EXPECTED_FILES[reader] in message
    (tmp_path / "folder" / "other").mkdir(parents=True)
    for path in (tmp_path / "folder", tmp_path / "folder" / "other"):
        assert error_of(reader, path).startswith(
            f"{root}: {path}: it does not contain {EXPECTED_FILES[reader]}"
        )
    file = tmp_path / "file.zip"
    file.write_bytes(b"PK\x80")
    expected = f"{root}: {file}: it is a file: choose the folder that contains {EXPECTED_FILES[reader]}"
    assert error_of(reader, file).startswith(expected)


WRITTEN = {
    "cameras": "cameras.json",
    "transforms": "transforms.json",
    "tum": "groundtruth.txt",
    "neural_rgbd": "focal.txt",
    "seven_scenes": "seq-",
    "navi": "annotations.json",
    "arkitscenes": "vga_wide",
    "scannetpp": "scene_metadata.npz",
    "scannet": "color/",
}


@pytest.mark.parametrize("reader", WRITTEN)
def test_the_error_of_a_wrong_reader_names_the_right_one(tmp_path, reader):
    getattr(trees, reader)(tmp_path, **({} if reader in ("scannet", "seven_scenes") else {"count": 3}))
    for other in ("colmap", "transforms" if reader == "cameras" else "cameras"):
        message = error_of(other, tmp_path)
        assert message.startswith(f"config.posed.mine.root: {tmp_path}: it does not contain ")
        assert EXPECTED_FILES[other] in message and WRITTEN[reader] in message
        assert message.endswith(f": use configs/evaluate.py:{reader}")


@pytest.mark.parametrize("model", ["sparse", "sparse/0", "colmap/sparse/0"])
def test_a_colmap_model_is_recognised_by_other_readers(tmp_path, model):
    (tmp_path / model).mkdir(parents=True)
    (tmp_path / model / "cameras.bin").touch()
    expected = f"it contains {model}/cameras.bin: use configs/evaluate.py:colmap"
    assert error_of("transforms", tmp_path).endswith(expected)


def test_a_reader_does_not_suggest_itself(tmp_path):
    (tmp_path / "groundtruth.txt").touch()
    assert error_of("tum", tmp_path).endswith(f"{EXPECTED_FILES['tum']}, nor does a subfolder")


def test_a_transforms_file_must_be_json(tmp_path):
    (tmp_path / "a.json").write_text("{")
    assert "a.json cannot be parsed: " in error_of("transforms", tmp_path / "a.json")


def checked(**settings):
    config = ConfigDict(
        {"kitchen": posed(settings.pop("reader", "cameras"), settings.pop("root", "/data"))}
    )
    for key, value in settings.items():
        with config.ignore_type():
            config.kitchen[key] = value
    check_posed(config)


SETTINGS_ERRORS = [
    (
        {"reader": "navi", "select": "overlp"},
        "config.posed.kitchen.select: 'overlp' is not a valid value; did you mean 'overlap'",
    ),
    ({"overlap": (0.9, 0.3)}, "config.posed.kitchen.overlap=.* must be two increasing fractions"),
    ({"root": ""}, "config.posed.kitchen.root is empty: pass --config.posed.kitchen.root="),
    ({"groups": -1}, "config.posed.kitchen.groups=-1 must be a whole number, 0 or more"),
    ({"stride": 0}, "config.posed.kitchen.stride=0 must be a whole number, 1 or more"),
    ({"every": 1.5}, "config.posed.kitchen.every=1.5"),
    ({"strid": 3}, "unknown setting config.posed.kitchen.strid; did you mean 'stride'"),
    ({"reader": "colmap", "depth_unit": -1.0}, "config.posed.kitchen.depth_unit=-1.0 must be metres"),
    (
        {"depth_unit": 5000.0},
        r"depth_unit=5000.0 must be metres per step of the depth maps: 0.0002 if 5000 steps are a metre, "
        "0.0001 for 0.1 mm",
    ),
    (
        {"depth_unit": "mm"},
        r"depth_unit=mm must be .*: 0.001 for millimetres, 0.0001 for 0.1 mm, 0.0002 for 1/5000 m \(TUM\), "
        "1.0 for metres, or 0 for what",
    ),
    ({"reader": "tum", "intrinsics": (525.0,)}, r"intrinsics=\(525.0,\) must be \(fx, fy, cx, cy\)"),
    (
        {"reader": "synthetic", "root": "", "groups": 0},
        "config.posed.kitchen.groups=0 must be .* 1 or more",
    ),
    ({"reader": "synthetic", "root": "", "num_photos": 0}, "config.posed.kitchen.num_photos=0"),
]


@pytest.mark.parametrize("settings, expected", SETTINGS_ERRORS)
def test_invalid_settings(settings, expected):
    with pytest.raises(UserError, match=expected):
        checked(**settings)


def test_settings_are_checked_when_they_are_written():
    with pytest.raises(UserError, match=r"posed\(\): 'seven' is not a valid value.*seven_scenes"):
        posed("seven")
    with pytest.raises(
        UserError, match=r"posed\('cameras'\): unknown setting 'group'; did you mean 'groups'"
    ):
        posed("cameras", group=3)
    with pytest.raises(UserError, match=r"posed\('synthetic'\): unknown setting 'root'"):
        posed("synthetic", "/data")
    with pytest.raises(UserError, match=r"world: unknown setting 'num_boxs'; did you mean 'num_boxes'"):
        posed("synthetic", world={"num_boxs": 3})
    rooms = posed("synthetic", world={"num_boxes": 3})
    assert rooms.world.num_boxes == 3 and rooms.world.num_cylinders == 2
    check_posed(ConfigDict({"rooms": rooms, "desk": posed("cameras")}), needs_data=False)
    rooms.world.room_width = (4.0,)
    with pytest.raises(UserError, match=r"config.posed.rooms.world.room_width=\(4.0,\) must be 2 numbers"):
        check_posed(ConfigDict({"rooms": rooms}))
    with pytest.raises(
        UserError, match="config.posed.desk.reader: 'camera' is not a valid value; did you mean 'cameras'"
    ):
        check_posed(ConfigDict({"desk": {"reader": "camera"}}))
    with pytest.raises(UserError, match=r"config.posed.desk='cameras' must be posed"):
        check_posed(ConfigDict({"desk": "cameras"}))
