"""Frames, crops and flips of a sample."""

import io

import numpy as np
import pytest
from PIL import Image

from muskie_jax.data.images import open_photograph
from muskie_jax.data.views import augment, centre_box, centre_view, random_crop_box, sample_frames

COLOURS = np.array([[[200, 30, 60], [10, 220, 90]], [[40, 50, 250], [255, 255, 255]]], np.uint8)
SOLID = np.kron(COLOURS, np.ones((8, 8, 1), np.uint8))


def test_windows_and_repetition():
    rng = np.random.default_rng(0)
    for _ in range(200):
        frames, spare = sample_frames(rng, num_frames=100, num_views=8, window=16)
        assert len(set(frames)) == 8 and frames.max() - frames.min() < 16
        assert sorted([*frames, *spare]) == list(range(100)), "a frame is lost or repeated"
        near = [*frames, *spare[:8]]
        assert max(near) - min(near) < 16, "spare frames of the window do not come first"
    short, spare = sample_frames(rng, num_frames=3, num_views=8, window=None)
    assert len(spare) == 0
    assert sorted(np.bincount(short)) == [2, 3, 3], "a frame repeats before all were drawn"
    assert set(short[:3]) == {0, 1, 2} == set(short[3:6])
    starts = [sample_frames(rng, 10, 2, 8)[0].min() for _ in range(500)]
    assert min(starts) == 0 and max(starts) >= 7, "windows do not reach both ends"


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
    assert 1.49 < ratio.min() and ratio.max() < 2.67, "the aspect is not relative to the output's"


def test_an_image_of_extreme_shape_falls_back_to_its_centre():
    box = random_crop_box(np.random.default_rng(0), (100, 1000), (64, 64))
    assert box == pytest.approx((433.33, 0, 566.67, 100), abs=0.01)
    assert centre_box((100, 1000), 1.0) == (450, 0, 550, 100)


def test_augmentation_flips_both_ways_and_keeps_colours():
    file = io.BytesIO()
    Image.fromarray(SOLID).save(file, "PNG")
    photograph = open_photograph(file.getvalue(), "four colours")
    rng = np.random.default_rng(0)
    corners = {tuple(augment(rng, photograph, (32, 32))[2, 2]) for _ in range(40)}
    assert corners == {tuple(colour) for colour in COLOURS.reshape(-1, 3)}
    assert (centre_view(photograph, (16, 16)) == SOLID).all()
    assert augment(rng, photograph, (16, 48)).shape == (16, 48, 3)


def test_views_of_a_region_stay_inside_it():
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    Image.fromarray(SOLID).save(file, "PNG")
    photograph = open_photograph(file.getvalue(), "four colours")
    region = (8.0, 0.0, 16.0, 8.0)  # the corner of the second colour
    assert (centre_view(photograph, (8, 8), region) == COLOURS[0, 1]).all()
    # Interpolation reads two pixels beyond a box, so only the far side has exactly one colour.
    for _ in range(40):
        view = augment(rng, photograph, (8, 8), region)
        assert (np.abs(view.astype(int) - COLOURS[0, 1]).sum(-1) == 0).any((0, 1))
        assert (view[2:6, 2:6] == COLOURS[0, 1]).all()
    full = (0.0, 0.0, 16.0, 16.0)
    a, b = (augment(np.random.default_rng(3), photograph, (8, 8), box) for box in (None, full))
    assert (a == b).all()
