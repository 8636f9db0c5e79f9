"""Published numbers of point maps and cameras: network, losses, gradients (tests/golden/README.md)."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from conftest import GOLDEN
from muskie_jax.interop.names import to_jax
from muskie_jax.interop.reconstruction_names import ReconstructionNetwork, reconstruction_from_tensors
from muskie_jax.models.muskie import Muskie
from muskie_jax.models.reconstruction import Reconstruction
from muskie_jax.reconstruction.targets import ReconstructionTargets, reconstruction_targets

HEADS = 4
STRIDE = 4  # of the pixels that the file has of some images


@functools.cache
def numbers() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "reconstruction_tiny.npz"))


def tensors(prefix: str = "param") -> dict[str, np.ndarray]:
    """Parameters or gradients under their PyTorch names."""
    start = f"{prefix}/"
    return {name.removeprefix(start): x for name, x in numbers().items() if name.startswith(start)}


@functools.cache
def network() -> ReconstructionNetwork:
    return reconstruction_from_tensors(tensors(), HEADS)


@functools.cache
def params() -> dict[str, Any]:
    return to_jax(tensors(), network())


def model(decoder_depth: int = 2, freeze_backbone: bool = False, **options) -> Reconstruction:
    return Reconstruction(Muskie(32, 4, HEADS, **options), decoder_depth, freeze_backbone)


@functools.cache
def images() -> np.ndarray:
    """Images (B, V, H, W, 3) in [-1, 1]."""
    return 2 * numbers()["images"].transpose(0, 1, 3, 4, 2) - 1


@functools.cache
def targets() -> ReconstructionTargets:
    n = numbers()
    arrays = (jnp.asarray(n[name]) for name in ("in_depth", "intrinsics", "in_extrinsics", "point_masks"))
    return reconstruction_targets(*arrays, pixel_centre=0.0)


def worst(ours: Any, theirs: Any) -> float:
    """The largest difference, as a fraction of the largest entry."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
