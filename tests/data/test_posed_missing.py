"""Recordings without depth are opened, and frames whose files are missing are left out and counted."""

import json

import numpy as np
import pytest

from muskie_jax.data.overlap import scene_overlap
from muskie_jax.data.posed import open_posed
from muskie_jax.data.posed.settings import posed
from muskie_jax.errors import UserError
from muskie_tests import posed_trees as trees
from muskie_tests.posed_trees import SIZE

DEPTHS = {"transforms": "depth_*.png", "colmap": "*.geometric.bin"}
IMAGES = {"transforms": "train/*.png", "colmap": "images/*.png"}


@pytest.fixture(params=trees.readers("transforms", "colmap"))
def written(request, tmp_path):
    """A reader, its root with six frames, their views, their images and their depth maps."""
    reader = request.param
    views = getattr(trees, reader)(tmp_path)
    files = (sorted(tmp_path.rglob(kind[reader])) for kind in (IMAGES, DEPTHS))
    return reader, tmp_path, views, *files


def opened(reader, root, views=3, **settings):
    return open_posed("mine", posed(reader, str(root), groups=0, **settings), views)


def remove_depth(root, depths):
    for path in depths:
        path.unlink()
    for path in root.rglob("transforms.json"):
        contents = json.loads(path.read_text())
        for frame in contents["frames"]:
            del frame["depth_file_path"]
        path.write_text(json.dumps(contents))


def test_a_recording_without_depth(written, capsys):
    reader, root, views, _, depths = written
    assert opened(reader, root, select="rotation").has_depth
    remove_depth(root, depths)
    without = opened(reader, root)
    assert not without.has_depth and len(without.groups) == len(views)
    assert capsys.readouterr().err == ""
    loaded = without.load(0, SIZE)
    assert loaded.depth.shape == (3, *SIZE) and not loaded.depth.any() and not loaded.valid.any()
    expected = {view.name: view for view in views}
    for i, name in enumerate(without.groups[0].frames):
        np.testing.assert_array_equal(loaded.images[i], expected[name].image)
        np.testing.assert_allclose(loaded.world_to_camera[i], expected[name].world_to_camera, atol=1e-9)
    with pytest.raises(UserError, match="mine.select='overlap', but the recordings have no depth: use"):
        opened(reader, root, select="overlap")


def test_frames_with_missing_files_are_left_out(written, capsys):
    reader, root, views, images, depths = written
    images[1].unlink()
    for depth in depths[3:5]:
        depth.unlink()
    few = opened(reader, root, select="rotation")
    names = [views[i].name for i in (0, 2, 5)]
    assert few.has_depth and [group.label for group in few.groups] == names
    opened(reader, root, views=2, select="rotation")
    # transforms.json names images without their extension.
    listed = lambda image: image.with_suffix("") if reader == "transforms" else image
    left_out = "config.posed.mine: left out {} of 6 frames, whose {} does not exist, such as {}"
    assert capsys.readouterr().err.splitlines() == [
        left_out.format(1, "image", listed(images[1])),
        left_out.format(2, "depth map", images[3]),
    ]
    with pytest.raises(UserError, match="no sequence has 4 frames, the longest has 3"):
        opened(reader, root, views=4)
    for image in set(images) - {images[1]}:
        image.unlink()
    with pytest.raises(
        UserError, match=rf"none of the 6 images exists, such as {listed(images[0])}: correct"
    ):
        opened(reader, root)


def test_named_depth_maps_must_exist(tmp_path):
    trees.transforms(tmp_path)
    for path in tmp_path.rglob(DEPTHS["transforms"]):
        path.unlink()
    with pytest.raises(UserError, match="none of the 6 depth maps exists, such as .*depth_0.png: correct"):
        opened("transforms", tmp_path)


def test_cameras_json_without_depth(tmp_path):
    trees.cameras(tmp_path)
    path = tmp_path / "desk" / "cameras.json"
    contents = json.loads(path.read_text())
    del contents["frames"][2]["depth"]
    path.write_text(json.dumps(contents))
    with pytest.raises(UserError, match="1 of 6 frames have no depth, such as desk/0002: list depth"):
        opened("cameras", tmp_path)
    with pytest.raises(
        UserError, match="cameras.json: the overlap of views is unknown, images/0002.png has"
    ):
        scene_overlap(tmp_path / "desk", ("images/0001.png",))
    for frame in contents["frames"]:
        frame.pop("depth", None)
    path.write_text(json.dumps(contents))
    without = opened("cameras", tmp_path)
    assert not without.has_depth and len(without.groups) == 6
