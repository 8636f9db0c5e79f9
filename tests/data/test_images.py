"""Photographs of every kind are read as upright uint8 RGB, or rejected with a message."""

import concurrent.futures
import io
import struct
import zlib

import numpy as np
import pytest
import simplejpeg
from PIL import Image, ImageOps

from muskie_jax.data import images
from muskie_jax.data.formats import is_image
from muskie_jax.data.images import UPRIGHT, BadImage, Photograph, open_photograph, read_photograph
from muskie_jax.data.posed.headers import image_size

COLOURS = np.array([[[200, 30, 60], [10, 220, 90]], [[40, 50, 250], [255, 255, 255]]], np.uint8)
SOLID = np.kron(COLOURS, np.ones((8, 8, 1), np.uint8))
INSIDE = np.kron(np.ones((2, 2)), np.pad(np.ones((4, 4)), 2)) > 0  # compression blurs the edges
BICUBIC = Image.Resampling.BICUBIC


def encoded(image: Image.Image | np.ndarray, kind: str = "PNG", **options) -> bytes:
    opened = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    opened.save(file, kind, **options)
    return file.getvalue()


def pixels_of(image, kind: str = "PNG", **options) -> np.ndarray:
    pixels = open_photograph(encoded(image, kind, **options), "a photograph").pixels()
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    return pixels


