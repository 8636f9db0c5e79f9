"""Fused attention on TPUs, with JAX's splash attention kernel (Pallas).

The kernel processes blocks of queries and keys in the chip's vector memory, so the (Tq, Tk) weights are
never written to main memory. Sequences are padded to a multiple of the block, and padded keys are masked.
"""

import math

import jax.numpy as jnp
from jax import Array
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jaxtyping import Float

ATTENTION = "attention"  # `checkpoint_name` of the residuals that attention saves for its backward pass
LANES = 128  # width of a TPU's vector registers; block lengths are multiples of LANES
# Two blocks of logits and their gradients must fit the 16 MiB of vector memory that the compiler allots
# to a kernel. Blocks of 1152 x 1152 exceed it on v5p for float32, 1536 x 1536 on v5e for bfloat16.
LONGEST_BLOCK = {2: 1152, 4: 640}  # bytes per number -> tokens


def block_length(length: int, itemsize: int = 2) -> int:
    """Returns the number of tokens per block for a sequence of `length` tokens.

    Long blocks move less data and have less overhead; short blocks need less padding. The overhead of a
    block is estimated as the cost of 128 tokens.

    Args:
      length: length of the sequence, in tokens.
      itemsize: bytes per number in queries, keys and values: 2 or 4.
    """

    def cost(block: int) -> int:
        return math.ceil(length / block) * (block + LANES)

    longest = min(LONGEST_BLOCK[itemsize], math.ceil(length / LANES) * LANES)
    return min(range(longest, 0, -LANES), key=cost)


def padded_length(length: int, itemsize: int = 2) -> int:
    """Returns the length of a sequence after padding to a multiple of its block, in tokens."""
    block = block_length(length, itemsize)
    return math.ceil(length / block) * block


def is_fused(keys: int, itemsize: int = 2) -> bool:
    """Returns whether one kernel computes all gradients.

    One kernel needs five matrix products; two kernels need seven. However, one kernel writes a partial
    gradient of the queries to main memory for each block of keys. It is therefore used for a single block
    only.
    """
    return keys <= block_length(keys, itemsize)


def splash_attention(
    query: Float[Array, "N Tq heads D"],
    key: Float[Array, "N Tk heads D"],
    value: Float[Array, "N Tk heads D"],
    *,
    interpret: bool = False,
) -> Float[Array, "N Tq heads D"]:
    """Attends from every query to all keys, with softmax scale 1/sqrt(D). Differentiable.

    Args:
      query, key, value: arrays of the same dtype, which is also the result's. The softmax is float32.
      interpret: whether to interpret the kernel, slowly, on any platform. For tests.
    """
    batch, queries, heads, size = query.shape
    keys = key.shape[1]
    scaled = (query.astype(jnp.float32) * size**-0.5).astype(query.dtype)
    itemsize = query.dtype.itemsize
    total_queries, total_keys = padded_length(queries, itemsize), padded_length(keys, itemsize)

    def by_head(x: Array, total: int) -> Array:
        """Reshapes (N, T, heads, D) to (N * heads, total, D): the kernel treats sequences as heads."""
        x = x.swapaxes(1, 2).reshape(batch * heads, x.shape[1], size)
        return jnp.pad(x, ((0, 0), (0, total - x.shape[1]), (0, 0)))

    segments = None
    if total_keys > keys:
        # Padded queries also attend to the real keys: without any key their softmax would be undefined.
        is_real = (jnp.arange(total_keys) < keys).astype(jnp.int32)
        segments = kernel.SegmentIds(jnp.ones(total_queries, jnp.int32), is_real)
    full = masks.FullMask((total_queries, total_keys))
    attend = kernel.make_splash_mha(
        masks.MultiHeadMask([full] * (batch * heads)),
        block_sizes=_block_sizes(queries, keys, itemsize),
        head_shards=1,
        q_seq_shards=1,
        # Lets a `jax.checkpoint` policy save output and log-sum-exp, so that the kernel need not run again.
        residual_checkpoint_name=ATTENTION,
        interpret=interpret,
    )
    out = attend(
        by_head(scaled, total_queries), by_head(key, total_keys), by_head(value, total_keys), segments
    )
    assert isinstance(out, Array)  # a tuple only with `save_residuals`
    return out[:, :queries].reshape(batch, heads, queries, size).swapaxes(1, 2)


def _block_sizes(queries: int, keys: int, itemsize: int) -> kernel.BlockSizes:
    rows, columns = block_length(queries, itemsize), block_length(keys, itemsize)
    fused = is_fused(keys, itemsize)
    return kernel.BlockSizes(
        block_q=rows,
        block_kv=columns,
        block_q_dkv=rows,
        block_kv_dkv=columns,
        block_q_dq=None if fused else rows,
        block_kv_dq=None if fused else columns,
        use_fused_bwd_kernel=fused,
    )
