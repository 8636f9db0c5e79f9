"""Settings that make the synthetic world's surfaces harder to tell apart, and light that moves."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.data.synthetic import sample_scene
from muskie_jax.data.synthetic.scenes import THIN, WorldConfig
from muskie_jax.data.synthetic.textures import procedural_colour
from muskie_jax.data.synthetic.viewpoints import camera_centres
from muskie_tests.synthetic_rooms import (
    EVEN,
    SEEDS,
    back_project,
    cast,
    keys,
    render,
    scenes,
)

# Rays through the centres of pixels, so that images can be compared with single rays.
SHARP = dataclasses.replace(EVEN, samples_per_pixel=1, ambient=(0.0, 0.0))


@functools.cache
def scenes_of(**settings):
    config = dataclasses.replace(EVEN, **settings)
    return jax.jit(jax.vmap(lambda key: sample_scene(key, config)))(keys())


def test_unvaried_textures_have_no_fields_for_variety():
    """Hence their programs stay small."""
    textures = scenes().textures
    assert textures.period is None and textures.gloss is None and textures.shininess is None


@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_plain_surfaces(fraction):
    plain, usual = scenes_of(plain_fraction=fraction).textures, scenes().textures
    is_plain = np.asarray(plain.contrast == 0)
    assert is_plain.mean() == pytest.approx(fraction, abs=0.06)
    assert not plain.use_photo[is_plain].any()
    for name in ("contrast", "detail", "dots", "lines", "use_photo"):
        changed, expected = (np.asarray(getattr(t, name))[~is_plain] for t in (plain, usual))
        np.testing.assert_allclose(changed, expected, rtol=1e-6, err_msg=name)

    spread_of = lambda textures, surface: np.std(colours(textures, surface), (0, 1)).max()
    varied = [spread_of(plain, surface) for surface in np.flatnonzero(is_plain[0])[:8]]
    assert max(varied) < 0.03 < np.mean([spread_of(usual, surface) for surface in range(8)])


def colours(textures, surface, shift=(0.0, 0.0)):
    """Colours (N, N, 3) of the first group's surface on a grid of 2 x 2 metres, shifted by metres."""
    u, v = jnp.meshgrid(jnp.linspace(-1, 1, 41), jnp.linspace(-1, 1, 41))
    index = jnp.full(u.shape, surface)
    first_group = jax.tree.map(lambda leaf: leaf[0], textures)
    footprint = jnp.full(u.shape, 0.002)
    return np.stack(procedural_colour(first_group, index, u + shift[0], v + shift[1], footprint), -1)


def test_repeating_textures_equal_themselves_one_period_away():
    textures = scenes_of(repeat_fraction=0.5).textures
    period = np.asarray(textures.period[0])
    repeats = period < 100
    assert repeats.mean() == pytest.approx(0.5, abs=0.12) and set(period[repeats]) == {1, 2, 3}
    to_metres = np.linalg.inv(textures.to_cells[0])
    for surface in (*np.flatnonzero(repeats)[:6], *np.flatnonzero(~repeats)[:3]):
        for direction in np.eye(2):
            shift = to_metres[surface] @ (direction * (period[surface] if repeats[surface] else 1))
            # Rounding moves single points across the edge between two tiles.
            same = np.abs(colours(textures, surface, shift) - colours(textures, surface)).max(-1) < 0.02
            assert (same.mean() > 0.97) == repeats[surface], surface


def test_surfaces_share_palettes():
    shared, usual = scenes_of(palette_fraction=0.6).textures.colours, scenes().textures.colours
    for group in range(3):
        distinct = len(np.unique(np.asarray(shared[group]).reshape(len(shared[group]), -1), axis=0))
        assert 0.25 < distinct / len(shared[group]) < 0.55
        assert len(np.unique(np.asarray(usual[group]).reshape(len(usual[group]), -1), axis=0)) > distinct


