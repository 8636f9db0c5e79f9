"""Answers finer than a patch: what they are on maps whose truth is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.correspondence import predictors, refinement
from muskie_jax.correspondence.predictors import bilinear_sample, read_enlarged

GRID, SIZE = (9, 12), (144, 192)
CELL = 16


def compiled(function, *static):
    """Compiled once per shape, answers as numpy arrays."""
    jitted = jax.jit(function, static_argnums=static)
    return lambda *arguments: np.asarray(jitted(*map(_hashable, arguments)))


def _hashable(x):
    return x if isinstance(x, (tuple, str)) else jnp.asarray(x)


refined_predictor = compiled(refinement.refined_predictor, 2, 3)
is_cycle_consistent = compiled(refinement.is_cycle_consistent, 3, 4)
feature_maps = compiled(refinement.feature_maps)
attention_predictor = compiled(predictors.attention_predictor, 2, 3, 4)
feature_predictor = compiled(predictors.feature_predictor, 2, 3)


def centres():
    rows, columns = np.indices(GRID).reshape(2, -1)
    return CELL * (np.stack([columns, rows], -1) + 0.5)


def maps_of_shift(shift, noise=0.0, width=14.0, seed=0):
    """Maps (1, L, L) as of a network that saw everything move by `shift` pixels, and errs."""
    rng = np.random.default_rng(seed)
    distance = np.linalg.norm(centres()[None] - centres()[:, None] - shift, axis=-1)
    maps = np.exp(-(distance**2) / (2 * width**2))
    return (maps + noise * rng.random(maps.shape))[None].astype(np.float32)


@pytest.fixture
def points():
    """Far enough inside that they stay inside when they move."""
    return np.random.default_rng(1).integers((50, 50), (140, 90), (200, 2))


@pytest.mark.parametrize("shift", [(0, 0), (16, -16), (5, 3), (-23.4, 11.2)])
def test_finer_than_a_patch(points, shift):
    answers = refined_predictor(maps_of_shift(shift), points, SIZE, GRID)
    np.testing.assert_allclose(answers[:, 0] - points, np.broadcast_to(shift, points.shape), atol=2)


def test_neighbours_outvote_a_map_that_errs(points):
    maps = maps_of_shift((5, 3), noise=0.9)
    errors = {}
    for name, answers in {
        "plain": attention_predictor(maps, points, SIZE, GRID, "targets"),
        "refined": refined_predictor(maps, points, SIZE, GRID),
    }.items():
        errors[name] = np.linalg.norm(answers[:, 0] - points - (5, 3), axis=-1)
    assert (errors["refined"] < 8).mean() > 0.95 > 0.85 > (errors["plain"] < 8).mean()
    assert 2 * errors["refined"].mean() < errors["plain"].mean()


def test_views_do_not_mix_and_borders_are_fine(points):
    maps = np.concatenate([maps_of_shift(shift) for shift in ((0, 0), (16, 0), (-7, 9))])
    everywhere = np.concatenate([points, [[0, 0], [191, 143], [0, 143], [191, 0]]])
    together = refined_predictor(maps, everywhere, SIZE, GRID)
    for view in range(3):
        alone = refined_predictor(maps[view : view + 1], everywhere, SIZE, GRID)
        np.testing.assert_allclose(together[:, view], alone[:, 0], atol=1e-4)
    still = np.asarray(together[-4:, 0])
    assert np.abs(still - everywhere[-4:]).max() < 5, "what is outside has no say"
    flat = refined_predictor(np.ones_like(maps), everywhere, SIZE, GRID)
    assert np.isfinite(flat).all()


def test_a_grid_of_one_row(points):
    maps = np.zeros((1, 12, 12), np.float32)
    maps[0, np.arange(11), np.arange(1, 12)] = 1
    answers = refined_predictor(maps, np.array([[40, 8]]), (16, 192), (1, 12))
    np.testing.assert_allclose(answers, [[[56, 8]]], atol=1)


def random_features(rng, views=1):
    return rng.normal(size=(views, *GRID, 32)).astype(np.float32)


def test_feature_maps_know_the_same_surface(points):
    rng = np.random.default_rng(2)
    first = random_features(rng)[0]
    second = np.roll(first, (1, 2), (0, 1)) + 0.1 * random_features(rng)[0]
    # An exposure adds the same to all features of a view.
    features = np.stack([first + 20, second + 30])
    maps = feature_maps(features)
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-4)
    answers = refined_predictor(maps, points, SIZE, GRID)
    np.testing.assert_allclose(answers[:, 1], points + np.array([32, 16]), atol=3)
    np.testing.assert_allclose(answers[:, 0], points, atol=3)
    assert is_cycle_consistent(maps, points, answers, SIZE, GRID).all()
    # The plain predictor takes the centre of a cell: at most half a cell beside the truth.
    plain = feature_predictor(np.stack([first, second]), points, SIZE, "targets")
    off = np.abs(plain[:, 1] - points - [32, 16])
    assert np.median(off) < 8 < np.abs(answers[:, 1] - points).mean()


def test_only_what_comes_back_is_trusted(points):
    maps = maps_of_shift((16, 0))
    right = np.repeat(points[:, None] + [16, 0], 1, 1).astype(np.float32)
    trusted = lambda answers: np.asarray(is_cycle_consistent(maps, points, answers, SIZE, GRID))
    assert trusted(right).all()
    assert trusted(right + np.array([10, 0])).mean() > 0.5 and not trusted(right + np.array([40, 0])).any()


def test_reading_maps():
    maps = np.random.default_rng(3).random((2, *GRID, 3)).astype(np.float32)
    cells = jnp.array([[0.0, 0.0], [11.0, 8.0], [3.0, 5.0]])
    found = np.asarray(bilinear_sample(jnp.asarray(maps), cells))
    np.testing.assert_allclose(found, maps[:, [0, 8, 5], [0, 11, 3]], rtol=1e-6)
    half = np.asarray(bilinear_sample(jnp.asarray(maps), jnp.array([[3.5, 5.25]])))[:, 0]
    by_hand = 0.75 * maps[:, 5, 3:5].mean(1) + 0.25 * maps[:, 6, 3:5].mean(1)
    np.testing.assert_allclose(half, by_hand, rtol=1e-5)
    outside = jnp.array([[-0.5, 2.0], [-3.0, 2.0]])
    np.testing.assert_allclose(bilinear_sample(jnp.asarray(maps), outside)[:, 1], maps[:, 2, 0], rtol=1e-6)
    zeros = np.asarray(bilinear_sample(jnp.asarray(maps), outside, outside_is_zero=True))
    np.testing.assert_allclose(zeros, np.stack([maps[:, 2, 0] / 2, np.zeros((2, 3))], 1), rtol=1e-6)


def test_an_enlarged_map_is_read_as_torch_enlarges_it():
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(4).random((2, *GRID, 3)).astype(np.float32)
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(maps).permute(0, 3, 1, 2), SIZE, mode="bilinear", align_corners=False
    )
    places = np.array([[-0.5, -0.5], [0.3, 0.0], [100.2, 77.7], [191.4, 143.2], [191.9, 10.0]], np.float32)
    normalised = torch.from_numpy((2 * places + 1) / np.array(SIZE[::-1], np.float32) - 1)
    grid = normalised[None, None].expand(2, 1, -1, 2)
    sampled = torch.nn.functional.grid_sample(whole, grid, padding_mode="zeros", align_corners=False)
    found = read_enlarged(jnp.asarray(maps), jnp.asarray(places), SIZE)
    np.testing.assert_allclose(found, sampled[:, :, 0].permute(0, 2, 1), atol=1e-5)
