"""Depth maps of every kind of file, with and without a unit."""

import sys

import numpy as np
import pytest
from PIL import Image

from muskie_jax.data.depth import depth_size, load_depth, natural_unit
from muskie_jax.data.images import BadImage
from muskie_jax.errors import UserError
from muskie_tests import posed_trees as trees

METRES = np.array([[0.5, 1.25, 0.0], [3.0, 7.0, 2.5]], np.float32)
MILLIMETRES = (1000 * METRES).astype(np.uint16)


def write_image(path, values):
    Image.fromarray(values).save(path)


def write_pfm(path, values):
    """PFM stores rows from the bottom up."""
    header = f"Pf\n{values.shape[1]} {values.shape[0]}\n-1.0\n".encode()
    path.write_bytes(header + values[::-1].astype("<f4").tobytes())


def write_exr(*names, colours=()):
    """Returns a function that writes values to some channels, and zeros to others."""

    def write(path, values):
        channels = {name: values for name in names} | {name: 0 * values for name in colours}
        trees.write_exr(path, channels)

    return write


KINDS = {
    "a.png": (write_image, MILLIMETRES),
    "a.tif": (write_image, MILLIMETRES),
    "float.tiff": (write_image, METRES),
    "a.pfm": (write_pfm, METRES),
    "a.npy": (np.save, METRES),
    "half.npy": (np.save, METRES.astype(np.float16)),
    "double.npy": (np.save, METRES.astype(np.float64)[None]),
    "channel.NPY": (lambda path, values: np.save(path.open("wb"), values), METRES[..., None]),
    "integers.npy": (np.save, MILLIMETRES.astype(np.int64)),
}
EXR = {
    "y.exr": write_exr("Y"),
    "any.exr": write_exr("reflectance"),
    "rendered.exr": write_exr("ViewLayer.Depth.Z", colours="RGB"),
    "grey.exr": write_exr("R", "G", "B"),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("name", KINDS)
def test_depth_is_in_metres(tmp_path, name):
    path = tmp_path / name
    write, values = KINDS[name]
    write(path, values)
    assert depth_size(path) == (2, 3)
    depth = load_depth(path)
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, METRES, rtol=1e-6)
    unit = 1.0 if values.dtype.kind == "f" else 1e-3
    assert natural_unit(path) == unit
    np.testing.assert_allclose(load_depth(path, 2e-4), METRES * (2e-4 / unit), rtol=1e-6)


@pytest.mark.parametrize("name", [pytest.param(name, marks=trees.needs("OpenEXR")) for name in EXR])
def test_depth_in_exr_files(tmp_path, name):
    path = tmp_path / name
    EXR[name](path, METRES)
    assert depth_size(path) == (2, 3) and natural_unit(path) == 1
    np.testing.assert_array_equal(load_depth(path), METRES)


def test_invalid_floats_are_missing(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[np.nan, np.inf, -np.inf], [-1.0, 0.0, 2.0]]))
    assert load_depth(tmp_path / "a.npy").tolist() == [[0, 0, 0], [0, 0, 2]]


BAD = {
    "text.npy": (lambda path: np.save(path, np.array([["a"]])), "has the type <U1, not integers or floats"),
    "long.npy": (lambda path: np.save(path, np.zeros(5)), r"has the shape \(5,\), not \(height, width\)"),
    "colours.npy": (lambda path: np.save(path, np.zeros((4, 5, 3))), r"has the shape \(4, 5, 3\)"),
    "objects.npy": (lambda path: np.save(path, np.array([[{}]])), "has the type object"),
    "noise.npy": (lambda path: path.write_bytes(b"noise"), "its depth: "),
    "empty.npy": (lambda path: np.save(path, np.zeros((0, 4))), "4x0, is empty"),
    "missing.npy": (lambda path: None, "missing.npy: No such file"),
    "missing.png": (lambda path: None, "missing.png: No such file"),
    "a.png": (
        lambda path: write_image(path, np.zeros((2, 3), np.uint8)),
        "pixel mode L, not 16 bits of grey or floats",
    ),
    "a.jpg": (
        lambda path: write_image(path, np.zeros((2, 3), np.uint8)),
        "its depth: not one of PNG, TIFF, PPM",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_files_that_are_no_depth_maps(tmp_path, name):
    path = tmp_path / name
    write, expected = BAD[name]
    write(path)
    for function in (load_depth, depth_size):
        with pytest.raises(BadImage, match=expected) as caught:
            function(path)
        assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.extras
def test_bad_exr_files(tmp_path):
    pytest.importorskip("OpenEXR", reason="OpenEXR is not installed")
    path = tmp_path / "a.exr"
    trees.write_exr(path, {name: METRES for name in ("normal.X", "normal.W")})
    with pytest.raises(
        BadImage, match=r"a.exr: its channels are normal.W, normal.X, none of which is called"
    ):
        depth_size(path)
    path.write_bytes(b"noise")
    with pytest.raises(BadImage, match="a.exr: "):
        load_depth(path)
    with pytest.raises(BadImage, match="b.exr: No such file or directory"):
        load_depth(tmp_path / "b.exr")


def test_exr_files_need_an_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "OpenEXR", None)
    with pytest.raises(UserError, match=r'depth in .exr files needs OpenEXR: install .* -e "\.\[exr\]"'):
        depth_size(tmp_path / "a.exr")
