"""`load_images`: photographs as views of one size, and the way back to pixels of the files."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

import muskie_jax
from conftest import ROOT
from muskie_jax import load_images
from muskie_jax.data.load_images import common_size, list_images
from muskie_jax.errors import UserError


def write(path: pathlib.Path, height: int, width: int, orientation: int = 1) -> pathlib.Path:
    """Writes an upright image of height x width whose red and green are its x and y, in pixels."""
    y, x = np.indices((height, width))
    upright = Image.fromarray(np.stack([x, y, 0 * x + 9], -1).astype(np.uint8))
    turn = {1: None, 6: Image.Transpose.ROTATE_90, 3: Image.Transpose.ROTATE_180}[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (upright if turn is None else upright.transpose(turn)).save(path, exif=exif)
    with Image.open(path) as image:
        assert ImageOps.exif_transpose(image).size == (width, height)
    return path


def test_views_are_upright_and_their_pixels_map_back_to_the_files(tmp_path):
    files = [write(tmp_path / "a.png", 144, 192), write(tmp_path / "b.png", 96, 128, orientation=6)]
    loaded = load_images(files, size=96)
    assert loaded.images.shape == (2, 96, 128, 3) and loaded.images.dtype == np.float32
    assert loaded.sizes.tolist() == [[144, 192], [96, 128]] and loaded.paths == tuple(files)
    np.testing.assert_allclose(loaded.crops, [[0, 0, 192, 144], [0, 0, 128, 96]])
    points = np.array([[20.5, 30.5], [100.5, 70.5]])
    for view, scale in enumerate((1.5, 1.0)):
        mapped = loaded.to_photograph(view, points)
        np.testing.assert_allclose(mapped, points * scale)
        for (x, y), expected in zip(points.astype(int), mapped):
            np.testing.assert_allclose(loaded.pixels()[view, y, x, :2] + 0.5, expected, atol=1)


def test_mixed_orientations_are_cropped_to_a_common_size(tmp_path):
    files = [write(tmp_path / "wide.png", 120, 160), write(tmp_path / "tall.png", 160, 120, orientation=6)]
    loaded = load_images(files, size=112)
    assert loaded.images.shape == (2, 112, 112, 3), "the median of 4:3 and 3:4"
    np.testing.assert_allclose(loaded.crops, [[20, 0, 140, 120], [0, 20, 120, 140]])
    for view in range(2):
        ((x, y),) = loaded.to_photograph(view, np.array([[56.5, 56.5]]))
        np.testing.assert_allclose(loaded.pixels()[view, 56, 56, :2] + 0.5, (x, y), atol=1.5)
    more = [*files, write(tmp_path / "another.png", 120, 160)]
    assert load_images(more, size=96).images.shape == (3, 96, 128, 3), "most are landscape"


def test_values_are_in_the_range_of_the_network(tmp_path):
    for name, value in (("black", 0), ("white", 255)):
        Image.new("RGB", (32, 32), (value, value, value)).save(tmp_path / f"{name}.png")
    loaded = load_images(tmp_path, size=32)
    assert (loaded.images[0] == -1).all() and (loaded.images[1] == 1).all()
    every = np.arange(256, dtype=np.float32)
    pixels = loaded._replace(images=every / np.float32(127.5) - 1).pixels()
    assert (pixels == every).all()


@pytest.mark.parametrize(
    "size, patch, expected",
    [
        (224, 16, (224, 304)),  # 298.7 is rounded
        (252, 14, (252, 336)),
        (230, 16, (224, 304)),  # a shorter side is rounded too
        ((448, 256), 16, (448, 256)),
    ],
)
def test_sizes(size, patch, expected):
    assert common_size(np.array([[120, 160]]), size, patch) == expected


def test_a_folder_is_loaded_in_natural_order(tmp_path):
    for name in ("10.png", "2.png", "1.PNG"):
        write(tmp_path / name, 32, 32)
    (tmp_path / "notes.txt").touch()
    (tmp_path / "more").mkdir()
    write(tmp_path / "more" / "3.png", 32, 32)
    assert [path.name for path in load_images(str(tmp_path), size=32).paths] == ["1.PNG", "2.png", "10.png"]
    assert list_images(tmp_path)[0] == tmp_path / "1.PNG"
    assert load_images(tmp_path / "2.png", size=32).images.shape == (1, 32, 32, 3)


def test_mistakes_are_one_line(tmp_path):
    good = write(tmp_path / "a.png", 32, 32)
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "walk.mp4").touch()
    (tmp_path / "scenes" / "kitchen").mkdir(parents=True)
    (tmp_path / "scenes" / "notes").mkdir()
    write(tmp_path / "scenes" / "kitchen" / "1.png", 32, 32)
    size = r" must be a number of pixels, or \(height, width\)$"
    for arguments, expected in (
        (([],), "there are no paths: pass a folder, or a list of files"),
        (([good, tmp_path / "bad.jpg"],), "bad.jpg: not one of JPEG, PNG"),
        (([tmp_path / "missing.jpg"],), "missing.jpg: No such file"),
        ((tmp_path / "nowhere",), "nowhere: No such file"),
        ((tmp_path / "videos",), "no image in .*; 1 .mp4 file, walk.mp4: extract frames with ffmpeg -i "),
        ((tmp_path / "videos" / "walk.mp4",), "is a video: extract frames with mkdir -p .* && ffmpeg -i "),
        (
            ([good], (448, 252)),
            r"size has 448x252, .*: the nearest valid sizes are \(448, 240\) and \(448, 2",
        ),
        (([good], 8), "size=8 pixels must be at least the patch size 16"),
        (([good], "224"), "^size='224'" + size),
        (([good], ("448", "256")), r"^size=\('448', '256'\)" + size),
        (([good], (448, 256, 3)), r"^size=\(448, 256, 3\)" + size),
        (
            (tmp_path / "scenes",),
            "^no image in '.*scenes': it contains folders of images, choose one, such as '.*kitchen'$",
        ),
    ):
        with pytest.raises(UserError, match=expected):
            load_images(*arguments)


def test_the_loader_needs_no_jax():
    code = "import sys, muskie_jax; muskie_jax.load_images; assert not {'jax', 'flax'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert "load_images" in dir(muskie_jax)