def textured(height: int, width: int, seed: int = 0) -> Image.Image:
    """Smooth noise at several scales, like a photograph without sharp edges."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cells in (4, 16, 48):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), np.uint8))
        total += np.asarray(noise.resize((width, height), BICUBIC)) / 3
    return Image.fromarray(total.astype(np.uint8))


def exif_of(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


# --- Pixel modes ------------------------------------------------------------------------------------


def test_colour_images_are_read_unchanged():
    assert (pixels_of(SOLID) == SOLID).all()
    assert (pixels_of(SOLID, "WEBP", lossless=True) == SOLID).all()
    palette = Image.fromarray(SOLID).convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.abs(pixels_of(palette).astype(int) - SOLID).max() <= 8
    for kind in ("JPEG", "WEBP"):
        read = pixels_of(SOLID, kind, quality=95).astype(int)
        assert np.abs(read - SOLID)[INSIDE].max() <= 12


def test_grey_images():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for image in (Image.fromarray(grey), Image.fromarray(grey).convert("LA")):
        assert (pixels_of(image) == grey[..., None]).all()
    jpeg = pixels_of(grey, "JPEG", quality=100)
    assert np.abs(jpeg.astype(int) - grey[..., None]).max() <= 2
    bits = np.tile([[True, False], [False, True]], (8, 8))
    assert (pixels_of(Image.fromarray(bits)) == 255 * bits[..., None]).all()


def test_transparent_images_are_composited_over_black():
    rgba = np.dstack([SOLID, np.full((16, 16), 255, np.uint8)])
    rgba[:, :8, 3] = 0
    over_black = np.where(rgba[..., 3:] > 0, SOLID, 0)
    assert (pixels_of(rgba) == over_black).all()
    assert (pixels_of(rgba, "WEBP", lossless=True) == over_black).all()
    grey = Image.fromarray(rgba).convert("LA")
    assert (pixels_of(grey)[:, :8] == 0).all() and pixels_of(grey)[:, 8:].min() > 0
    palette = Image.fromarray(SOLID).quantize(4)
    first = palette.getpixel((0, 0))
    read = pixels_of(palette, transparency=first)
    assert (read[:8, :8] == 0).all() and (read[:8, 8:] == SOLID[:8, 8:]).all()
    keyed = pixels_of(SOLID, transparency=tuple(int(c) for c in COLOURS[1, 1]))
    assert (keyed[8:, 8:] == 0).all() and (keyed[:8] == SOLID[:8]).all()


def test_cmyk():
    cmyk = Image.fromarray(SOLID).convert("CMYK")
    assert np.abs(pixels_of(cmyk, "TIFF").astype(int) - SOLID).max() <= 2
    # JPEG files store inverted inks, as Adobe defined it.
    assert np.abs(pixels_of(cmyk, "JPEG", quality=98).astype(int) - SOLID).max() <= 12
    inverted = np.ascontiguousarray(255 - np.asarray(cmyk))
    ycck = simplejpeg.encode_jpeg(inverted, quality=98, colorspace="CMYK", colorsubsampling="420")
    assert simplejpeg.decode_jpeg_header(ycck)[2] == "YCCK"
    read = open_photograph(ycck, "ycck").pixels().astype(int)
    assert np.abs(read - SOLID)[INSIDE].max() <= 12


def test_sixteen_bit_grey_is_scaled_not_clipped():
    deep = (np.arange(256, dtype=np.uint16) * 256 + 200).reshape(16, 16)
    assert (pixels_of(deep) == np.arange(256).reshape(16, 16, 1)).all()
    assert (pixels_of(deep, "TIFF") == np.arange(256).reshape(16, 16, 1)).all()


def test_sixteen_bit_colour_is_scaled_not_clipped():
    deep = SOLID.astype(np.uint16) * 256 + 77
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    chunk = lambda kind, body: (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    )
    header = struct.pack(">IIBBBBB", 16, 16, 16, 2, 0, 0, 0)  # 16 bits, RGB
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows))
    assert (open_photograph(png + chunk(b"IEND", b""), "deep").pixels() == SOLID).all()


@pytest.mark.parametrize("kind", ["TIFF", "BMP"])
def test_tiff_and_bmp(kind):
    assert (pixels_of(SOLID, kind) == SOLID).all()
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert (pixels_of(grey, kind) == grey[..., None]).all()
    with pytest.raises(BadImage, match="^cut short: "):
        open_photograph(encoded(textured(64, 64), kind)[:2000], "cut short").pixels()


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_compressed_tiff(compression):
    assert (pixels_of(SOLID, "TIFF", compression=compression) == SOLID).all()


def test_sixteen_bit_colour_tiff_is_scaled_not_clipped():
    deep = (SOLID.astype("<u2") * 256 + 77).tobytes()
    sizes = 8 + 2 + 9 * 12 + 4  # offset of the three channels' bits, after the directory; then pixels
    # Tag, type (3: two bytes, 4: four bytes), count, value or offset.
    tags = [(256, 3, 1, 16), (257, 3, 1, 16), (258, 3, 3, sizes), (259, 3, 1, 1), (262, 3, 1, 2)]
    tags += [(273, 4, 1, sizes + 6), (277, 3, 1, 3), (278, 3, 1, 16), (279, 4, 1, len(deep))]
    directory = struct.pack("<H", 9) + b"".join(struct.pack("<HHII", *tag) for tag in tags)
    tiff = b"II*\0\x08\0\0\0" + directory + b"\0" * 4 + struct.pack("<HHH", 16, 16, 16) + deep
    assert (open_photograph(tiff, "deep.tif").pixels() == SOLID).all()


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_the_orientation_of_a_tiff_is_applied_once(orientation, compression):
    """Pillow turns TIFF files, and no others, when it decodes them."""
    stored = np.asarray(textured(45, 70))
    png = Image.open(io.BytesIO(encoded(stored, "PNG", exif=exif_of(orientation))))
    upright = np.asarray(ImageOps.exif_transpose(png))
    data = encoded(stored, "TIFF", exif=exif_of(orientation), compression=compression)
    photograph = open_photograph(data, "turned.tif")
    assert (photograph.height, photograph.width) == upright.shape[:2]
    assert (photograph.pixels() == upright).all()
    as_stored = open_photograph(data, "turned.tif", upright=False)
    assert (as_stored.height, as_stored.width) == (45, 70) and (as_stored.pixels() == stored).all()


@pytest.mark.parametrize("upright", [True, False])
@pytest.mark.parametrize("kind", ["TIFF", "JPEG", "PNG"])
def test_sizes_from_headers_are_those_of_photographs(tmp_path, kind, upright):
    path = tmp_path / f"turned.{kind.lower()}"
    path.write_bytes(encoded(textured(45, 70), kind, exif=exif_of(6)))
    assert image_size(path, upright) == read_photograph(path, upright).pixels().shape[:2]


def test_heic_without_pillow_heif_names_the_install_command(monkeypatch):
    monkeypatch.setattr(images, "HAS_HEIF", False)
    data = b"\0\0\0\x18ftypheic" + bytes(100)
    with pytest.raises(BadImage, match=r'^IMG_1.jpg: a HEIC image: install pillow-heif .*-e "\.\[heic\]"'):
        open_photograph(data, "IMG_1.jpg")


@pytest.mark.extras
@pytest.mark.parametrize("orientation", [1, 6])
def test_heic(tmp_path, orientation):
    pytest.importorskip("pillow_heif", reason="pillow-heif is not installed")
    path = tmp_path / "IMG_1.HEIC"
    image = textured(96, 160)
    image.save(path, "HEIF", quality=95, exif=exif_of(orientation).tobytes())
    expected = np.rot90(np.asarray(image), -1) if orientation == 6 else np.asarray(image)
    photograph = read_photograph(path)
    assert (photograph.height, photograph.width) == expected.shape[:2]
    assert np.abs(photograph.pixels().astype(int) - expected).mean() < 8  # its colours are subsampled
    assert image_size(path, upright=True) == expected.shape[:2]
    assert is_image(path.name)
    with pytest.raises(BadImage, match="^cut short: "):
        open_photograph(path.read_bytes()[:-200], "cut short").pixels()


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_unsupported_pixel_modes_are_rejected(mode):
    with pytest.raises(BadImage, match=f"^scan.tif: pixel mode {mode} is not supported"):
        open_photograph(encoded(Image.new(mode, (8, 8)), "TIFF"), "scan.tif")


# --- Orientation ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_is_applied_unless_stored_pixels_are_wanted(kind, orientation):
    image = textured(45, 70)
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(image, kind, exif=exif_of(orientation), **options)
    stored = Image.open(io.BytesIO(data))
    upright = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
    photograph = open_photograph(data, "turned")
    assert (photograph.height, photograph.width) == upright.shape[:2]
    assert np.abs(photograph.pixels().astype(int) - upright).max() <= 3
    as_stored = open_photograph(data, "turned", upright=False)
    assert (as_stored.height, as_stored.width) == (45, 70)
    assert np.abs(as_stored.pixels().astype(int) - np.asarray(stored.convert("RGB"))).max() <= 3


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("size", [(30, 40), (90, 100)])
def test_boxes_are_in_upright_coordinates(orientation, size):
    data = encoded(textured(403, 301), "JPEG", quality=98, exif=exif_of(orientation))
    photograph = open_photograph(data, "turned")
    box = (20.5, 41.0, photograph.width - 10.0, photograph.height - 99.5)
    full = Image.fromarray(photograph.pixels())
    expected = np.asarray(full.resize(size[::-1], BICUBIC, box=box)).astype(int)
    crop = photograph.crop(box, size)
    assert crop.shape == (*size, 3) and crop.flags.c_contiguous
    assert np.abs(crop - expected).mean() < 1


def test_the_orientation_of_a_png_may_follow_its_pixels():
    plain, turned = encoded(SOLID), encoded(SOLID, exif=exif_of(6))
    start = turned.index(b"eXIf") - 4
    chunk = turned[start : start + 12 + struct.unpack(">I", turned[start : start + 4])[0]]
    end = plain.index(b"IEND") - 4
    late = plain[:end] + chunk + plain[end:]
    assert (open_photograph(late, "late").pixels() == np.rot90(SOLID, -1)).all()


def test_an_invalid_orientation_is_ignored():
    assert (pixels_of(SOLID, exif=exif_of(9)) == SOLID).all()


# --- Crops ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("size", [(64, 48), (200, 300), (500, 640)])
def test_crops_are_bicubic_and_antialiased(kind, size):
    # The JPEG is decoded at a quarter of its size for 64x48, at a half for 200x300, and fully for 500x640.
    photograph = open_photograph(encoded(textured(481, 643), kind), "texture")
    full = Image.fromarray(photograph.pixels())
    box = (7.0, 11.0, 640.0, 467.0)
    expected = np.asarray(full.resize(size[::-1], BICUBIC, box=box)).astype(int)
    assert np.abs(photograph.crop(box, size) - expected).mean() < 0.6
    assert np.abs(photograph.crop(box, size) - expected).max() <= 8


def test_reduced_decoding_does_not_alias_fine_detail():
    stripes = np.tile(np.array([0, 255], np.uint8), 320)[None, :, None]
    data = encoded(np.broadcast_to(stripes, (480, 640, 3)).copy(), "JPEG", quality=95)
    for size in ((224, 224), (100, 100)):
        crop = open_photograph(data, "stripes").crop((0, 0, 640, 480), size)
        assert np.abs(crop[:, 4:-4].astype(int) - 127).max() <= 6


@pytest.mark.parametrize("width", range(257, 265))
@pytest.mark.parametrize("size", [30, 60, 100])
def test_boxes_are_exact_when_a_reduced_size_is_rounded_up(width, size):
    data = encoded(textured(width, width + 3, seed=width), "JPEG", quality=95)
    photograph = open_photograph(data, "texture")
    box = (33.25, 40.0, width - 1.5, width - 2.75)
    full = Image.fromarray(photograph.pixels())
    expected = np.asarray(full.resize((size, size), BICUBIC, box=box)).astype(float)
    difference = photograph.crop(box, (size, size)) - expected
    for axis in (0, 1):
        gradient = np.gradient(expected, axis=axis) * size / (width - 40)  # per pixel of the photograph
        # The shift in pixels that best explains the difference, in each half.
        for half in (slice(1, size // 2), slice(size // 2, -1)):
            part = (half, slice(1, -1)) if axis == 0 else (slice(1, -1), half)
            shift = (gradient[part] * difference[part]).sum() / (gradient[part] ** 2).sum()
            assert abs(shift) < 0.1


def test_a_crop_decodes_at_the_smallest_sufficient_scale(monkeypatch):
    scales = []
    decode = Photograph.decode
    monkeypatch.setattr(Photograph, "decode", lambda self, s: scales.append(s) or decode(self, s))
    photograph = open_photograph(encoded(textured(480, 640), "JPEG"), "texture")
    for size in ((120, 120), (121, 120), (240, 320), (240, 321), (480, 640)):
        photograph.crop((0, 0, 640, 480), size)
    photograph.crop((0, 0, 320, 240), (120, 120))
    assert scales == [4, 2, 2, 1, 1, 2]


def test_edges_outside_the_image_by_rounding_are_clipped():
    photograph = open_photograph(encoded(SOLID), "solid")
    crop = photograph.crop((-1e-12, 0, 16 + 1e-12, 16), (16, 16))
    assert (crop == SOLID).all()


def test_crops_do_not_depend_on_the_thread():
    photographs = [open_photograph(encoded(textured(240, 320, seed), "JPEG"), "a") for seed in range(6)]
    crop = lambda photograph: photograph.crop((3, 5, 300, 230), (100, 110))
    alone = [crop(photograph) for photograph in photographs]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for ours, other in zip(alone, pool.map(crop, photographs)):
                assert (ours == other).all()


# --- Bad files --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["missing", "a folder", "empty", "text"])
def test_bad_files_are_rejected_by_name(tmp_path, kind):
    path = tmp_path / f"{kind}.jpg"
    if kind == "a folder":
        path.mkdir()
    elif kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not a photograph")
    with pytest.raises(BadImage, match=f"^{path}: ") as caught:
        read_photograph(path)
    assert "\n" not in str(caught.value) and "0x" not in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("fraction", [0.3, 0.6, 0.9, 0.99])
def test_truncated_files_are_rejected(kind, fraction):
    data = encoded(textured(100, 120), kind)
    with pytest.raises(BadImage, match="^cut short: "):
        open_photograph(data[: int(fraction * len(data))], "cut short").crop((0, 0, 120, 100), (20, 20))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_huge_images_are_rejected_from_their_header():
    for side, reason in (
        (12_000, "12000x12000 is over 100,000,000 pixels"),
        (30_000, "it is over 100,000,000 pixels"),
    ):
        header = encoded(Image.new("1", (side, side)))[:200]  # has the size, but no pixels
        with pytest.raises(BadImage, match=f"^bomb: {reason}"):
            open_photograph(header, "bomb")
    with pytest.raises(BadImage, match="^large: 16x16 is over 255 pixels"):
        open_photograph(encoded(SOLID), "large", max_pixels=255)
    open_photograph(encoded(SOLID), "just right", max_pixels=256)


def test_huge_files_are_rejected_without_reading_them(tmp_path):
    path = tmp_path / "sparse.jpg"
    with path.open("wb") as file:
        file.truncate(200 * 10**9)  # takes no space on the disk
    with pytest.raises(BadImage, match=f"^{path}: a file of 200.0 GB, over 1 GB: make it smaller"):
        read_photograph(path)


def test_postscript_programs_are_not_run():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
    assert Image.open(io.BytesIO(postscript)).format == "EPS"
    with pytest.raises(BadImage, match="not one of JPEG, PNG"):
        open_photograph(postscript, "guise.jpg")


def test_a_jpeg_that_only_pillow_reads_is_read():
    data = encoded(np.kron(SOLID, np.ones((4, 4, 1), np.uint8)), "JPEG", quality=95)
    scan = data.index(b"\xff\xda")
    odd = data[:scan] + b"\0" * 5 + data[scan:]  # bytes outside any segment
    with pytest.raises(ValueError, match="extraneous bytes"):
        simplejpeg.decode_jpeg(odd)
    read = open_photograph(odd, "odd").crop((0, 0, 64, 64), (16, 16)).astype(int)
    assert np.abs(read - SOLID)[INSIDE].max() <= 12
