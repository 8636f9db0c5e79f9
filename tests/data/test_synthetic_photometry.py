"""Faults of the synthetic world's cameras: each does what its setting says, and nothing else."""

import dataclasses
import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from muskie_jax.data.synthetic import WorldConfig
from muskie_jax.data.synthetic.photometry import add_camera_faults, block_transform, blur, jpeg_artefacts
from muskie_tests.synthetic_rooms import even_views, keys

VIEWS, SIDE = 40, 32
FAULTS = {
    "defocus": 0.03, "motion_blur": 0.1, "vignetting": 0.5, "contrast": 0.3, "noise": 0.05, "jpeg": 2.0,
}  # fmt: skip


@functools.cache
def jitted(config):
    return jax.jit(functools.partial(add_camera_faults, config=config))


def faulty(images, number=0, **settings):
    """Images (V, H, W, 3) with faults, as numbers."""
    config = dataclasses.replace(WorldConfig(), **settings)
    return np.asarray(jitted(config)(keys()[number], images), float)


def grey(value=128, views=VIEWS, side=SIDE):
    return np.full((views, side, side, 3), value, np.uint8)


def photograph():
    """A smooth image with edges, of one view."""
    return even_views().images[2, :1]


def test_cameras_without_faults_leave_images_alone():
    images = jnp.asarray(grey())
    assert add_camera_faults(keys()[0], images, WorldConfig()) is images


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_a_function_of_the_group_and_differ_between_views(name):
    images = np.broadcast_to(photograph(), (6, *photograph().shape[1:]))
    settings = {name: FAULTS[name]}
    first, again, other = (faulty(images, number, **settings) for number in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    for a, b in ((first, images), (first, other)):
        assert np.abs(a - b).max() > 1
    assert len({view.tobytes() for view in first}) > 2, "a view without any fault may equal another"
    assert ((first >= 0) & (first <= 255) & (first == np.round(first))).all()


def test_groups_of_a_batch_do_not_influence_each_other():
    """Hence a batch may be sharded in any way."""
    images = even_views().images[:4]
    config = dataclasses.replace(WorldConfig(), **FAULTS)
    together = jax.jit(jax.vmap(functools.partial(add_camera_faults, config=config)))(keys()[:4], images)
    for number in range(4):
        alone = jitted(config)(keys()[number], images[number])
        np.testing.assert_array_equal(alone, together[number])


def test_vignetting_darkens_the_corners():
    strongest = 0.5
    images = faulty(grey(200), vignetting=strongest) / 200
    centre, corner = images[:, SIDE // 2, SIDE // 2, 0], images[:, 0, 0, 0]
    np.testing.assert_allclose(centre, 1, atol=0.01)
    assert 1 - strongest - 0.01 < corner.min() < 0.65 and corner.max() > 0.98
    # The loss grows with the square of the distance from the centre.
    middle_of_edge = images[:, 0, SIDE // 2, 0]
    np.testing.assert_allclose(1 - middle_of_edge, (1 - corner) / 2, atol=0.03)
    assert (images[:, 0, 0] == images[:, -1, -1]).all()


def test_contrast_is_around_the_middle_of_the_range():
    dark, middle, bright = (faulty(grey(v), contrast=0.3)[:, 0, 0, 0] - 127.5 for v in (78, 127, 178))
    assert np.abs(middle).max() <= 1
    factor = bright / 50.5
    np.testing.assert_allclose(dark / -49.5, factor, atol=0.02)
    assert 1.2 < factor.max() < np.exp(0.3) + 0.02 and np.exp(-0.3) - 0.02 < factor.min() < 0.85


def test_noise_has_the_configured_strength():
    noise = faulty(grey(), noise=0.1) - 128
    deviation = noise.std((1, 2, 3)) / 255
    assert 0.08 < deviation.max() < 0.102 and deviation.min() < 0.01
    loud = noise[np.argmax(deviation)]
    assert abs(loud.mean()) < 2
    neighbours = np.corrcoef(loud[:, :-1].ravel(), loud[:, 1:].ravel())[0, 1]
    channels = np.corrcoef(loud[..., 0].ravel(), loud[..., 1].ravel())[0, 1]
    assert abs(neighbours) < 0.06 and abs(channels) < 0.09


def covariance(weights):
    """Mass, mean and covariance of an image (H, W) around its middle pixel."""
    rows, columns = np.indices(weights.shape) - np.array(weights.shape)[:, None, None] // 2
    mean = [(weights * axis).sum() for axis in (columns, rows)]
    xx, yy, xy = ((weights * a * b).sum() for a, b in ((columns,) * 2, (rows,) * 2, (columns, rows)))
    return weights.sum(), mean, np.array([[xx, xy], [xy, yy]])


def blurred_point(defocus, motion, direction):
    point = np.zeros((1, 41, 41, 1), np.float32)
    point[0, 20, 20] = 1
    values = [jnp.array([value], jnp.float32) for value in (defocus, motion, np.radians(direction))]
    return covariance(
        np.asarray(blur(jnp.asarray(point), *values, max_defocus=2.0, max_motion=3.0))[0, ..., 0]
    )


@pytest.mark.parametrize("direction", [0, 20, 45, 70, 90, 110, 135, 170])
def test_motion_blurs_along_its_direction(direction):
    mass, mean, actual = blurred_point(1.0, 2.5, direction)
    assert mass == pytest.approx(1, abs=1e-5) and np.abs(mean).max() < 1e-4
    along = np.array([np.cos(np.radians(direction)), np.sin(np.radians(direction))])
    across = np.array([-along[1], along[0]])
    assert along @ actual @ along == pytest.approx(1 + 2.5**2, rel=0.06)
    # Along a direction of the passes, exactly; otherwise, slightly too wide.
    assert across @ actual @ across == pytest.approx(1, rel=0.02 if direction % 45 == 0 else 1.4)


def test_defocus_is_round():
    _, _, actual = blurred_point(1.5, 0.0, 30)
    np.testing.assert_allclose(actual, 1.5**2 * np.eye(2), rtol=0.02, atol=1e-5)
    _, _, sharp = blurred_point(0.0, 0.0, 30)
    np.testing.assert_allclose(sharp, 0, atol=1e-6)


def test_blur_is_relative_to_the_size_of_the_image():
    edge = lambda side: np.where(np.arange(side) < side // 2, 50, 200).astype(np.uint8)
    blurred = {}
    for side in (64, 128):
        images = np.broadcast_to(edge(side)[:, None], (4, side, side, 3))
        blurred[side] = faulty(images, defocus=0.03, motion_blur=0.05)
    small = blurred[128].reshape(4, 64, 2, 64, 2, 3).mean((2, 4))
    assert np.abs(small - blurred[64]).max() < 10 < np.abs(blurred[64][0] - blurred[64][1]).max()


@pytest.mark.parametrize(("quality", "coarseness"), [(90, 0.2), (75, 0.5), (50, 1.0), (25, 2.0)])
def test_jpeg_artefacts_are_those_of_jpeg(quality, coarseness):
    (image,) = photograph()
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg", quality=quality, subsampling="4:4:4")
    expected = np.asarray(Image.open(file), float)
    result = np.asarray(jpeg_artefacts(jnp.asarray(image[None], jnp.float32), jnp.array([coarseness])))[0]
    damage = np.abs(expected - image).mean()
    assert np.abs(result - expected).mean() < 0.15 * damage


def test_jpeg_of_other_sizes_and_without_coarseness():
    image = photograph()[:, :43, :61]
    result = np.asarray(jpeg_artefacts(jnp.asarray(image, jnp.float32), jnp.array([0.0])))
    assert result.shape == image.shape and np.abs(result - image).mean() < 1
    np.testing.assert_allclose(block_transform() @ block_transform().T, np.eye(64), atol=1e-6)
