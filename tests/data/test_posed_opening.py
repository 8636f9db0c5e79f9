"""Errors in the files of a posed dataset are reported on opening, before any device is used."""

import json

import numpy as np
import pytest
from PIL import Image

from muskie_jax.data.posed import headers, open_posed
from muskie_jax.data.posed.settings import PROTOCOLS as RECORDINGS
from muskie_jax.data.posed.settings import posed
from muskie_jax.errors import UserError
from muskie_tests import posed_trees as trees
from muskie_tests.posed_trees import SIZE

WIDE = (0.01, 1.0)  # the overlap of any two frames of a tree is within this range


def opened(reader, root, views=3, select="rotation", **settings):
    settings = {"groups": 0, "every": 20 if reader == "seven_scenes" else 1} | settings
    return open_posed("mine", posed(reader, str(root), select=select, **settings), views)


def error_of(reader, root, **settings):
    with pytest.raises(UserError) as caught:
        opened(reader, root, **settings)
    return str(caught.value)


def written(reader, root):
    """Writes a tree; returns its images and depth maps that are read, in order."""
    getattr(trees, reader)(root)
    images, depths = {
        "cameras": ("images/*.png", "depth/*.png"),
        "transforms": ("train/*.png", "depth_*.png"),
        "colmap": ("images/*.png", "*/depth_maps/*.bin"),
        "scannet": ("color/*.jpg", "depth/*.png"),
        "seven_scenes": ("frame-*.color.png", "frame-*.depth.proj.png"),
        "neural_rgbd": ("images/*.png", "depth/*.png"),
        "navi": ("images/*.jpg", "depth/*.png"),
        "tum": ("rgb/*.png", "depth/*.png"),
        "scannetpp": ("images/*.jpg", "depth/*.png"),
        "arkitscenes": ("vga_wide/*.jpg", "lowres_depth/*.png"),
        "blendedmvs": ("*.jpg", "*.exr"),
    }[reader]
    not_empty = lambda path: path.stat().st_size
    return sorted(filter(not_empty, root.rglob(images))), sorted(root.rglob(depths))


def write_depth(path, size, value):
    if path.suffix == ".bin":
        path.write_bytes(f"{size[1]}&{size[0]}&1&".encode() + np.full(size, value, "<f4").tobytes())
    elif path.suffix == ".exr":
        trees.write_exr(path, {"Y": np.full(size, value)})
    else:
        trees.save(path, np.full(size, value, np.uint16))


@pytest.mark.parametrize("reader", trees.readers("cameras", "transforms", "colmap"))
def test_depth_read_for_overlap_is_checked(tmp_path, reader):
    name = {"cameras": "desk", "transforms": "lego", "colmap": "garden"}[reader]
    _, depths = written(reader, tmp_path)
    overlap = {"select": "", "overlap": WIDE}  # the default of these readers
    opened(reader, tmp_path, **overlap)
    original = depths[1].read_bytes()
    write_depth(depths[1], SIZE, 0)
    assert error_of(reader, tmp_path, **overlap) == (
        f"config.posed.mine: {name}, {depths[1]}: its depth is empty, leave this frame out"
    )
    write_depth(depths[1], (10, 20), 1)
    assert error_of(reader, tmp_path, **overlap) == (
        f"config.posed.mine: {name}, {depths[1]}: the depth is 20x10, its image 80x60"
    )
    depths[1].write_bytes(original)
    for depth in depths:
        write_depth(depth, SIZE, 0)
    assert f"{name}, {depths[0]}: its depth is empty" in error_of(reader, tmp_path, **overlap)


