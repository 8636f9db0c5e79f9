"""COLMAP models as people have them: several, in other folders, distorted, with spaces in names."""

import shutil

import numpy as np
import pytest

from muskie_jax.data.posed import open_posed
from muskie_jax.data.posed.distortion import distortion_pixels
from muskie_jax.data.posed.settings import posed
from muskie_jax.errors import UserError
from muskie_tests import posed_trees as trees
from muskie_tests.posed_trees import SIZE

pytestmark = trees.needs("pycolmap")


def opened(root, views=3, **settings):
    settings = {"groups": 0, "select": "rotation"} | settings
    return open_posed("mine", posed("colmap", str(root), **settings), views)


def error_of(root, **settings):
    with pytest.raises(UserError) as caught:
        opened(root, **settings)
    return str(caught.value)


@pytest.fixture
def garden(tmp_path):
    trees.colmap(tmp_path)
    return tmp_path / "garden"


def reduced(garden, target, count):
    """Writes a model of only the first `count` images."""
    import pycolmap  # pyright: ignore[reportMissingImports]  # an optional extra

    model = pycolmap.Reconstruction(str(garden / "sparse"))
    for number in list(model.images):
        if number > count:
            model.deregister_frame(model.images[number].frame_id)
    target.mkdir(parents=True)
    model.write(str(target))


def test_the_largest_model_is_read(garden, capsys):
    reduced(garden, garden / "models" / "0", 2)
    shutil.copytree(garden / "sparse", garden / "models" / "1")
    reduced(garden, garden / "models" / "2", 4)
    shutil.rmtree(garden / "sparse")
    (garden / "models").rename(garden / "sparse")
    assert len(opened(garden.parent).groups) == 6
    assert capsys.readouterr().err == (
        f"config.posed.mine: {garden}/sparse/1: it is the largest of 3 models, with 6 images; left out "
        "0 (2), 2 (4)\n"
    )


@pytest.mark.parametrize("folder", ["sparse/0", "colmap/sparse/0", "colmap/sparse", "sparse/aligned"])
def test_folders_of_a_model(garden, folder, capsys):
    (garden / "sparse").rename(garden / "moved")
    (garden / folder).parent.mkdir(parents=True, exist_ok=True)
    (garden / "moved").rename(garden / folder)
    roots = [garden.parent, garden, garden / folder]
    if folder == "sparse/0":
        roots.append(garden / "sparse")
    for root in roots:
        found = opened(root)
        assert found.groups[0].label == "garden/00" and len(found.groups) == 6
        assert found.load(0, SIZE).valid.all()
    assert capsys.readouterr().err == ""


def with_camera(garden, model, params):
    import pycolmap  # pyright: ignore[reportMissingImports]  # an optional extra

    reconstruction = pycolmap.Reconstruction(str(garden / "sparse"))
    camera = reconstruction.cameras[1]
    camera.model = getattr(pycolmap.CameraModelId, model)
    camera.params = params
    reconstruction.write(str(garden / "sparse"))


PINHOLE = [70.0, 72.0, 42.5, 28.0]
DISTORTED = {
    "SIMPLE_RADIAL": ([70.0, 42.5, 28.0, 1e-3], [70.0, 42.5, 28.0, 1e-2]),
    "RADIAL": ([70.0, 42.5, 28.0, 1e-3, -1e-3], [70.0, 42.5, 28.0, 0.0, 1e-2]),
    "OPENCV": ([*PINHOLE, 0.0, 0.0, 1e-4, 1e-4], [*PINHOLE, 0.0, 0.0, 0.0, 3e-3]),
}


@pytest.mark.parametrize("model", DISTORTED)
def test_negligible_distortion_is_accepted(garden, model):
    negligible, too_much = DISTORTED[model]
    with_camera(garden, model, negligible)
    focal = 72 if model == "OPENCV" else 70
    views = opened(garden).load(0, SIZE)
    np.testing.assert_allclose(views.intrinsics[0], [[70, 0, 42.5], [0, focal, 28], [0, 0, 1]])
    with_camera(garden, model, too_much)
    message = error_of(garden)
    assert f"garden, 00.png: the lens distortion ({model}) is up to 0." in message
    assert (
        f"run colmap image_undistorter --image_path {garden}/images --input_path {garden}/sparse "
        f"--output_path {garden}/undistorted, and set root={garden}/undistorted"
    ) in message


