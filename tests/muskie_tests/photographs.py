"""Photographs with known matches, and a network that finds them without training."""

import pathlib

import jax
import numpy as np
from PIL import Image

from muskie_jax.interop.names import Network
from muskie_jax.interop.weights import Weights, write_weights
from muskie_jax.models.muskie import Muskie
from muskie_tests.networks import random_variant

TURNS = {1: None, 3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}


def pixel_network() -> tuple[Muskie, dict]:
    """A nano network whose features are a linear function of a patch's pixels: its blocks add nothing."""
    model, params = random_variant("nano", 0)
    silent = lambda path, x: 0 * x if any(key.key in ("proj", "fc2") for key in path) else x
    return model, jax.tree_util.tree_map_with_path(silent, params)


def write_pixel_network(path: pathlib.Path) -> pathlib.Path:
    model, params = pixel_network()
    write_weights(path, Weights(Network.of(model), params))
    return path


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random colours that vary within patches of 16 pixels, and differ between them."""
    coarse = np.random.default_rng(seed).integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def write_photograph(
    path: pathlib.Path, pixels: np.ndarray, enlarge: int = 1, orientation: int = 1
) -> pathlib.Path:
    """Writes pixels, enlarged, as an image that its EXIF orientation makes upright."""
    height, width = pixels.shape[:2]
    upright = Image.fromarray(pixels).resize((enlarge * width, enlarge * height), Image.Resampling.NEAREST)
    turn, exif = TURNS[orientation], Image.Exif()
    exif[0x0112] = orientation
    (upright if turn is None else upright.transpose(turn)).save(path, exif=exif)
    return path
