"""Images of the synthetic world: reproducible, consistent between views and resolutions, varied."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.data.synthetic import WorldConfig, render_group, render_groups
from muskie_jax.data.synthetic.render import sample_appearance
from muskie_jax.data.synthetic.textures import photo_pyramid
from muskie_tests.synthetic_rooms import (
    EVEN,
    HEIGHT,
    SEEDS,
    VIEWS,
    WIDTH,
    bilinear,
    even_views,
    is_inside,
    keys,
    render_even,
    simple_scene,
    warp_first_to_second,
)

SIZE = {"num_views": VIEWS, "height": HEIGHT, "width": WIDTH}


def test_images_are_a_function_of_the_seed():
    images = even_views().images
    again = render_even(SEEDS[::-1]).images[::-1]
    np.testing.assert_array_equal(images, again)
    assert again.shape == (len(SEEDS), VIEWS, HEIGHT, WIDTH, 3) and again.dtype == np.uint8
    for a, b in ((0, 1), (0, 2), (1, 3), (4, 5)):
        assert np.abs(images[a].astype(float) - images[b]).mean() > 15


@pytest.mark.parametrize(
    ("group", "translation", "focal", "colour", "depth"),
    [
        (0, [1.436, 0.529, 1.195], 54.87, [95.1, 89.1, 102.6], 2.111),
        (4, [1.052, 0.741, 3.095], 40.07, [99.2, 113.7, 102.9], 2.599),
        (7, [-0.568, 0.578, 2.988], 43.29, [97.5, 91.2, 93.0], 2.852),
    ],
)
def test_rooms_without_optional_settings_stay_the_same(group, translation, focal, colour, depth):
    """Figures of version 0.1, before `orbit`, camera faults and varied surfaces existed."""
    views = even_views()
    np.testing.assert_allclose(views.cameras.world_to_camera[group, 1, :3, 3], translation, atol=2e-3)
    assert views.cameras.intrinsics[group, 1, 0, 0] == pytest.approx(focal, abs=0.01)
    np.testing.assert_allclose(views.images[group].mean((0, 1, 2)), colour, atol=0.1)
    assert views.depth[group].mean() == pytest.approx(depth, abs=2e-3)


def test_single_group_with_photographs():
    """A group rendered alone equals the batched one, except where photographs cover surfaces."""
    photos = np.random.default_rng(0).integers(60, 200, (3, 32, 32, 3), np.uint8)
    photos[..., 2] = 0
    group = jax.jit(functools.partial(render_group, with_geometry=True, config=EVEN, **SIZE))
    single = jax.tree.map(np.asarray, group(SEEDS[1], photos=photo_pyramid(photos)))
    assert single.images.shape == (VIEWS, HEIGHT, WIDTH, 3)
    np.testing.assert_allclose(single.depth, even_views().depth[1], rtol=1e-4)

    same = (np.abs(single.images.astype(int) - even_views().images[1]) <= 2).all(-1)
    from_bank = (single.images[..., 2] == 0) & (single.images[..., 0] > 0)
    assert 0.15 < same.mean() < 0.85 and 0.15 < from_bank.mean() < 0.85
    assert (same | from_bank).mean() > 0.9  # the rest lies on edges between the two
    # Photographs have detail.
    assert single.images[from_bank].astype(float).std(0)[:2].min() > 8


def test_resolutions_show_the_same_view():
    options = {"num_views": VIEWS, "height": 4 * HEIGHT, "width": 4 * WIDTH, "config": EVEN}
    large = jax.jit(functools.partial(render_groups, **options))(SEEDS[:2]).images
    large = np.asarray(large, float)
    small = large.reshape(2, VIEWS, HEIGHT, 4, WIDTH, 4, 3).mean((3, 5))
    images = even_views().images[:2]
    difference = small - images
    assert np.corrcoef(small.ravel(), images.ravel())[0, 1] > 0.9
    # No shift: the difference does not correlate with the image's gradients.
    for axis in (2, 3):
        slope = np.gradient(small, axis=axis)
        shift = (difference * slope).sum() / (slope**2).sum()
        assert abs(shift) < 0.03, f"shifted by {shift:.3f} pixels along axis {axis}"


def test_images_have_contrast():
    images = even_views().images.astype(float)
    assert 60 < images.mean() < 150
    assert (images.std((2, 3)) > 12).mean() > 0.9
    assert (images == 0).mean() < 0.01 and (images >= 254).mean() < 0.02
    # Few patches of 16 pixels are flat.
    patches = images.reshape(-1, HEIGHT // 16, 16, WIDTH // 16, 16, 3)
    assert (patches.std((2, 4)).max(-1) > 6).mean() > 0.95


def test_appearance_of_views_varies_as_configured():
    scene = simple_scene()

    def sample(config):
        return jax.jit(lambda key: sample_appearance(key, scene, config, 500))(keys()[0])

    even, default = sample(EVEN), sample(WorldConfig())
    assert (even.gain == 1).all() and (even.tone == 0).all()
    assert (even.light == scene.light).all()
    brightness = jnp.log(default.gain).mean(-1)
    assert 0.2 < jnp.abs(brightness).max() < 0.33 and jnp.abs(brightness.mean()) < 0.03
    assert 0.05 < jnp.abs(jnp.log(default.gain) - brightness[:, None]).max() < 0.16
    assert 0.3 < jnp.abs(default.light - scene.light).max() <= 0.5
    assert 0.1 < jnp.abs(default.tone).max() <= 0.25


def test_warped_colours_agree():
    even = even_views()
    correlations = []
    for group, (_, pixels, depth) in enumerate(warp_first_to_second(even)):
        pixels, depth = pixels.reshape(-1, 2), depth.ravel()
        inverse, smooth = bilinear(1 / even.depth[group, 1], pixels)
        same = is_inside(pixels, depth) & smooth & (np.abs(1 / inverse - depth) < 0.01)
        first = even.images[group, 0].reshape(-1, 3)[same].astype(float)
        second = np.stack(
            [bilinear(even.images[group, 1, ..., c].astype(float), pixels)[0] for c in range(3)], -1
        )[same]
        correlations.append(np.corrcoef(first.ravel(), second.ravel())[0, 1])
        shuffled = np.random.default_rng(0).permutation(second)
        assert np.corrcoef(first.ravel(), shuffled.ravel())[0, 1] < 0.7
    assert min(correlations) > 0.85 and np.mean(correlations) > 0.92, correlations


def test_geometry_has_no_matrix_products():
    """Accelerators would round them."""
    program = jax.make_jaxpr(
        functools.partial(render_groups, num_views=1, height=8, width=8, config=EVEN, with_geometry=True)
    )(SEEDS)
    assert "dot_general" not in str(program)


def test_invalid_configs_raise():
    with pytest.raises(ValueError, match="samples_per_pixel=3 must be 1, 2 or 4"):
        WorldConfig(samples_per_pixel=3)
    with pytest.raises(ValueError, match="0 objects in a room: the number must be from 1 to 63"):
        WorldConfig(num_boxes=0, num_ellipsoids=0, num_cylinders=0)
    assert hash(WorldConfig()) == hash(WorldConfig())
