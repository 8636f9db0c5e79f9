"""Depth and cameras in packs are exact, follow the image when it shrinks, and give the overlap."""

import io
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from muskie_jax.config import folder, packed
from muskie_jax.data.depth import read_depth
from muskie_jax.data.packing.encoding import Encoding, encode_depth
from muskie_jax.data.packing.frames import RenderedFrames, frames_from_source
from muskie_jax.data.packing.pack import pack
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.errors import UserError
from muskie_tests.packs import all_scenes, pack_of, sampler_of

HEIGHT, WIDTH = 96, 128
WORLD = WorldConfig(baseline=(0.1, 0.3))
PNG = Encoding(format="png")


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Two rooms of three views, packed without loss: the frames, and the packed source."""
    frames = RenderedFrames(WORLD, 0, 2, 3, (HEIGHT, WIDTH), PNG)
    out = tmp_path_factory.mktemp("rooms")
    pack(frames, out, PNG)
    return frames, all_scenes(packed(root=str(out)))


@pytest.fixture(scope="module")
def posed(rooms, tmp_path_factory):
    """A source of a config: the same views as a folder of scenes with a cameras.json each."""
    _, read = rooms
    root = tmp_path_factory.mktemp("posed")
    for scene in range(2):
        (root / f"room{scene}" / "images").mkdir(parents=True)
        (root / f"room{scene}" / "depth").mkdir()
        cameras = []
        for view in range(3):
            record = read.record(scene, view)
            names = f"images/{view}.png", f"depth/{view}.png"
            (root / f"room{scene}" / names[0]).write_bytes(record.image)
            (root / f"room{scene}" / names[1]).write_bytes(record.geometry.depth)
            cameras.append({
                "image": names[0], "depth": names[1], "intrinsics": record.geometry.intrinsics.tolist(),
                "world_to_camera": record.geometry.world_to_camera.tolist(),
            })  # fmt: skip
        (root / f"room{scene}" / "cameras.json").write_text(json.dumps({"frames": cameras}))
    return folder(root=str(root), glob="*/images/*", holdout=0.0)


def depth_of(record):
    return read_depth(record.geometry.depth, "") / 1000.0


def pixel_centres(shape):
    return np.stack(np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5), -1)


def back_project(record):
    """World points (h, w, 3) of a record's depth map."""
    depth, pose = depth_of(record), record.geometry.world_to_camera
    pixels = np.concatenate([pixel_centres(depth.shape), np.ones((*depth.shape, 1))], -1)
    local = pixels @ np.linalg.inv(record.geometry.intrinsics).T * depth[..., None]
    return (local - pose[:3, 3]) @ pose[:3, :3]


def project(points, record):
    """Pixel coordinates (..., 2) and depth (...) of world points in a record's view."""
    pose = record.geometry.world_to_camera
    local = points @ pose[:3, :3].T + pose[:3, 3]
    image = local @ record.geometry.intrinsics.T
    return image[..., :2] / image[..., 2:], local[..., 2]


def test_depth_and_cameras_of_packed_rooms_agree(rooms):
    _, read = rooms
    for scene in range(2):
        first, second = read.record(scene, 0), read.record(scene, 1)
        pixels, far = project(back_project(first), second)
        inside = (far > 0) & (pixels > 0).all(-1) & (pixels < [WIDTH, HEIGHT]).all(-1)
        columns, rows = pixels[inside].astype(int).T
        stored, far = depth_of(second)[rows, columns], far[inside]
        assert inside.mean() > 0.3
        same = np.abs(stored - far) < 0.03 * far + 0.01
        assert same.mean() > 0.7 and np.median(np.abs(stored - far)[same]) < 0.01
        assert (far < 0.9 * stored).mean() < 0.05, "no point occludes what the other view sees"


