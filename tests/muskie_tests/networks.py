"""Networks with weights that leave nothing at 0 or 1, and inputs for them."""

import jax
import jax.numpy as jnp
import numpy as np

from muskie_jax.models.muskie import Muskie, build_model

SIZES = {"width": 24, "depth": 2, "heads": 2}


def made_network(seed: int, **options) -> tuple[Muskie, dict]:
    """A small network and random parameters, each of which matters to what it computes."""
    model = Muskie(**(SIZES | options))
    image = jnp.zeros((1, 1, model.patch, model.patch, 3))
    params = model.init(jax.random.key(seed), image, jnp.zeros((1, 1, 1), bool))["params"]
    return model, disturbed(params, seed)


def named_network(variant: str, seed: int) -> tuple[Muskie, dict]:
    """The same of a size with a name."""
    model = build_model(variant)
    params = model.init(jax.random.key(seed), jnp.zeros((1, 1, 16, 16, 3)), jnp.zeros((1, 1, 1), bool))
    return model, disturbed(params["params"], seed)


def disturbed(params: dict, seed: int) -> dict:
    rng = np.random.default_rng(seed)
    move = lambda x: np.asarray(x) + 0.1 * rng.standard_normal(x.shape).astype(np.float32)
    return jax.tree.map(move, params)


def made_inputs(seed: int, views: int, size: tuple[int, int], patch: int = 16, groups: int = 2):
    """Images (B, V, H, W, 3) in [-1, 1], and a mask (B, V, L) that hides about half."""
    rng = np.random.default_rng(seed)
    images = rng.uniform(-1, 1, (groups, views, *size, 3)).astype(np.float32)
    mask = rng.random((groups, views, size[0] // patch * (size[1] // patch))) < 0.5
    return images, mask


def same(one: dict, other: dict) -> bool:
    """Whether two trees hold the same bits under the same names."""
    if jax.tree.structure(one) != jax.tree.structure(other):
        return False
    equal = jax.tree.map(
        lambda a, b: np.array_equal(np.asarray(a).view(np.int32), np.asarray(b).view(np.int32)), one, other
    )
    return all(jax.tree.leaves(equal))
