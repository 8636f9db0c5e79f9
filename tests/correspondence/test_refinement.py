"""Sub-patch predictions and sampling, on maps with known displacements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.correspondence import predictors, refinement
from muskie_jax.correspondence.predictors import bilinear_sample, bilinear_sample_upsampled

GRID, SIZE = (9, 12), (144, 192)
CELL = 16


def compiled(function, *static):
    """Jits a function and converts its results to numpy."""
    jitted = jax.jit(function, static_argnums=static)
    return lambda *arguments: jax.tree.map(np.asarray, jitted(*map(_hashable, arguments)))


def _hashable(x):
    return x if isinstance(x, (tuple, str, bool)) else jnp.asarray(x)


refined_matches = compiled(refinement.refined_matches, 2, 3)
is_cycle_consistent = compiled(refinement.is_cycle_consistent, 3, 4)
match_scores = compiled(refinement.match_scores, 2, 3)
best_positions = compiled(refinement.best_positions, 2)
feature_maps = compiled(refinement.feature_maps)
valid_feature_maps = compiled(refinement.feature_maps)
mutual_feature_maps = compiled(refinement.feature_maps, 2)
refined_predictor = lambda *arguments: refined_matches(*arguments)[0]
attention_predictor = compiled(predictors.attention_predictor, 2, 3, 4)
feature_predictor = compiled(predictors.feature_predictor, 2, 3)


def centres():
    rows, columns = np.indices(GRID).reshape(2, -1)
    return CELL * (np.stack([columns, rows], -1) + 0.5)


def maps_of_shift(shift, noise=0.0, width=14.0, seed=0):
    """Returns noisy maps (1, L, L) of a network that matches every cell to one `shift` pixels away."""
    rng = np.random.default_rng(seed)
    distance = np.linalg.norm(centres()[None] - centres()[:, None] - shift, axis=-1)
    maps = np.exp(-(distance**2) / (2 * width**2))
    return (maps + noise * rng.random(maps.shape))[None].astype(np.float32)


@pytest.fixture
def points():
    """Points far enough from the border to stay inside after any shift."""
    return np.random.default_rng(1).integers((50, 50), (140, 90), (200, 2))


@pytest.mark.parametrize("shift", [(0, 0), (16, -16), (5, 3), (-23.4, 11.2)])
def test_refined_predictions_have_sub_patch_accuracy(points, shift):
    predictions = refined_predictor(maps_of_shift(shift), points, SIZE, GRID)
    np.testing.assert_allclose(predictions[:, 0] - points, np.broadcast_to(shift, points.shape), atol=2)


def test_neighbours_suppress_noise_in_maps(points):
    maps = maps_of_shift((5, 3), noise=0.9)
    errors = {}
    for name, predictions in {
        "plain": attention_predictor(maps, points, SIZE, GRID, "targets"),
        "refined": refined_predictor(maps, points, SIZE, GRID),
    }.items():
        errors[name] = np.linalg.norm(predictions[:, 0] - points - (5, 3), axis=-1)
    assert (errors["refined"] < 8).mean() > 0.95 > 0.85 > (errors["plain"] < 8).mean()
    assert 2 * errors["refined"].mean() < errors["plain"].mean()


def test_a_finer_grid_averages_over_more_cells():
    """At 32x32, most of a neighbourhood outvotes the 3x3 cells at its centre."""
    side, cell = 32, 8
    motion = np.broadcast_to([2, 0], (side, side, 2)).copy()
    motion[15:18, 15:18] = 0, 3
    columns, rows = np.meshgrid(np.arange(side), np.arange(side))
    target = np.stack([columns, rows], -1) + motion  # (column, row)
    maps = np.zeros((1, side**2, side, side + 2), np.float32)  # the last columns are cut off
    maps[0, np.arange(side**2), target[..., 1].ravel(), target[..., 0].ravel()] = 1
    maps = maps[..., :side].reshape(1, side**2, side**2)
    centre = np.array([[16 * cell + 4, 16 * cell + 4]])
    prediction = refined_predictor(maps, centre, (side * cell, side * cell), (side, side))[0, 0]
    np.testing.assert_allclose(prediction - centre[0], (2 * cell, 0), atol=1)


def test_concentration_is_the_fraction_of_scores_around_the_prediction(points):
    sharp, wide = (maps_of_shift((5, 3), width=width) for width in (8.0, 40.0))
    uniform, nothing = np.ones_like(sharp), np.zeros_like(sharp)
    concentration = [
        refined_matches(maps, points, SIZE, GRID)[1] for maps in (sharp, wide, uniform, nothing)
    ]
    sharp, wide, uniform, nothing = (each[:, 0] for each in concentration)
    assert (sharp > 0.85).all() and (sharp <= 1).all() and (wide < 0.5).all() and (wide > uniform).all()
    np.testing.assert_allclose(uniform, 9 / np.prod(GRID), rtol=0.35)
    assert (nothing == 0).all()


def test_maps_of_features_leave_out_cells_that_are_not_valid():
    features = np.random.default_rng(0).standard_normal((3, *GRID, 8)).astype(np.float32)
    valid = np.ones((3, *GRID), bool)
    valid[0, 7:], valid[2, :, 5:] = False, False
    maps = valid_feature_maps(features, valid)
    present = valid.reshape(3, -1)
    np.testing.assert_allclose(maps.sum(-1), np.broadcast_to(present[0], maps.shape[:2]), atol=1e-5)
    mutual = mutual_feature_maps(features, valid, True)
    for each in (maps, mutual):
        assert (each[:, ~present[0]] == 0).all() and (each[2][:, ~present[2]] == 0).all()
        assert (each[2][present[0]][:, present[2]] > 0).all()
    changed = np.where(valid[..., None], features, 1e3)
    np.testing.assert_allclose(valid_feature_maps(changed, valid), maps, atol=1e-5)
    everywhere = valid_feature_maps(features, np.ones_like(valid))
    np.testing.assert_allclose(everywhere, feature_maps(features), rtol=1e-4)


def test_matches_may_lie_within_half_a_cell_of_the_border():
    """A column of cells that leaves the view takes its points to the border, and no further."""
    maps = maps_of_shift((-16, 0), width=4.0)
    first_column = np.stack([np.full(8, 16 + 2), np.arange(24, 120, 12)], -1)
    found = refined_predictor(maps, first_column, SIZE, GRID)[:, 0]
    np.testing.assert_allclose(found - first_column, np.broadcast_to([-16, 0], (8, 2)), atol=1)
    second_column = first_column + np.array([12, 0])
    further = refined_predictor(maps_of_shift((-32, 0), width=4.0), second_column, SIZE, GRID)
    np.testing.assert_allclose(further[:, 0, 0], -0.5)


def test_features_match_in_both_directions():
    """Of several cells that resemble one most, only the one that it resembles most is similar to it."""
    features = np.zeros((2, 1, 4, 4), np.float32)
    features[0, 0] = np.eye(4)
    features[1, 0] = [[1, 0.4, 0.4, 0.4], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    maps = mutual_feature_maps(features, np.ones((2, 1, 4), bool), True)[1]
    cosine = np.asarray(jax.jit(refinement.feature_cosines)(features))[1] / refinement.FEATURE_TEMPERATURE
    softmax = lambda x, axis: np.exp(x) / np.exp(x).sum(axis, keepdims=True)
    np.testing.assert_allclose(maps**2, softmax(cosine, 0) * softmax(cosine, 1), rtol=1e-3, atol=1e-6)
    assert maps[0, 0] > 5 * maps[1:, 0].max()


def test_scores_of_turned_points_can_be_averaged(points):
    """Scores for other points have their peaks where `reference` expects them."""
    moved = points + np.array([5.3, -6.1])  # what lies at `moved` matches 5.3 less, 6.1 more
    maps = maps_of_shift((-5.3, 6.1))
    own = best_positions(match_scores(maps, moved, SIZE, GRID, moved), moved, SIZE)[0]
    referred = best_positions(match_scores(maps, moved, SIZE, GRID, points), points, SIZE)[0]
    np.testing.assert_allclose(own[:, 0], points, atol=2)
    np.testing.assert_allclose(referred[:, 0], points, atol=2)


def test_views_are_independent_and_borders_are_handled(points):
    maps = np.concatenate([maps_of_shift(shift) for shift in ((0, 0), (16, 0), (-7, 9))])
    everywhere = np.concatenate([points, [[0, 0], [191, 143], [0, 143], [191, 0]]])
    together = refined_predictor(maps, everywhere, SIZE, GRID)
    for view in range(3):
        alone = refined_predictor(maps[view : view + 1], everywhere, SIZE, GRID)
        np.testing.assert_allclose(together[:, view], alone[:, 0], atol=1e-4)
    corners = np.asarray(together[-4:, 0])
    assert np.abs(corners - everywhere[-4:]).max() < 5, "cells outside the grid have weight"
    uniform = refined_predictor(np.ones_like(maps), everywhere, SIZE, GRID)
    assert np.isfinite(uniform).all()


def test_grid_of_one_row():
    maps = np.zeros((1, 12, 12), np.float32)
    maps[0, np.arange(11), np.arange(1, 12)] = 1
    predictions = refined_predictor(maps, np.array([[40, 8]]), (16, 192), (1, 12))
    np.testing.assert_allclose(predictions, [[[56, 8]]], atol=1)


def random_features(rng, views=1):
    return rng.normal(size=(views, *GRID, 32)).astype(np.float32)


def test_feature_maps_match_shifted_features(points):
    rng = np.random.default_rng(2)
    first = random_features(rng)[0]
    second = np.roll(first, (1, 2), (0, 1)) + 0.1 * random_features(rng)[0]
    # Exposure adds a constant to all features of a view.
    features = np.stack([first + 20, second + 30])
    maps = feature_maps(features)
    np.testing.assert_allclose(maps.sum(-1), 1, rtol=1e-4)
    refined = refined_predictor(maps, points, SIZE, GRID)
    np.testing.assert_allclose(refined[:, 1], points + np.array([32, 16]), atol=3)
    np.testing.assert_allclose(refined[:, 0], points, atol=3)
    assert is_cycle_consistent(maps, points, refined, SIZE, GRID).all()
    # The plain predictor returns the centre of a cell, at most half a cell from the truth.
    plain = feature_predictor(np.stack([first, second]), points, SIZE, "targets")
    errors = np.abs(plain[:, 1] - points - [32, 16])
    assert np.median(errors) < 8 < np.abs(refined[:, 1] - points).mean()


def test_cycle_consistency(points):
    maps = maps_of_shift((16, 0))
    correct = np.repeat(points[:, None] + [16, 0], 1, 1).astype(np.float32)
    consistent = lambda offset: is_cycle_consistent(maps, points, correct + np.array(offset), SIZE, GRID)
    assert consistent([0, 0]).all()
    assert consistent([10, 0]).mean() > 0.5
    assert not consistent([40, 0]).any()


def test_bilinear_sample():
    maps = np.random.default_rng(3).random((2, *GRID, 3)).astype(np.float32)
    cells = jnp.array([[0.0, 0.0], [11.0, 8.0], [3.0, 5.0]])
    sampled = np.asarray(bilinear_sample(jnp.asarray(maps), cells))
    np.testing.assert_allclose(sampled, maps[:, [0, 8, 5], [0, 11, 3]], rtol=1e-6)
    between = np.asarray(bilinear_sample(jnp.asarray(maps), jnp.array([[3.5, 5.25]])))[:, 0]
    expected = 0.75 * maps[:, 5, 3:5].mean(1) + 0.25 * maps[:, 6, 3:5].mean(1)
    np.testing.assert_allclose(between, expected, rtol=1e-5)
    outside = jnp.array([[-0.5, 2.0], [-3.0, 2.0]])
    np.testing.assert_allclose(bilinear_sample(jnp.asarray(maps), outside)[:, 1], maps[:, 2, 0], rtol=1e-6)
    zeros = np.asarray(bilinear_sample(jnp.asarray(maps), outside, outside_is_zero=True))
    np.testing.assert_allclose(zeros, np.stack([maps[:, 2, 0] / 2, np.zeros((2, 3))], 1), rtol=1e-6)


def test_sampling_of_upsampled_maps_matches_pytorch():
    torch = pytest.importorskip("torch")
    maps = np.random.default_rng(4).random((2, *GRID, 3)).astype(np.float32)
    upsampled = torch.nn.functional.interpolate(
        torch.from_numpy(maps).permute(0, 3, 1, 2), SIZE, mode="bilinear", align_corners=False
    )
    coords = np.array([[-0.5, -0.5], [0.3, 0.0], [100.2, 77.7], [191.4, 143.2], [191.9, 10.0]], np.float32)
    normalised = torch.from_numpy((2 * coords + 1) / np.array(SIZE[::-1], np.float32) - 1)
    grid = normalised[None, None].expand(2, 1, -1, 2)
    expected = torch.nn.functional.grid_sample(upsampled, grid, padding_mode="zeros", align_corners=False)
    sampled = bilinear_sample_upsampled(jnp.asarray(maps), jnp.asarray(coords), SIZE)
    np.testing.assert_allclose(sampled, expected[:, :, 0].permute(0, 2, 1), atol=1e-5)