def test_packed_rooms_are_the_rendered_ones(rooms):
    frames, read = rooms
    views = frames._render(1)
    record = read.record(1, 2)
    assert (np.asarray(Image.open(io.BytesIO(record.image))) == views.images[2]).all()
    assert np.abs(depth_of(record) - views.depth[2]).max() <= 0.00051  # millimetres
    assert (record.geometry.intrinsics == views.cameras.intrinsics[2]).all()
    assert [scene.name for scene in read.scenes] == ["room_0", "room_1"]
    assert read.record(0, 0).image != read.record(1, 0).image
    again = RenderedFrames(WORLD, 0, 5, 3, (HEIGHT, WIDTH), PNG)
    assert (again.seed_of(1) == frames.seed_of(1)).all(), "a room does not depend on the number of rooms"
    assert (RenderedFrames(WORLD, 1, 5, 3, (48, 64), PNG).seed_of(1) != frames.seed_of(1)).any()


def test_depth_beyond_16_bits_becomes_missing():
    depth = read_depth(encode_depth(np.array([[0.0, -1.0, 0.0004], [65.535, 65.536, np.inf]])), "")
    assert depth.tolist() == [[0, 0, 0], [65535, 0, 0]]


def test_a_folder_with_cameras_is_packed_with_them(posed, rooms, tmp_path):
    info, source = pack_of(posed, tmp_path)
    assert info.geometry and info.lossless and not info.upright
    for scene, view in ((0, 2), (1, 0)):
        before, after = rooms[1].record(scene, view), source.record(scene, view)
        assert before.image == after.image and before.geometry.depth == after.geometry.depth
        assert (before.geometry.intrinsics == after.geometry.intrinsics).all()
        assert (before.geometry.world_to_camera == after.geometry.world_to_camera).all()


def test_a_smaller_pack_shows_the_same_surface_points(posed, rooms, tmp_path):
    done, read = pack_of(posed, tmp_path, Encoding(size=30, format="png"))
    assert not done.lossless
    for view in range(3):
        small, large = read.record(1, view), rooms[1].record(1, view)
        assert (read.open(1, view).height, read.open(1, view).width) == (30, 40)
        depth = depth_of(small)
        assert depth.shape == (30, 40)
        pixels, far = project(back_project(small), large)
        np.testing.assert_allclose(far, depth, rtol=1e-6)
        np.testing.assert_allclose(pixels, pixel_centres((30, 40)) * 3.2, atol=1e-3)
        rows, columns = ((2 * np.arange(n) + 1) * 16 // 10 for n in depth.shape)
        assert (depth == depth_of(large)[np.ix_(rows, columns)]).all()
        shrunk = Image.open(io.BytesIO(large.image)).resize((40, 30), Image.Resampling.BICUBIC)
        assert np.abs(read.open(1, view).pixels() - np.asarray(shrunk, float)).mean() < 1


def test_nothing_is_enlarged_and_small_files_are_copied(posed, tmp_path):
    original = all_scenes(posed)
    _, read = pack_of(posed, tmp_path / "a", Encoding(size=200))
    assert read.record(0, 0).image == original.path(0, 0).read_bytes()
    _, read = pack_of(posed, tmp_path / "b", Encoding(size=200, quality=50))
    assert len(read.record(0, 0).image) < len(original.path(0, 0).read_bytes()) / 2
    assert Image.open(io.BytesIO(read.record(0, 0).image)).format == "JPEG"
    assert read.open(0, 0).width == WIDTH


def test_a_pack_of_a_pack_equals_that_of_the_folder(posed, tmp_path):
    encoding = Encoding(size=48, quality=80)
    pack_of(posed, tmp_path / "original")
    _, direct = pack_of(posed, tmp_path / "direct", encoding)
    _, second = pack_of(packed(root=str(tmp_path / "original")), tmp_path / "second", encoding)
    for scene in range(2):
        first, other = direct.record(scene, 1), second.record(scene, 1)
        assert (first.image, first.frame, first.scene) == (other.image, other.frame, other.scene)
        assert first.geometry.depth == other.geometry.depth
        assert (first.geometry.intrinsics == other.geometry.intrinsics).all()


def test_overlap_of_views_follows_from_packed_cameras(posed, tmp_path):
    pack_of(posed, tmp_path)
    source = posed.copy_and_resolve_references()
    source.overlap = (0.05, 0.9)
    read = packed(root=str(tmp_path), overlap=(0.05, 0.9), holdout=0.0)
    original, copy = all_scenes(source), all_scenes(read)
    overlaps = [original.scene_overlap(1), copy.scene_overlap(1)]
    assert overlaps[0].shape == (3, 3) and 0.1 < np.sort(overlaps[0].ravel())[2] < 1
    assert (overlaps[0] == overlaps[1]).all()
    groups = [sampler_of(s).photo_group(0, 0, 3).images for s in (source, read)]
    assert (groups[0] == groups[1]).all()


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"size": -1}, "--size=-1 must be a short side"),
        ({"quality": 101}, "--quality=101 must be from 1 to 100"),
        ({"format": "gif"}, "--format='gif' is not supported: use jpeg or png"),
        ({"format": "png", "quality": 9}, "--quality=9 applies to JPEG"),
    ],
)
def test_invalid_encodings_are_refused(settings, expected):
    with pytest.raises(UserError, match=expected):
        Encoding(**settings)


