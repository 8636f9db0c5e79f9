"""Small networks whose parameters all matter, and inputs for them."""

import jax
import jax.numpy as jnp
import numpy as np

from muskie_jax.models.muskie import Muskie, build_model

SIZES = {"width": 24, "depth": 2, "heads": 2}


def random_network(seed: int, **options) -> tuple[Muskie, dict]:
    """A small network with random parameters, none of which is 0 or 1, so that each affects the output."""
    model = Muskie(**(SIZES | options))
    return model, _random_params(model, seed)


def random_variant(variant: str, seed: int) -> tuple[Muskie, dict]:
    """`random_network` with the sizes of a variant."""
    model = build_model(variant)
    return model, _random_params(model, seed)


def _random_params(model: Muskie, seed: int) -> dict:
    images, mask = jnp.zeros((1, 1, model.patch, model.patch, 3)), jnp.zeros((1, 1, 1), bool)
    params = jax.jit(model.init)(jax.random.key(seed), images, mask)["params"]
    rng = np.random.default_rng(seed)
    add_noise = lambda x: np.asarray(x) + 0.1 * rng.standard_normal(x.shape).astype(np.float32)
    return jax.tree.map(add_noise, params)


def random_inputs(seed: int, views: int, size: tuple[int, int], patch: int = 16, groups: int = 2):
    """Images (B, V, H, W, 3) in [-1, 1], and a mask (B, V, L) that hides about half of the patches."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (groups, views, *size, 3)).astype(np.float32)
    mask = rng.random((groups, views, size[0] // patch * (size[1] // patch))) < 0.5
    return images, mask


def same(one: dict, other: dict) -> bool:
    """Whether two trees have the same structure and the same bits."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    equal = jax.tree.map(
        lambda a, b: np.array_equal(np.asarray(a).view(np.int32), np.asarray(b).view(np.int32)), one, other
    )
    return all(jax.tree.leaves(equal))
