"""Splash attention, interpreted on the CPU, against plain attention in float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muskie_jax.models.splash import LANES, LONGEST_BLOCK, block_length, padded_length, splash_attention


def plain_attention(query, key, value):
    """The definition: softmax(q k^T / sqrt(D)) v, (N, T, heads, D)."""
    logits = jnp.einsum("nqhd,nkhd->nhqk", query, key) / query.shape[-1] ** 0.5
    return jnp.einsum("nhqk,nkhd->nqhd", jax.nn.softmax(logits, axis=-1), value)


def draw(query_shape, keys, dtype=jnp.float32):
    batch, queries, heads, size = query_shape
    rng = np.random.default_rng(queries * keys + size)
    lengths = (queries, keys, keys, queries)  # query, key, value, gradient of the output
    return [jnp.asarray(rng.normal(size=(batch, t, heads, size)), dtype) for t in lengths]


# One full block; padded keys and queries; padded queries only; padded keys of several blocks.
CASES = [(128, 128, 64), (200, 200, 80), (130, 256, 64), (256, 1300, 80)]


@pytest.mark.parametrize("queries, keys, size", CASES)
def test_outputs_and_gradients_match_plain_attention(queries, keys, size):
    *inputs, cotangent = draw((2, queries, 2, size), keys)
    splash = jax.jit(lambda *x: splash_attention(*x, interpret=True))
    expected, expected_vjp = jax.vjp(plain_attention, *inputs)
    out, vjp = jax.vjp(splash, *inputs)
    np.testing.assert_allclose(out, expected, atol=2e-5)
    for name, got, want in zip("qkv", vjp(cotangent), expected_vjp(cotangent)):
        np.testing.assert_allclose(got, want, atol=2e-5, err_msg=f"gradient of {name}")


def test_bfloat16_is_close_to_float32():
    *inputs, _ = draw((1, 200, 2, 80), 200, jnp.bfloat16)
    out = splash_attention(*inputs, interpret=True)
    assert out.dtype == jnp.bfloat16
    expected = plain_attention(*(x.astype(jnp.float32) for x in inputs))
    np.testing.assert_allclose(out.astype(jnp.float32), expected, atol=0.01)


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("length", [1, 64, 128, 200, 580, 1028, 1600, 4640, 8224, 100_003])
def test_blocks_cover_sequences_with_little_padding(length, itemsize):
    block, padded = block_length(length, itemsize), padded_length(length, itemsize)
    assert block % LANES == 0 and block <= LONGEST_BLOCK[itemsize]
    assert padded % block == 0 and padded >= length
    assert padded < length + max(LANES, 0.25 * length)
    assert block >= min(length, 384)