def test_distortion_is_that_of_colmap():
    import pycolmap  # pyright: ignore[reportMissingImports]  # an optional extra

    coefficients = {"k1": 3e-3, "k2": -2e-3, "p1": 1e-3, "p2": -2e-3}
    params = [*PINHOLE, *coefficients.values()]
    camera = pycolmap.Camera(model="OPENCV", width=SIZE[1], height=SIZE[0], params=params)
    pixels = np.array([[x, y, 1.0] for x in np.linspace(0, 80, 9) for y in np.linspace(0, 60, 9)])
    rays = pixels @ np.linalg.inv(trees.INTRINSICS).T
    moved = np.linalg.norm(camera.img_from_cam(rays) - pixels[:, :2], axis=1).max()
    assert moved > 0.1
    assert distortion_pixels(coefficients, trees.INTRINSICS, SIZE) == pytest.approx(moved)


def test_other_cameras_are_refused(garden):
    with_camera(garden, "OPENCV_FISHEYE", [*PINHOLE, 0.0, 0.0, 0.0, 0.0])
    message = error_of(garden)
    assert "00.png: the camera model is OPENCV_FISHEYE, not a pinhole: run colmap image_undist" in message


def test_names_with_spaces_in_text_models(garden):
    import pycolmap  # pyright: ignore[reportMissingImports]  # an optional extra

    sparse = garden / "sparse"
    model = pycolmap.Reconstruction(str(sparse))
    shutil.rmtree(sparse)
    sparse.mkdir()
    model.write_text(str(sparse))
    names = sparse / "images.txt"
    text = names.read_text()
    for number in range(6):
        text = text.replace(f"0{number}.png", f"my room/photo 0{number}.png")
        for folder, end in (("images", ""), ("stereo/depth_maps", ".geometric.bin")):
            new = garden / folder / "my room" / f"photo 0{number}.png{end}"
            new.parent.mkdir(exist_ok=True)
            (garden / folder / f"0{number}.png{end}").rename(new)
    names.write_text(text)
    found = opened(garden)
    assert found.has_depth and [group.label for group in found.groups] == [
        f"garden/photo 0{number}" for number in range(6)
    ]
    assert found.load(0, SIZE).valid.all()


def add_points(garden, observed):
    """Adds a triangulated point on the wall for each list of images that observe it."""
    import pycolmap  # pyright: ignore[reportMissingImports]  # an optional extra

    model = pycolmap.Reconstruction(str(garden / "sparse"))
    seen = {number: [] for number in model.images}
    for point, numbers in enumerate(observed):
        for number in numbers:
            seen[number].append(point)
    for number, points in seen.items():
        model.images[number].points2D = pycolmap.Point2DList([pycolmap.Point2D([1.0, 1.0])] * len(points))
    for point, numbers in enumerate(observed):
        track = pycolmap.Track()
        for number in numbers:
            track.add_element(number, seen[number].index(point))
        x, y = 0.1 * (point % 10) - 0.5, 0.1 * (point // 10) - 0.3
        model.add_point3D([x, y, 3 - 0.2 * x + 0.1 * y], track)
    model.write(str(garden / "sparse"))


def test_without_depth_groups_share_points(garden):
    shutil.rmtree(garden / "stereo")
    assert opened(garden, select="").groups[0].frames[0] == "garden/00", "by rotation, without points"
    add_points(garden, [(1, 2, 3)] * 20 + [(4, 5, 6)] * 20)
    groups = opened(garden, select="", overlap=(0.05, 1.0)).groups
    assert len(groups) == 6
    for group in groups:
        numbers = {int(name[-2:]) for name in group.frames}
        assert numbers in ({0, 1, 2}, {3, 4, 5}), "images without a common point do not overlap"
    message = error_of(garden, select="", overlap=(0.01, 0.02))
    assert "frames that see 1% to 2% of another: use config.posed.mine.overlap=(0.01, 1.0), or" in message
