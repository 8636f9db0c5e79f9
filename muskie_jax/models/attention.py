"""Softmax attention, computed by the platform's best kernel or by plain XLA."""

import jax
import jax.numpy as jnp
from jax import Array

IMPLEMENTATIONS = ("auto", "xla", "cudnn")


def attention(query: Array, key: Array, value: Array, implementation: str = "auto") -> Array:
    """Attention of every query over all keys, softmax scale 1/sqrt(D).

    Args:
      query, key, value: (N, T, heads, D), one dtype.
      implementation: "xla" runs anywhere; "cudnn" is the fused GPU kernel and takes bfloat16 and
        float16 only; "auto" takes cudnn where it can run and xla elsewhere.

    Returns:
      (N, T, heads, D) in the dtype of `query`. The softmax is float32 either way.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"attention={implementation!r}: choose one of {', '.join(IMPLEMENTATIONS)}")
    if implementation == "auto":
        fused = jax.default_backend() == "gpu" and query.dtype in (jnp.bfloat16, jnp.float16)
        implementation = "cudnn" if fused else "xla"
    return jax.nn.dot_product_attention(query, key, value, implementation=implementation)


def attention_map(query: Array, key: Array) -> Array:
    """Attention weights averaged over heads: (N, T, heads, D) twice -> float32 (N, T, T).

    Heads are visited in turn, so that only one (N, T, T) map besides the sum is ever in memory.
    """
    scale = query.shape[-1] ** -0.5

    def add_head(total, head):
        head_query, head_key = head
        logits = jnp.einsum("nqd,nkd->nqk", head_query, head_key, preferred_element_type=jnp.float32)
        return total + jax.nn.softmax(logits * scale, axis=-1), None

    batch, length, heads, _ = query.shape
    zero = jnp.zeros((batch, length, length), jnp.float32)
    by_head = (jnp.moveaxis(query, 2, 0), jnp.moveaxis(key, 2, 0))
    total, _ = jax.lax.scan(add_head, zero, by_head)
    return total / heads
