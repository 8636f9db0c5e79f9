"""Reading photographs: every kind becomes upright uint8 RGB, or is refused by name."""

import numpy as np
import pytest
from PIL import Image

from muskie_jax.data.images import BadImage, open_rgb
from muskie_jax.data.views import augment, centre_box, centre_view, random_crop_box, sample_frames

COLOURS = np.array([[[200, 30, 60], [10, 220, 90]], [[40, 50, 250], [255, 255, 255]]], np.uint8)
SOLID = np.kron(COLOURS, np.ones((8, 8, 1), np.uint8))


def saved(path, image, **options):
    image.save(path, **options)
    return np.asarray(open_rgb(path))


def test_colour_images_are_read_as_they_are(tmp_path):
    assert (saved(tmp_path / "a.png", Image.fromarray(SOLID)) == SOLID).all()
    cmyk = saved(tmp_path / "c.tif", Image.fromarray(SOLID).convert("CMYK"))
    assert np.abs(cmyk.astype(int) - SOLID).max() <= 2
    palette = saved(tmp_path / "p.png", Image.fromarray(SOLID).convert("P", palette=Image.Palette.ADAPTIVE))
    assert np.abs(palette.astype(int) - SOLID).max() <= 8


def test_grey_and_transparent_images(tmp_path):
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for name, image in {"l": Image.fromarray(grey), "la": Image.fromarray(grey).convert("LA")}.items():
        assert (saved(tmp_path / f"{name}.png", image) == grey[..., None]).all()
    rgba = np.dstack([SOLID, np.full((16, 16), 255, np.uint8)])
    rgba[:, :8, 3] = 0
    read = saved(tmp_path / "rgba.png", Image.fromarray(rgba))
    assert (read[:, 8:] == SOLID[:, 8:]).all() and (read[:, :8] == 0).all()


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    deep = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    read = saved(tmp_path / "deep.png", Image.fromarray(deep))
    assert (read[..., 0] == np.arange(256).reshape(16, 16)).all()


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate clockwise to see it upright
    read = saved(tmp_path / "turned.png", Image.fromarray(SOLID), exif=exif)
    assert (read == np.rot90(SOLID, -1)).all()


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "truncated", "huge"])
def test_bad_files_are_refused_by_name(tmp_path, kind):
    path = tmp_path / f"{kind}.jpg"
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("not a photograph")
    elif kind in ("truncated", "huge"):
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(path)
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(BadImage, match=str(path)) as caught:
        open_rgb(path, max_pixels=1000 if kind == "huge" else 10**6)
    assert "\n" not in str(caught.value)


def test_windows_and_repetition():
    rng = np.random.default_rng(0)
    for _ in range(200):
        frames, spare = sample_frames(rng, num_frames=100, num_views=8, window=16)
        assert len(set(frames)) == 8 and frames.max() - frames.min() < 16
        assert sorted([*frames, *spare]) == list(range(100)), "the others stand by"
        near = [*frames, *spare[:8]]
        assert max(near) - min(near) < 16, "those of the window first"
    short, spare = sample_frames(rng, num_frames=3, num_views=8, window=None)
    assert len(spare) == 0
    assert sorted(np.bincount(short)) == [2, 3, 3], "all are used before one is used again"
    assert set(short[:3]) == {0, 1, 2} == set(short[3:6])
    starts = [sample_frames(rng, 10, 2, 8)[0].min() for _ in range(500)]
    assert min(starts) == 0 and max(starts) >= 7, "windows reach both ends"


def test_random_crops_have_the_stated_distribution():
    rng = np.random.default_rng(0)
    boxes = np.array([random_crop_box(rng, (480, 640), (224, 224)) for _ in range(2000)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 640 and bottom.max() <= 480
    area = (right - left) * (bottom - top) / (480 * 640)
    aspect = (right - left) / (bottom - top)
    assert 0.79 < area.min() < 0.81 and area.max() > 0.95
    assert 0.74 < aspect.min() and aspect.max() < 1.34
    wide = np.array([random_crop_box(rng, (480, 640), (224, 448)) for _ in range(200)])
    ratio = (wide[:, 2] - wide[:, 0]) / (wide[:, 3] - wide[:, 1])
    assert 1.49 < ratio.min() and ratio.max() < 2.67, "the aspect is relative to the output's"


def test_an_image_of_extreme_shape_falls_back_to_its_centre():
    box = random_crop_box(np.random.default_rng(0), (100, 1000), (64, 64))
    assert box == pytest.approx((433.33, 0, 566.67, 100), abs=0.01)
    assert centre_box((100, 1000), 1.0) == (450, 0, 550, 100)


def test_augmentation_flips_both_ways_and_keeps_colours():
    image = Image.fromarray(SOLID)
    rng = np.random.default_rng(0)
    corners = {tuple(augment(rng, image, (32, 32))[2, 2]) for _ in range(40)}
    assert corners == {tuple(colour) for colour in COLOURS.reshape(-1, 3)}
    assert (centre_view(image, (16, 16)) == SOLID).all()
    assert augment(rng, image, (16, 48)).shape == (16, 48, 3)