def copy_of(posed, root):
    shutil.copytree(posed.root, root)
    return folder(root=str(root), glob="*/images/*", holdout=0.0)


def test_images_with_intrinsics_keep_their_stored_orientation(posed, tmp_path):
    source = copy_of(posed, tmp_path / "posed")
    path = tmp_path / "posed" / "room0" / "images" / "0.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(path).save(path, exif=exif)
    assert all_scenes(source).open(0, 0).width == HEIGHT
    _, read = pack_of(source, tmp_path / "pack")
    assert (read.open(0, 0).height, read.open(0, 0).width) == (HEIGHT, WIDTH)
    _, small = pack_of(source, tmp_path / "small", Encoding(size=48))
    assert (small.open(0, 0).height, small.open(0, 0).width) == (48, 64)


def test_geometry_needs_the_cameras_of_all_images(posed, tmp_path):
    source = copy_of(posed, tmp_path / "posed")
    path = tmp_path / "posed" / "room1" / "cameras.json"
    cameras = json.loads(path.read_text())
    cameras["frames"].pop(1)
    path.write_text(json.dumps(cameras))
    frames = frames_from_source(all_scenes(source))
    assert not frames.geometry and frames.upright
    assert "scene room1/images has no cameras.json that lists all its images" in frames.geometry_note
    done, read = pack_of(source, tmp_path / "pack")
    assert not done.geometry and read.record(0, 0).geometry is None


def test_depth_that_does_not_match_its_image_is_named(posed, tmp_path):
    source = copy_of(posed, tmp_path / "posed")
    depth = tmp_path / "posed" / "room0" / "depth"
    Image.new("I;16", (64, 48)).save(depth / "0.png")
    Image.new("L", (WIDTH, HEIGHT)).save(depth / "1.png")
    (depth / "2.png").unlink()
    done, read = pack_of(source, tmp_path / "pack", max_bad_fraction=0.5)
    assert done.dropped == ["room0/images"] and len(read.scenes) == 1
    messages = "\n".join(done.skipped)
    assert "the image is 128x96, but its depth is 64x48" in messages
    assert "its depth has pixel mode L, not 16 bits of grey" in messages
    assert "depth/2.png: No such file" in messages


def test_depth_of_other_kinds_of_files_is_packed_in_millimetres(posed, tmp_path):
    floats = copy_of(posed, tmp_path / "posed")
    for path in (tmp_path / "posed").rglob("cameras.json"):
        path.write_text(path.read_text().replace('.png", "intrinsics', '.npy", "intrinsics'))
    for path in (tmp_path / "posed").rglob("depth/*.png"):
        np.save(path.with_suffix(".npy"), np.asarray(Image.open(path)) / np.float32(1000))
        path.unlink()
    _, expected = pack_of(posed, tmp_path / "a")
    _, found = pack_of(floats, tmp_path / "b")
    for view in range(3):
        np.testing.assert_array_equal(depth_of(found.record(0, view)), depth_of(expected.record(0, view)))
