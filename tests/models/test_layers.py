"""Layers with custom gradients, against the functions that they replace; attention on any mesh."""

import functools

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from muskie_jax.models.attention import ATTENTION, CUDNN_PRIMITIVE, Attention, keep_only
from muskie_jax.models.layers import TransformerLayer
from muskie_jax.models.normalization import gelu, layer_norm
from muskie_jax.models.rope import patch_positions, rotate, rotation_table
from muskie_jax.perf.hlo import estimate_traffic
from muskie_jax.sharding import batch_sharding, make_mesh


def assert_same(ours, theirs, *arguments):
    """Asserts that two functions have the same values and gradients."""
    expected, pull = jax.vjp(theirs, *arguments)
    out, ours_pull = jax.vjp(ours, *arguments)
    gradient = jax.random.normal(jax.random.key(9), expected.shape)
    np.testing.assert_allclose(out, expected, atol=1e-5)
    for mine, other in zip(ours_pull(gradient), pull(gradient), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5 * max(1.0, np.abs(other).max()))


def test_layer_norm_matches_flax():
    x = 3.0 + 2.0 * jax.random.normal(jax.random.key(0), (2, 5, 7, 24))
    scale, bias = jax.random.normal(jax.random.key(1), (2, 24))

    def theirs(x, scale, bias):
        return nn.LayerNorm(epsilon=1e-5).apply({"params": {"scale": scale, "bias": bias}}, x)

    assert_same(lambda *arguments: layer_norm(*arguments, x.dtype), theirs, x, scale, bias)
    tokens = x.reshape(2, -1, 24)
    assert_same(lambda *arguments: layer_norm(*arguments, x.dtype, (2, 5)), theirs, tokens, scale, bias)


def test_gelu_is_the_exact_gelu():
    x = jnp.linspace(-6.0, 6.0, 201)
    assert_same(gelu, lambda x: nn.gelu(x, approximate=False), x)
    assert np.abs(gelu(x) - nn.gelu(x, approximate=True)).max() > 1e-4


@pytest.mark.parametrize(
    "function", [gelu, lambda x: layer_norm(x[None], jnp.ones(8), jnp.zeros(8), x.dtype)[0]]
)
def test_half_precision_is_computed_in_float32(function):
    x = jax.random.normal(jax.random.key(0), (64, 8))
    half = x.astype(jnp.bfloat16)
    out, pull = jax.vjp(function, half)
    assert out.dtype == pull(out)[0].dtype == jnp.bfloat16
    exact = function(half.astype(jnp.float32))
    np.testing.assert_array_equal(out, exact.astype(jnp.bfloat16))  # rounded once, at the end


def test_gradients_are_all_reduced_and_nothing_is_gathered():
    mesh = make_mesh({"data": 4, "fsdp": 1, "view": 2})
    table = rotation_table(patch_positions((2, 3), 1), 8)
    layer = TransformerLayer(
        2, False, jnp.float32, Attention("xla", mesh)
    )  # within views: needs no communication
    tokens = (4, 2 * 7, 16)
    params = jax.eval_shape(
        lambda: layer.clone(attend=Attention("xla")).init(jax.random.key(0), jnp.zeros(tokens), table)
    )

    @functools.partial(jax.jit, out_shardings=NamedSharding(mesh, P()))
    def gradients(params, x):
        return jax.grad(lambda params: jnp.square(layer.apply(params, x, table)[0]).sum())(params)

    x = jax.ShapeDtypeStruct(tokens, jnp.float32, sharding=NamedSharding(mesh, P("data", "view")))
    sent = estimate_traffic(gradients.lower(params, x).compile().as_text(), 8).sent
    assert set(sent) == {"all-reduce"}


def test_rotation_matches_its_definition_and_gradient():
    table = rotation_table(patch_positions((2, 3), 1), 8)
    qkv = jax.random.normal(jax.random.key(0), (2, 7, 3, 2, 8))

    def reference(qkv):
        cosines, sines = (part[:, None] for part in table)
        swapped = jnp.concatenate([qkv[..., i : i + 2] for i in (2, 0, 6, 4)], axis=-1)
        turned = qkv[..., :2, :, :] * cosines[:, None] + swapped[..., :2, :, :] * sines[:, None]
        return jnp.concatenate([turned, qkv[..., 2:, :, :]], axis=-3)

    assert_same(lambda x: jnp.stack(rotate(x, table), axis=-3), reference, qkv)


@pytest.mark.parametrize("across_views", [False, True])
@pytest.mark.parametrize("sizes", [(2, 1, 1), (1, 2, 1), (1, 1, 4), (2, 2, 2)])
def test_attention_is_the_same_on_any_mesh(sizes, across_views):
    mesh = make_mesh(dict(zip(("data", "fsdp", "view"), sizes)), jax.devices()[: np.prod(sizes)])
    qkv = jax.random.normal(jax.random.key(0), (3, 4, 4, 5, 2, 8))  # three arrays (B, V, T, heads, D)
    split = jax.device_put(tuple(qkv), batch_sharding("images", mesh))

    def run(attend, arguments):
        loss = lambda q, k, v: (attend(q, k, v, across_views) ** 2).sum()
        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(*arguments)

    expected, gradients = run(Attention(), tuple(qkv))
    value, ours = run(Attention("auto", mesh), split)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    for mine, theirs in zip(ours, gradients):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)
    assert not ours[0].sharding.is_fully_replicated


@pytest.mark.parametrize(
    "name, names, is_saved",
    [
        (f"{CUDNN_PRIMITIVE}_wrapper", (ATTENTION,), True),
        (f"{CUDNN_PRIMITIVE}_wrapper", ("qkv",), False),
        ("dot_product_attention_bwd_wrapper", (ATTENTION,), False),
        ("dot_general", (ATTENTION,), False),
    ],
)
def test_policy_saves_the_forward_kernel_only(name, names, is_saved):
    assert keep_only(names)(jax.extend.core.Primitive(name)) == is_saved
