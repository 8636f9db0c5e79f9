"""Textures of the synthetic world, and the random numbers that they are drawn from."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.data.synthetic.draws import Draws
from muskie_jax.data.synthetic.textures import lattice, photo_colour, photo_pyramid, sample_textures


def test_photographs_are_sampled_at_texel_centres():
    photos = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), np.uint8)
    pyramid = photo_pyramid(photos)
    textures = sample_textures(jax.random.key(0), jnp.ones((4, 2)), jnp.ones(4), photo_fraction=1.0)
    textures = textures.replace(
        photo=jnp.array([0, 1, 2, 5], jnp.uint32),
        photo_span=jnp.full(4, 0.8),
        offset=jnp.tile(jnp.array([0.0, 0.25]), (4, 1)),
    )

    @jax.jit
    def sample(surface, u, v, footprint):
        surface = jnp.full(u.shape, surface)
        return 255 * jnp.stack(photo_colour(pyramid, textures, surface, u, v, footprint), -1)

    def texel_centres(count):
        """Rows run downwards from v = 0.2, a quarter of the photograph's side."""
        steps = (jnp.arange(count) + 0.5) * 0.8 / count
        return jnp.meshgrid(steps, 0.2 - steps)

    u, v = texel_centres(8)
    for surface, photo in ((0, 0), (2, 2), (3, 2)):
        np.testing.assert_allclose(sample(surface, u, v, 0.01), photos[photo], atol=0.01)
    np.testing.assert_allclose(sample(1, u + 0.8, v, 0.01), photos[1][:, ::-1], atol=0.1)
    # A footprint of four texels samples the means of 4 x 4 texels.
    means = photos[1].reshape(2, 4, 2, 4, 3).mean((1, 3))
    np.testing.assert_allclose(sample(1, *texel_centres(2), 0.4), means, atol=1.01)
    with pytest.raises(ValueError, match="power of two"):
        photo_pyramid(photos[:, :6, :6])


def test_lattice_is_continuous_noise_or_constant_per_cell():
    x = jnp.linspace(-3, 3, 601)
    y = jnp.full_like(x, 0.4)
    seed = jnp.uint32(5)
    smooth = np.asarray(lattice(x, y, seed, 0.0)[0])
    mosaic = np.asarray(lattice(x, y, seed, 1.0)[0])
    assert np.abs(np.diff(smooth)).max() < 0.05 < 0.3 < smooth.std() * 2
    assert len(np.unique(mosaic)) in (6, 7)
    np.testing.assert_allclose(smooth[[0, 100]], mosaic[[0, 100]], atol=0.7)


def test_draws_are_uniform_and_streams_independent():
    key = jax.random.key(3)
    first = Draws(key, "one", (20000,), capacity=2)
    other = Draws(key, "two", (20000,), capacity=2)
    a, b, c = first.uniform(0, 1), first.uniform(0, 1), other.uniform(0, 1)
    for draw in (a, b, c):
        assert draw.mean() == pytest.approx(0.5, abs=0.01)
        assert draw.var() == pytest.approx(1 / 12, abs=0.003)
    assert abs(np.corrcoef(np.stack([a, b, c]))[np.triu_indices(3, 1)]).max() < 0.03
    with pytest.raises(ValueError, match="capacity"):
        first.uniform(0, 1)
