"""`muskie reconstruct`: point clouds and cameras of photographs, and the files they are written to."""

import base64
import io
import json
import pathlib
import re
import sys

import numpy as np
import pytest

from muskie_jax import save_pretrained
from muskie_jax.errors import UserError
from muskie_jax.photographs.reconstructing import (
    ReconstructionNetwork,
    Scene,
    open_reconstruction,
    reconstruct_photographs,
)
from muskie_jax.photographs.scene_files import (
    LINES,
    SAMPLES,
    camera_lines,
    linear,
    plan_scene_file,
    write_scene,
)
from muskie_tests import golden_reconstruction as golden
from muskie_tests.commands import complaint_of, run_in_process
from muskie_tests.networks import random_network
from muskie_tests.photographs import texture, write_photograph


@pytest.fixture
def photographs(tmp_path):
    """Two photographs of 64 x 96 pixels."""
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for seed, path in enumerate(paths):
        write_photograph(path, texture(64, 96, seed=seed))
    return paths


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights") / "decoder"
    save_pretrained(folder, golden.model(), golden.params())
    return folder


def scene(views=2):
    """Two points; the second camera is turned by a quarter about its z axis."""
    poses = np.repeat(np.eye(4)[None], views, 0)
    poses[1:, :3, :3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]]
    poses[1:, :3, 3] = (3, 0, 0)
    points = np.array([[0, 2, 4], [1, 0, 8]])
    colours = np.array([[255, 0, 0], [0, 128, 255]], np.uint8)
    paths = tuple(pathlib.Path(f"{i}.jpg") for i in range(views))
    tangents = np.tile([0.5, 0.25], (views, 1))
    pictures = np.full((views, 32, 64, 3), 127, np.uint8)
    return Scene(points.astype(np.float32), colours, poses.astype(np.float32), tangents, paths, pictures)


def test_points_and_cameras_are_those_of_the_network(photographs, weights):
    network = open_reconstruction(weights)
    found = reconstruct_photographs(network, photographs, size=64)
    assert found.camera_to_world.shape == (2, 4, 4) and found.paths == tuple(photographs)
    assert 0 < len(found.points) == len(found.colours) <= 2 * 64 * 96
    np.testing.assert_array_equal(found.pictures[1], texture(64, 96, seed=1))
    assert network.size == 224, "unknown"
    as_in_training = reconstruct_photographs(network._replace(size=64), photographs)
    np.testing.assert_array_equal(as_in_training.points, found.points)
    few = reconstruct_photographs(network, photographs, size=64, max_points=100)
    assert len(few.points) == 100
    rows = {tuple(point) for point in found.points.tolist()}
    assert all(tuple(point) in rows for point in few.points.tolist())


class Pinhole:
    """Stands in for a network: a slanted plane with a step, seen by a camera of known field of view."""

    backbone = golden.model().backbone

    def apply(self, variables, images):
        from muskie_jax.models.reconstruction import ReconstructionOutput

        assert variables == {"params": {}}
        batch, views, height, width, _ = images.shape
        rows, columns = np.indices((height, width)) + 0.5
        depth = np.where(columns < width / 2, 2.0, 4.0) + 0.001 * rows
        x, y = 0.6 * (2 * columns / width - 1), 0.4 * (2 * rows / height - 1)
        local = np.stack([x * depth, y * depth, depth], -1)
        local = np.broadcast_to(local, (batch, views, height, width, 3)).astype(np.float32)
        pose = np.eye(4, dtype=np.float32)
        pose[:3] = [[0, 0, 1, 5], [1, 0, 0, 6], [0, 1, 0, 7]]
        points = local @ pose[:3, :3].T + pose[:3, 3]
        poses = np.broadcast_to(pose, (batch, views, 4, 4))
        return ReconstructionOutput(*map(np.asarray, (local, local[..., 0], poses, points)))


def test_field_of_view_is_found_and_edges_of_depth_are_left_out(photographs):
    found = reconstruct_photographs(ReconstructionNetwork("pinhole", Pinhole(), {}), photographs, size=64)
    np.testing.assert_allclose(found.tangents, [[0.6, 0.4]] * 2, rtol=1e-4)
    assert len(found.points) == 2 * 64 * (96 - 2)  # a column on each side of the step
    assert np.unique(found.colours, axis=0).shape[0] > 10


def test_a_scene_is_seen_from_its_first_camera(photographs):
    found = reconstruct_photographs(ReconstructionNetwork("pinhole", Pinhole(), {}), photographs, size=64)
    np.testing.assert_allclose(found.camera_to_world, [np.eye(4)] * 2, atol=1e-6)
    assert 2 < found.points[:, 2].min() and found.points[:, 2].max() < 4.1  # depth


def test_lines_of_cameras_start_at_their_centres_and_end_at_the_corners_of_views():
    lines = camera_lines(scene())
    assert lines.shape == (2, len(LINES), 2, 3)
    np.testing.assert_allclose(lines[1, :4, 0], [[3, 0, 0]] * 4)
    ends = (lines[1, :4, 1] - [3, 0, 0]) @ scene().camera_to_world[1, :3, :3] / lines[1, :4, 1, 2:]
    np.testing.assert_allclose(ends[:, :2], [[-0.5, -0.25], [0.5, -0.25], [0.5, 0.25], [-0.5, 0.25]])


