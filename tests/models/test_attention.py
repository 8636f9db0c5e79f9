"""Attention on CPUs, which have no fused kernel: long sequences block by block, with unchanged results."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from muskie_jax.models import attention
from muskie_jax.models.attention import Attention, cpu_attention, cudnn_attention, xla_attention
from muskie_jax.models.muskie import VARIANTS

LENGTH = 70  # 8 blocks of 9 tokens, of which the last two are padding


@pytest.fixture
def blocks(monkeypatch):
    """Cuts sequences of LENGTH tokens into blocks."""
    monkeypatch.setattr(attention, "MAX_WEIGHTS", 2 * LENGTH**2 - 1)
    monkeypatch.setattr(attention, "MAX_BLOCK", 9)


def inputs(dtype=jnp.float32, queries=LENGTH, keys=LENGTH):
    rng = np.random.default_rng(0)
    draw = lambda length: jnp.asarray(rng.standard_normal((3, length, 2, 8)), dtype)
    return draw(queries), draw(keys), draw(keys)


def results(*arrays):
    """The output, and the gradients of a function of it."""
    loss = lambda *arrays: (cpu_attention(*arrays).astype(jnp.float32) ** 2).sum()
    return cpu_attention(*arrays), *jax.grad(loss, (0, 1, 2))(*arrays)


def has_loop(*arrays):
    untraced = lambda *arrays: cpu_attention(*arrays)  # JAX keeps the traces of a function
    return "scan[" in str(jax.make_jaxpr(untraced)(*arrays))


@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 2e-6), (jnp.bfloat16, 2e-2)])
@pytest.mark.parametrize("queries", [LENGTH, 95])
def test_blocks_give_the_results_of_the_whole(dtype, tolerance, queries, request):
    arrays = inputs(dtype, queries)
    assert not has_loop(*arrays)
    whole = results(*arrays)
    request.getfixturevalue("blocks")
    assert has_loop(*arrays)
    for ours, expected in zip(results(*arrays), whole, strict=True):
        assert ours.dtype == expected.dtype and ours.shape == expected.shape
        ours, expected = np.float32(ours), np.float32(expected)
        np.testing.assert_allclose(ours, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("block", [1, 35])
def test_blocks_without_padding(monkeypatch, block):
    whole = results(*inputs())
    monkeypatch.setattr(attention, "MAX_WEIGHTS", 1)
    monkeypatch.setattr(attention, "MAX_BLOCK", block)
    for ours, expected in zip(results(*inputs()), whole, strict=True):
        np.testing.assert_allclose(ours, expected, atol=1e-5)


def test_large_logits(blocks):
    """The first blocks have the largest logits of some queries, and the last blocks those of others."""
    query, key, value = inputs()
    assert 100 < np.abs(jnp.einsum("nqhd,nkhd->nhqk", 30 * query, key)).max()
    for ours, expected in zip(
        (cpu_attention(30 * query, key, value), cpu_attention(-30 * query, key, value)),
        (xla_attention(30 * query, key, value), xla_attention(-30 * query, key, value)),
    ):
        np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_only_cpus_need_blocks(blocks, monkeypatch):
    """GPUs and TPUs have fused kernels, and prefer large arrays to a loop without one."""
    arrays = [x[:, None] for x in inputs()]
    attend = lambda *arrays: Attention("xla")(*arrays, across_views=False)
    assert "scan[" in str(jax.make_jaxpr(attend)(*arrays))
    monkeypatch.setattr(Attention, "platform", "gpu")
    attend = lambda *arrays: Attention("xla")(*arrays, across_views=False)
    assert "scan[" not in str(jax.make_jaxpr(attend)(*arrays))


def test_the_number_of_sequences_may_be_unknown(blocks):
    """As in an exported program."""
    (groups,) = export.symbolic_shape("groups")
    shape = jax.ShapeDtypeStruct((groups, LENGTH, 2, 8), jnp.float32)
    program = export.export(jax.jit(cpu_attention))(shape, shape, shape)
    arrays = inputs()
    np.testing.assert_allclose(program.call(*arrays), cpu_attention(*arrays), atol=1e-6)


@pytest.mark.parametrize("variant, views", [("tiny", 12), ("small", 8), ("base", 8), ("large", 4)])
def test_short_sequences_are_not_cut(variant, views):
    """Groups of the sizes that are trained on at 224 x 224 compute what they always did."""
    size, tokens = VARIANTS[variant], views * (14 * 14 + 4)
    shape = jax.ShapeDtypeStruct((1, tokens, size.heads, size.width // size.heads), jnp.float32)
    assert not has_loop(shape, shape, shape)


def test_memory_does_not_grow_with_the_square_of_the_length():
    """A hundred views of 224 x 224: all weights would be 9.6 GB."""
    shape = jax.ShapeDtypeStruct((1, 100 * 200, 6, 64), jnp.float32)
    loss = lambda *arrays: (cpu_attention(*arrays) ** 2).sum()
    for function, limit in ((cpu_attention, 200e6), (jax.grad(loss, (0, 1, 2)), 400e6)):
        compiled = jax.jit(function).lower(shape, shape, shape).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < limit


@pytest.mark.parametrize("queries, keys", [(229, 229), (6, 229), (229, 6)])
def test_odd_lengths_with_cudnn_are_padded(queries, keys, monkeypatch):
    """A stand-in for cuDNN: even lengths only, with the numbers of tokens that count."""
    attend = jax.nn.dot_product_attention

    def cudnn(query, key, value, *, implementation, **lengths):
        assert implementation == "cudnn" and query.shape[1] % 2 == key.shape[1] % 2 == 0
        return attend(query, key, value, implementation="xla", **lengths)

    arrays = inputs(queries=queries, keys=keys)
    expected, pull = jax.vjp(lambda *arrays: attend(*arrays, implementation="xla"), *arrays)
    monkeypatch.setattr(jax.nn, "dot_product_attention", cudnn)
    ours, our_pull = jax.vjp(cudnn_attention, *arrays)
    gradient = jnp.cos(jnp.arange(expected.size, dtype=jnp.float32)).reshape(expected.shape)
    np.testing.assert_allclose(ours, expected, atol=1e-5)
    for mine, other in zip(our_pull(gradient), pull(gradient), strict=True):
        np.testing.assert_allclose(mine, other, atol=1e-5)
