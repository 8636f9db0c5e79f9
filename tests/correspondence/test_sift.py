"""Dense SIFT descriptors, and SIFT as a model of an evaluation."""

import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.correspondence.sift import CELL, CHANNELS, dense_sift
from muskie_jax.errors import UserError
from muskie_jax.evaluators.eval_models import DenseSift
from muskie_jax.evaluators.model_specs import find_models


def blobs(height, width, seed=0):
    """Returns an image (height, width, 3) in [-1, 1] without repetition, some pixels smooth."""
    noise = np.random.default_rng(seed).uniform(-1, 1, (height // 4, width // 4, 3))
    return np.kron(noise, np.ones((4, 4, 1))).astype(np.float32)


@pytest.mark.extras
def test_descriptors_move_with_the_image():
    pytest.importorskip("cv2")
    wide = blobs(96, 160)
    views = np.stack([wide[:, :128], wide[:, 2 * CELL : 128 + 2 * CELL]])  # the second is two cells further
    first, second = dense_sift(views[None])[0]
    assert first.shape == (96 // CELL, 128 // CELL, CHANNELS)
    inside = slice(4, -4)  # whose windows are within both views
    assert np.abs(first[inside, 6:-4] - second[inside, 4:-6]).max() < 2, "of up to 255"
    assert np.abs(first[inside, 4:-4] - second[inside, 4:-4]).mean() > 10


@pytest.mark.extras
def test_sift_is_a_model_of_an_evaluation():
    pytest.importorskip("cv2")
    (spec,) = find_models(["sift"], "last", "float32")
    model = spec.load()
    assert (model.info.name, model.info.kind, model.network) == ("sift", "sift", DenseSift())
    images = np.stack([blobs(60, 64, seed) for seed in (0, 1)])[None]  # 60 is not divisible by CELL
    (features,) = model.network.activations(None, jnp.asarray(images)).features
    assert features.shape == (1, 2, 8, 8, CHANNELS) and features.std() > 10


def test_without_opencv_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    with pytest.raises(UserError, match="config.evaluate.models='sift' needs OpenCV: install it with"):
        find_models(["sift"], "last", "float32")