@pytest.mark.parametrize("reader", trees.readers(*RECORDINGS))
def test_files_of_chosen_groups_are_checked(tmp_path, reader):
    images, depths = written(reader, tmp_path)
    sequence = opened(reader, tmp_path).groups[0].label.rpartition("/")[0]
    known = f"config.posed.mine: {sequence}, "
    original = images[1].read_bytes()
    with Image.open(images[1]) as image:
        size = image.size
    trees.save(images[1], np.zeros((*size, 3), np.uint8))  # height and width swapped
    assert error_of(reader, tmp_path).startswith((f"{known}{images[1]}", f"{known}{depths[1]}"))
    images[1].write_bytes(b"no image")
    assert error_of(reader, tmp_path).startswith(f"{known}{images[1]}: not one of JPEG")
    images[1].write_bytes(original)
    write_depth(depths[1], (70, 30), 1)
    assert error_of(reader, tmp_path).startswith(f"{known}{depths[1]}: the depth is 30x70, its image ")
    depths[1].write_bytes(b"no depth")
    assert error_of(reader, tmp_path).startswith(f"{known}{depths[1]}: it")


def missing(path):
    return f"{path}: No such file or directory"


@pytest.mark.parametrize("select", ["rotation", "overlap"])
def test_missing_files_are_named(tmp_path, select):
    images, depths = written("cameras", tmp_path)
    original = images[2].read_bytes()
    images[2].unlink()
    assert f"desk, {missing(images[2])}" in error_of("cameras", tmp_path, select=select)
    images[2].write_bytes(original)
    depths[2].unlink()
    assert f"desk, {missing(depths[2])}" in error_of("cameras", tmp_path, select=select)


@pytest.mark.parametrize("reader", ["scannet", "neural_rgbd", "navi", "seven_scenes"])
def test_missing_depth_is_named(tmp_path, reader):
    _, depths = written(reader, tmp_path)
    depths[1].unlink()
    if reader == "seven_scenes":
        depths[1] = depths[1].with_name(depths[1].name.replace(".proj", ""))
        depths[1].unlink()
    assert missing(depths[1]) in error_of(reader, tmp_path)


def test_an_image_of_another_aspect_ratio_than_its_camera(tmp_path):
    written("transforms", tmp_path)
    path = tmp_path / "lego" / "transforms.json"
    contents = json.loads(path.read_text())
    path.write_text(json.dumps(contents | {"w": 60, "h": 80, "cx": 30, "cy": 40}))
    expected = "lego/train/r_0.png is 80x60, but its camera is for 60x80"
    assert expected in error_of("transforms", tmp_path)
    assert expected in error_of("transforms", tmp_path, select="overlap")


def test_intrinsics_that_do_not_fit_the_image(tmp_path):
    written("cameras", tmp_path)
    path = tmp_path / "desk" / "cameras.json"
    contents = json.loads(path.read_text())
    contents["frames"][1]["intrinsics"][0][2] = 500.0
    path.write_text(json.dumps(contents))
    assert "0001.png: the intrinsics are implausible, the centre" in error_of("cameras", tmp_path)


def test_depth_of_another_pixel_mode(tmp_path):
    _, depths = written("cameras", tmp_path)
    trees.save(depths[1], np.ones(SIZE, np.uint8))
    assert "0001.png: its depth has pixel mode L, not 16 bits" in error_of("cameras", tmp_path)


def test_only_headers_of_only_chosen_groups_are_read(tmp_path):
    images, depths = written("cameras", tmp_path)
    chosen = opened("cameras", tmp_path, views=2, groups=1, select="consecutive").groups[0].frames
    assert chosen == ("desk/0002", "desk/0003")
    for path in (images[0], depths[0]):
        path.unlink()
    for path in (images[2], depths[2]):
        path.write_bytes(path.read_bytes()[:60])  # the header only
    broken = opened("cameras", tmp_path, views=2, groups=1, select="consecutive")
    with pytest.raises(UserError, match=r"config.posed.mine: desk, .*depth/0002.png: its depth: "):
        broken.load(0, SIZE)


def test_sizes_are_those_of_upright_images_if_cameras_are(tmp_path):
    images, _ = written("navi", tmp_path)
    with Image.open(images[1]) as image:
        pixels = np.asarray(image)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored rotated by 90 degrees
    trees.save(images[1], np.ascontiguousarray(np.rot90(pixels)), exif=exif)
    opened("navi", tmp_path)
    assert headers.image_size(images[1]) == SIZE[::-1] and headers.image_size(images[1], True) == SIZE