def test_linear_colours_are_those_of_the_srgb_standard():
    found = linear(np.array([[0, 10, 128], [188, 254, 255]], np.uint8))
    np.testing.assert_array_equal(found, [[0, 1, 55], [128, 253, 255]])  # half the intensity is 188


@pytest.mark.extras
def test_files_have_points_colours_and_cameras_in_the_axes_of_viewers(tmp_path):
    trimesh = pytest.importorskip("trimesh")
    expected = np.array([[0, -2, -4], [1, 0, -8]])  # y up, z backward, from the first camera
    for suffix in (".glb", ".ply"):
        path = tmp_path / f"scene{suffix}"
        write_scene(path, scene())
        with pytest.raises(UserError, match="exists"):
            write_scene(path, scene())
        loaded = trimesh.load(io.BytesIO(path.read_bytes()), file_type=suffix[1:])
        cloud = loaded.geometry["points"] if suffix == ".glb" else loaded
        np.testing.assert_allclose(cloud.vertices[:2], expected, atol=1e-5)
        # Colours of .glb files are linear, by the specification of glTF 2.0.
        colours = linear(scene().colours) if suffix == ".glb" else scene().colours
        np.testing.assert_array_equal(np.asarray(cloud.colors)[:2, :3], colours)
        if suffix == ".ply":
            assert len(cloud.vertices) == 2 + 2 * len(LINES) * SAMPLES
        else:
            assert list(loaded.geometry) == ["points", "camera 1: 0.jpg", "camera 2: 1.jpg"]
            second = loaded.geometry["camera 2: 1.jpg"]
            centre = np.array([3, 0, 0])
            assert np.linalg.norm(second.vertices - centre, axis=1).min() < 1e-5


def test_the_command_writes_a_page_without_other_packages(photographs, weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trimesh", None)
    out = tmp_path / "new" / "kitchen.html"
    done = run_in_process(
        "muskie_jax",
        "reconstruct",
        *photographs,
        "--model",
        weights,
        "--size",
        64,
        "--max",
        50,
        "--out",
        out,
    )
    assert done.returncode == 0, done.stderr
    page = out.read_text()
    assert "<title>kitchen</title>" in page and '"name": "b.png"' in page
    assert f"{out}: 50 points of 2 photographs" in done.stderr
    (points,) = re.findall('"points": "(.*?)"', page)
    assert len(base64.b64decode(points)) == 50 * 6
    assert "exists: choose another path, or pass --force" in complaint_of(
        run_in_process("muskie_jax", "reconstruct", *photographs, "--model", weights, "--out", out)
    )


@pytest.mark.extras
def test_the_command_writes_a_scene(photographs, weights, tmp_path):
    pytest.importorskip("trimesh")
    out = tmp_path / "scene.glb"
    done = run_in_process(
        "muskie_jax", "reconstruct", *photographs, "--model", weights, "--size", 64, "--out", out
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["out"] == str(out) and out.stat().st_size > 1000
    assert [camera["photograph"] for camera in result["cameras"]] == [str(path) for path in photographs]
    assert f"{result['points']} points of 2 photographs" in done.stderr
    assert "exists: choose another path, or pass --force" in complaint_of(
        run_in_process("muskie_jax", "reconstruct", *photographs, "--model", weights, "--out", out)
    )


def run_at(size, weights, out, *photographs):
    return run_in_process(
        "muskie_jax", "reconstruct", *photographs, "--model", weights, "--size", size, "--out", out
    )


def test_the_command_says_what_the_network_sees_of_photographs(photographs, weights, tmp_path):
    tall = tmp_path / "tall.png"
    write_photograph(tall, texture(120, 40, seed=2))
    done = run_at(70, weights, tmp_path / "a.html", *photographs, tall)
    assert done.returncode == 0, done.stderr
    assert "as views of 112x64 pixels" in done.stderr, "70 is rounded to whole patches"
    expected = f"1 of 3 photographs lose more than 20% to the common aspect ratio; {tall} keeps 19%"
    assert expected in done.stderr
    done = run_at(64, weights, tmp_path / "b.html", photographs[0])
    assert "lose more" not in done.stderr and "points of 1 photograph\n" in done.stderr


def test_sizes_that_no_network_can_see_are_refused(photographs, weights, tmp_path):
    for size, expected in (
        (15, "--size=15 pixels must be at least the patch size"),
        (10**6, "at most 16384"),
    ):
        done = run_at(size, weights, tmp_path / "a.html", *photographs)
        assert expected in complaint_of(done)


def test_other_files_and_a_missing_package_are_refused(photographs, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"must be a page or a point cloud: .* \.html, \.glb or \.ply$"):
        plan_scene_file(str(tmp_path / "scene.obj"), photographs, False)
    monkeypatch.setitem(sys.modules, "trimesh", None)
    with pytest.raises(UserError, match=r'written by trimesh: install it .*"\.\[viewer\]"'):
        plan_scene_file(str(tmp_path / "scene.glb"), photographs, False)
    assert plan_scene_file(str(tmp_path / "scene.html"), photographs, False) == tmp_path / "scene.html"


def test_a_backbone_cannot_reconstruct(tmp_path):
    save_pretrained(tmp_path / "backbone", *random_network(0))
    with pytest.raises(UserError, match="is a backbone without a decoder of cameras and point maps: pass"):
        open_reconstruction(tmp_path / "backbone")