def test_thin_objects_are_poles_and_boards():
    thin, usual = (np.sort(2 * s.half_size[:, 1:], -1) for s in (scenes_of(thin_fraction=1.0), scenes()))
    boxes = slice(0, EVEN.num_boxes)
    round_ones = slice(EVEN.num_boxes, EVEN.num_boxes + EVEN.num_ellipsoids)
    thickness = thin[:, boxes, 0]
    assert (thickness >= 2 * THIN[0]).all() and (thickness <= 2 * THIN[1] + 1e-6).all()
    poles = thin[:, boxes, 1] <= 2 * THIN[1] + 1e-6
    assert 0.3 < poles.mean() < 0.7
    np.testing.assert_array_equal(thin[:, round_ones], usual[:, round_ones])
    some = np.sort(2 * scenes_of(thin_fraction=0.4).half_size[:, 1:], -1)[:, boxes, 0]
    assert 0.2 < (some <= 2 * THIN[1] + 1e-6).mean() < 0.6


def first_view(settings):
    """Images of the first view of all groups as numbers, its world points, and their cameras' centres."""
    views = render(dataclasses.replace(SHARP, **settings), SEEDS)
    cameras = views.cameras
    points = np.stack(
        [
            back_project(views.depth[g, 0], cameras.intrinsics[g, 0], cameras.world_to_camera[g, 0])
            for g in range(len(SEEDS))
        ]
    ).reshape(len(SEEDS), -1, 3)
    centres = np.asarray(camera_centres(cameras.world_to_camera))[:, :1]
    return views.images[:, 0].reshape(len(SEEDS), -1, 3).astype(int), points, centres


@pytest.mark.slow
def test_shadows_lie_where_the_lamp_is_hidden():
    """From the lamp, brute force: what it does not see is black if there is no ambient light."""
    unshadowed, points, _ = first_view({})
    shadowed, _, _ = first_view({"shadow": 1.0})
    lamp = np.asarray(scenes().light)[:, None]
    reached = np.asarray(cast(lamp, (points - lamp).astype(np.float32)).distance)
    hidden, seen = reached < 0.98, np.abs(reached - 1) < 1e-3
    assert 0.05 < hidden.mean() < 0.7
    # A surface's rim and the other surfaces that it touches round differently.
    assert (shadowed[hidden].max(-1) == 0).mean() > 0.98
    assert (shadowed == unshadowed).all(-1)[seen].mean() > 0.98
    assert (unshadowed[hidden].max(-1) > 0).mean() > 0.2, "not only surfaces that face away from the lamp"


@pytest.mark.slow
def test_highlights_are_mirror_images_of_the_lamp():
    matt, points, centres = first_view({})
    glossy, _, _ = first_view({"gloss": 0.8})
    brighter = (glossy - matt).min(-1)
    assert brighter.min() >= -1 and brighter.max() > 60
    assert (brighter < 2).mean() > 0.3
    normals = np.asarray(cast(centres, (points - centres).astype(np.float32)).normal)
    lamp = np.asarray(scenes().light)[:, None]
    unit = lambda vectors: vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
    to_lamp, to_camera = unit(lamp - points), unit(centres - points)
    mirrored = 2 * (normals * to_lamp).sum(-1, keepdims=True) * normals - to_lamp
    aligned = (mirrored * to_camera).sum(-1)
    bright = brighter > 50
    assert np.median(aligned[bright]) > 0.9 > np.median(aligned[~bright]) + 0.2


def test_invalid_settings_raise():
    for name, value, most in (("plain_fraction", 1.5, "1"), ("jpeg", -1.0, "10"), ("defocus", 0.2, "0.1")):
        with pytest.raises(ValueError, match=f"{name}={value} must be from 0 to {most}"):
            WorldConfig(**{name: value})
    for orbit in ((60.0, 30.0), (-5.0, 30.0), (0.0, 150.0)):
        with pytest.raises(ValueError, match="orbit=.* with 0 <= low <= high <= 120"):
            WorldConfig(orbit=orbit)
