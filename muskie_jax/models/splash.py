"""Fused attention on TPUs, by the splash attention kernel that comes with JAX (Pallas).

The kernel works on blocks of queries and keys in the chip's vector memory, so the (Tq, Tk) weights are
never in main memory. It wants whole blocks: sequences are padded, and padded keys are masked.
"""

import math

import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

ATTENTION = "attention"  # the name of what attention keeps for its backward pass, for `jax.checkpoint`
LANES = 128  # the width of a TPU's vector registers: lengths of blocks are multiples of it
# Two logits blocks and their gradients must fit the 16 MiB of vector memory that the compiler gives a
# kernel: with float32 queries 1152 x 1152 is too much for v5p, with bfloat16 1536 x 1536 for v5e.
LONGEST_BLOCK = {2: 1152, 4: 640}  # by bytes per number


def block_length(length: int, itemsize: int = 2) -> int:
    """The block that a sequence of `length` tokens is cut into; the last block is padded.

    Long blocks move less data and have less overhead, short ones need less padding. The overhead of a
    block is taken as that of 128 more tokens.

    Args:
      length: tokens.
      itemsize: bytes per number of queries, keys and values: 2 or 4.
    """

    def cost(block: int) -> int:
        return math.ceil(length / block) * (block + LANES)

    longest = min(LONGEST_BLOCK[itemsize], math.ceil(length / LANES) * LANES)
    return min(range(longest, 0, -LANES), key=cost)


def padded_length(length: int, itemsize: int = 2) -> int:
    """The whole blocks of a sequence of `length` tokens, in tokens."""
    block = block_length(length, itemsize)
    return math.ceil(length / block) * block


def is_fused(keys: int, itemsize: int = 2) -> bool:
    """Whether one kernel computes all gradients.

    It needs five matrix products where two kernels need seven, but leaves a part of the queries'
    gradient per block of keys in main memory: it is used where there is one block.
    """
    return keys <= block_length(keys, itemsize)


def splash_attention(query: Array, key: Array, value: Array, *, interpret: bool = False) -> Array:
    """Attention of every query over all keys, softmax scale 1/sqrt(D), with gradients.

    Args:
      query: (N, Tq, heads, D).
      key, value: (N, Tk, heads, D), in the dtype of `query`.
      interpret: run the kernel's steps one by one, on any platform: slow, for tests.

    Returns:
      (N, Tq, heads, D) in the dtype of `query`. The softmax is float32.
    """
    batch, queries, heads, size = query.shape
    keys = key.shape[1]
    scaled = (query.astype(jnp.float32) * size**-0.5).astype(query.dtype)
    itemsize = query.dtype.itemsize
    total_queries, total_keys = padded_length(queries, itemsize), padded_length(keys, itemsize)

    def by_head(x: Array, total: int) -> Array:
        """(N, T, heads, D) -> (N * heads, total, D): to the kernel, sequences are heads too."""
        x = x.swapaxes(1, 2).reshape(batch * heads, x.shape[1], size)
        return jnp.pad(x, ((0, 0), (0, total - x.shape[1]), (0, 0)))

    segments = None
    if total_keys > keys:
        # Padded queries see the real keys as all others do: a row without keys would have no softmax.
        is_real = (jnp.arange(total_keys) < keys).astype(jnp.int32)
        segments = kernel.SegmentIds(jnp.ones(total_queries, jnp.int32), is_real)
    full = masks.FullMask((total_queries, total_keys))
    attend = kernel.make_splash_mha(
        masks.MultiHeadMask([full] * (batch * heads)),
        block_sizes=_block_sizes(queries, keys, itemsize),
        head_shards=1,
        q_seq_shards=1,
        # So that a policy of `jax.checkpoint` can keep output and log-sum, and need not run it again.
        residual_checkpoint_name=ATTENTION,
        interpret=interpret,
    )
    out = attend(
        by_head(scaled, total_queries), by_head(key, total_keys), by_head(value, total_keys), segments
    )
    return out[:, :queries].reshape(batch, heads, queries, size).swapaxes(1, 2)


def _block_sizes(queries: int, keys: int, itemsize: int) -> kernel.BlockSizes:
    rows, columns = block_length(queries, itemsize), block_length(keys, itemsize)
    fused = is_fused(keys, itemsize)
    separate = {} if fused else {"block_q_dq": rows, "block_kv_dq": columns}
    return kernel.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        use_fused_bwd_kernel=fused,
        **separate,
    )
