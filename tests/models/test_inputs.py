"""Images that a network cannot take are refused, with what to do instead."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.models.framewise import Framewise, Settings
from muskie_jax.models.inputs import check_images
from muskie_jax.models.muskie import build_model

AXES = "B, V, H, W, 3"


@pytest.fixture(scope="module")
def params():
    init = build_model("nano").init
    shapes = jax.eval_shape(init, jax.random.key(0), jnp.zeros((1, 1, 16, 16, 3)))
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


@pytest.mark.parametrize("method", [None, "features"])
def test_pixels_from_0_to_255_are_refused(params, method):
    pixels = np.full((1, 1, 16, 16, 3), 200, np.float32)
    for images in (pixels, jnp.asarray(pixels), jnp.asarray(pixels, jnp.bfloat16)):
        with pytest.raises(ValueError, match=r"in \[-1, 1\], but have values up to 200: convert 0..255 p"):
            build_model("nano").apply(params, images, method=method)


def test_framewise_networks_refuse_them_too():
    settings = Settings("mae", width=16, depth=1, heads=1, patch=16, hidden=16, table=1)
    with pytest.raises(ValueError, match="have values up to 200"):
        Framewise(settings).init(jax.random.key(0), jnp.full((1, 16, 16, 3), 200.0), method="features")


def test_values_are_not_checked_inside_jit(params):
    images = jnp.full((1, 1, 16, 16, 3), 200.0)
    apply = lambda x: build_model("nano").apply(params, x).pred
    assert jax.jit(apply)(images).shape == (1, 1, 1, 768)
    with_check = str(jax.make_jaxpr(lambda x: check_images(x, AXES, 16))(images))
    assert " reduce_max" not in with_check and " abs" not in with_check


def test_valid_images_pass():
    normal = np.random.default_rng(0).normal(size=(1, 2, 32, 48, 3)).astype(np.float32)
    for images in (normal, jnp.asarray(normal), np.zeros((0, 1, 16, 16, 3), np.float32)):
        check_images(images, AXES, 16)


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((448, 252), "448x252 is not divisible by the patch size 16: crop or resize to 448x240 or 448x256"),
        ((30, 10), "30x10 is not divisible by the patch size 16: crop or resize to 16x16 or 32x16"),
        ((8, 16), "crop or resize to 16x16$"),
    ],
)
def test_sizes_name_the_nearest_valid_ones(shape, expected):
    with pytest.raises(ValueError, match=expected):
        check_images(jnp.zeros((1, 1, *shape, 3)), AXES, 16)
