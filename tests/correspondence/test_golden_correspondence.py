"""Ground truth, predictors and scores against numbers of the published evaluation."""

import jax.numpy as jnp
import numpy as np
import pytest

from conftest import GOLDEN
from muskie_jax.correspondence.predictors import attention_predictor, feature_predictor, symmetric_maps
from muskie_jax.correspondence.scores import Scores, compute_errors, compute_truth
from muskie_jax.data.posed import PosedViews
from muskie_jax.evaluators.eval_models import Activations
from muskie_jax.evaluators.predictions import Predictor, predict_from_activations

PIXEL, METRE = 1e-3, 1e-5
GRID = (4, 6)


@pytest.fixture(scope="module")
def numbers():
    return dict(np.load(GOLDEN / "correspondence_tiny.npz"))


@pytest.fixture(scope="module")
def views(numbers):
    depth = numbers["depth"]
    geometry = (numbers[name].astype(np.float64) for name in ("intrinsics", "world_to_camera"))
    return PosedViews(np.zeros((*depth.shape, 3), np.uint8), depth, depth > 0, *geometry)


@pytest.fixture(scope="module")
def points(numbers):
    return numbers["start_points"].astype(int)


@pytest.fixture(scope="module")
def truth(points, views):
    return compute_truth(points, views, "published")


@pytest.fixture(scope="module")
def activations(numbers):
    attention = jnp.asarray(numbers["attention"])  # (blocks, V, L, V, L)
    features = (jnp.asarray(numbers["features"]),)
    return Activations(features, tuple(attention[:, 0]), tuple(attention[:, :, :, 0]))


def test_tracks(numbers, truth):
    expected = numbers["gt_tracks"]
    np.testing.assert_array_equal(truth.counted, expected[..., 2] > 0)
    assert 0.2 < truth.counted.mean() < 0.8
    np.testing.assert_allclose(truth.tracks[truth.counted], expected[truth.counted, :2], atol=PIXEL)


@pytest.mark.parametrize("predictor", ["attention", "feature"])
def test_predictions_errors_and_report(numbers, predictor, points, views, truth, activations):
    size = views.depth.shape[1:]
    predictions = predict_from_activations(
        activations, jnp.asarray(points, jnp.float32), size, len(views.depth), (), ("published",)
    )
    layer = "all" if predictor == "attention" else 1
    index = predictions.predictors.index(Predictor(predictor, layer, "published"))
    tracks = np.asarray(predictions.tracks[index], np.float64)
    np.testing.assert_allclose(tracks, numbers[f"{predictor}_tracks"], atol=PIXEL)
    pixels, metres = compute_errors(tracks, truth, views, "published")
    if predictor == "attention":
        by_view = lambda errors: errors.T[truth.counted.T]
        np.testing.assert_allclose(by_view(pixels), numbers["attention_errors_px"], atol=PIXEL)
        np.testing.assert_allclose(by_view(metres), numbers["attention_errors_m"], atol=METRE)
    scores = Scores()
    for view in range(len(views.depth)):  # pooling does not depend on the order
        chosen = truth.counted[:, view]
        scores.add(pixels[chosen, view], metres[chosen, view])
    values = scores.values()
    assert values.pop("pairs") == truth.counted.sum()
    assert list(values) == [
        *("px_ate", "px_1", "px_2", "px_5", "px_10", "px_25", "px_50"),
        *("cm_ate", "cm_1", "cm_2", "cm_5", "cm_10"),
    ]
    np.testing.assert_allclose(list(values.values()), numbers[f"{predictor}_report"], atol=PIXEL)


def test_including_the_first_view_lowers_errors(points, views, truth):
    ours = compute_truth(points, views, "targets")
    assert not ours.counted[:, 0].any()
    np.testing.assert_array_equal(ours.counted[:, 1:], truth.counted[:, 1:])
    static = np.repeat(points[:, None], len(views.depth), 1).astype(float)
    means = []
    for each, protocol in ((truth, "published"), (ours, "targets")):
        means.append(compute_errors(static, each, views, protocol)[0][each.counted].mean())
    assert means[0] < 0.8 * means[1]


def test_protocols_differ_by_less_than_a_cell(numbers, points, views, activations):
    """The published conventions shift predictions by half a pixel or half a cell."""
    size, start = views.depth.shape[1:], jnp.asarray(points, jnp.float32)
    maps = symmetric_maps(activations.to_others[0], activations.to_first[0])
    one = [attention_predictor(maps, start, size, GRID, each) for each in ("targets", "published")]
    assert np.median(np.abs(one[0] - one[1])) < 4
    # Centres of cells instead of their corners.
    features = jnp.asarray(numbers["features"])
    other = [
        np.asarray(feature_predictor(features, start, size, each)) for each in ("targets", "published")
    ]
    cells = (other[0] - other[1] - 7.5) / 16
    np.testing.assert_allclose(cells, np.round(cells), atol=1e-5)
