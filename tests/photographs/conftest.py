"""Weights and photographs that tests of commands share; no test changes them."""

import pytest

from conftest import write_scene
from muskie_jax.interop.names import Network
from muskie_jax.interop.weights import Weights, write_weights
from muskie_jax.models.muskie import build_model
from muskie_tests.networks import random_variant


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights of the smallest network."""
    path = tmp_path_factory.mktemp("weights") / "nano.safetensors"
    write_weights(path, Weights(Network.of(build_model("nano")), random_variant("nano", 0)[1]))
    return path


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """Five photographs of 72 x 96 pixels."""
    folder = tmp_path_factory.mktemp("photos") / "scene"
    write_scene(folder, 5, seed=3)
    return folder
