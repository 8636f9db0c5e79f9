"""The weighted median minimises exactly, under jit, whatever is valid."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.reconstruction.alignment import (
    alignment_scale,
    optimal_scale,
    sample_indices,
    weighted_median,
)


@pytest.mark.parametrize("seed", range(5))
def test_weighted_median_against_a_search(seed):
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((3, 101)).astype(np.float32)
    weights = (rng.random((3, 101)) * (rng.random((3, 101)) < 0.5)).astype(np.float32)
    ours = np.asarray(jax.jit(weighted_median)(values, weights))
    cost = (weights[:, None] * np.abs(values[:, None] - values[:, :, None]).astype(np.float64)).sum(-1)
    np.testing.assert_array_equal(ours, np.take_along_axis(values, cost.argmin(1)[:, None], 1)[:, 0])


def test_weighted_median_of_few_values():
    weights = jnp.array([[1.0, 1.0, 1.0], [0.2, 0.2, 5.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    assert weighted_median(jnp.tile(jnp.array([3.0, 1.0, 2.0]), (4, 1)), weights)[:3].tolist() == [2, 2, 1]
    assert weighted_median(jnp.array([7.0]), jnp.array([0.5])) == 7


def test_scale_against_a_search():
    rng = np.random.default_rng(0)
    predicted = rng.standard_normal((2, 200, 3)).astype(np.float32)
    true = (
        predicted * np.array([2.5, 0.3])[:, None, None] + 0.3 * rng.standard_normal(predicted.shape)
    ).astype(np.float32)
    predicted[0, :5, 1] = 0
    weights = rng.random((2, 200)).astype(np.float32)
    scale = np.asarray(optimal_scale(predicted, true, weights), np.float64)
    candidates = np.linspace(0, 4, 4001)[:, None, None]
    for p, t, w, s in zip(predicted.astype(np.float64), true, weights, scale):
        cost = lambda s: (w[:, None] * np.abs(s * p - t)).sum((-2, -1))  # noqa: B023
        assert cost(s) <= cost(candidates).min() + 1e-5


def test_a_negative_scale_is_flipped():
    points = np.random.default_rng(0).standard_normal((1, 9, 3)).astype(np.float32)
    assert optimal_scale(points, -2 * points, np.ones((1, 9), np.float32))[0] == pytest.approx(2)


@pytest.mark.parametrize("count", [1, 7, 100, 5000])
def test_samples_of_valid_elements(count):
    rng = np.random.default_rng(count)
    valid = np.zeros(9000, bool)
    valid[rng.choice(9000, count, replace=False)] = True
    ours = np.asarray(jax.jit(sample_indices, static_argnums=1)(valid[None], 512))[0]
    where = np.flatnonzero(valid)
    np.testing.assert_array_equal(ours, where[np.floor(np.arange(512) * (count / 512)).astype(int)])


def test_invalid_points_do_not_matter():
    rng = np.random.default_rng(0)
    predicted, true = rng.standard_normal((2, 2, 3, 8, 8, 3)).astype(np.float32)
    valid = rng.random((2, 3, 8, 8)) < 0.3
    valid[1] = False
    weights = np.ones(valid.shape, np.float32)
    scale = jax.jit(alignment_scale)(predicted, true, weights, valid)
    disturbed = [np.where(valid[..., None], x, 1e30) for x in (predicted, true)]
    np.testing.assert_array_equal(alignment_scale(*disturbed, weights, valid), scale)
    assert scale[0] > 0 and scale[1] == 0
