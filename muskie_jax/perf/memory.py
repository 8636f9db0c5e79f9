"""Estimates the memory that training needs on each device, from the model's definition.

The estimate counts arrays that must be kept, not arrays that a compiler adds. Fused attention never
stores (T, T) weights, so no term grows with the square of the number of tokens.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from muskie_jax.buckets import Bucket
from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import CHANNELS, Muskie


class Kept(NamedTuple):
    """Number of token-sized arrays (tokens x width) that a block of two layers keeps.

    Attributes:
      stream: arrays in the dtype of the residual stream.
      others: arrays in the dtype of matrix products.
    """

    stream: int
    others: int


# Remat policy (`config.model.remat`) -> arrays that a block keeps for its backward pass.
KEPT_BY_BLOCK = {
    # Per layer: input and residual sum; first norm; queries, keys and values; attention output; second
    # norm; hidden layer of the MLP before and after GELU. Backward passes of norms, GELU and RoPE need no
    # other arrays.
    "none": Kept(2 * 2, 2 * (1 + 3 + 1 + 1 + 4 + 4)),
    # Per layer: input and residual sum; queries, keys and values; attention output; hidden layer of the
    # MLP.
    "elementwise": Kept(2 * 2, 2 * (3 + 1 + 4)),
    "block": Kept(1, 2 * 1),  # input of the block; attention output of each layer
    "full": Kept(1, 0),  # input of the block
}
# Number of gradients of the residual stream during the backward pass of a block.
GRADIENTS_OF_BLOCK = 2
# Number of float32 arrays of the images' size when the backward pass starts: images, prediction,
# confidence, and the gradients of the head's two outputs.
KEPT_BY_LOSS = 5


def training_memory(
    model: Muskie,
    bucket: Bucket,
    groups: int,
    mesh: Mapping[str, int],
    prefetched: int = 2,
    batches: int = 1,
) -> dict[str, float]:
    """Returns the bytes per device, by part, while the gradients of one batch are computed.

    The total is within 3% of the memory that the compiler reserved on an H100 and an H200; see
    tests/perf/test_memory.py.

    Args:
      model: the network.
      bucket: image size and view count of a group.
      groups: number of groups per batch, over all devices, after loaded groups are split.
      mesh: sizes of the axes data, fsdp and view.
      prefetched: number of batches on the device in addition to the batch in use.
      batches: number of batches per update.

    Returns:
      A dictionary whose values sum to the total:

      - `parameters`: the parameters, float32;
      - `optimizer`: two moments per parameter, as of AdamW; Muon keeps one for the kernels of the blocks;
      - `gradients`: sum of the gradients of an update's other batches, float32;
      - `compute copies`: unsharded kernels in the dtype of matrix products; 0 if kernels are float32 and
        not sharded;
      - `activations`: arrays kept from the forward to the backward pass. During the backward pass,
        gradients of kernels reuse their memory;
      - `working set`: temporary arrays of the loss or of a block's backward pass, whichever is larger;
      - `batches`: images.
    """
    # Parameter shapes depend on neither the mesh, nor rematerialisation, nor the attention kernel.
    plain = model.clone(attention=Attention("xla"), remat="none")
    count = _parameters(plain)  # pyright: ignore[reportArgumentType]  # flax makes modules hashable
    kernels = count["kernels"]
    sharded = kernels / mesh["fsdp"] + count["others"]
    itemsize = jnp.dtype(model.dtype).itemsize
    is_copied = model.dtype != jnp.float32 or mesh["fsdp"] > 1
    views = groups * bucket.views / (mesh["data"] * mesh["fsdp"] * mesh["view"])  # views per device
    rows, columns = bucket.grid(model.patch)
    tokens = views * (rows * columns + model.registers)
    pixels = views * bucket.height * bucket.width * CHANNELS
    stream_array = tokens * model.width * jnp.promote_types(model.dtype, model.residual_dtype).itemsize
    other_array = tokens * model.width * itemsize
    size = lambda kept: stream_array * kept.stream + other_array * kept.others
    kept = size(KEPT_BY_BLOCK[model.remat])
    recomputed = size(KEPT_BY_BLOCK["none"]) - kept
    if model.remat == "elementwise":
        recomputed /= 2  # one layer at a time, since each layer's input is kept
    # Global layers keep the keys and values gathered from all devices, not only the device's own.
    gathered = other_array * 2 * (mesh["view"] - 1)
    if model.remat == "none":
        kept += gathered
    else:
        recomputed += gathered
    block_backward = recomputed + stream_array * GRADIENTS_OF_BLOCK
    return {
        "parameters": 4 * sharded,
        "optimizer": 8 * sharded,
        "gradients": 4 * sharded if batches > 1 else 0.0,
        "compute copies": itemsize * kernels if is_copied else 0.0,
        "activations": max(kept * model.depth, itemsize * sharded),
        "working set": max(4 * pixels * KEPT_BY_LOSS, block_backward),
        "batches": pixels * (1 + prefetched),
    }


@functools.cache
def _parameters(model: Muskie) -> dict[str, int]:
    """Returns parameter counts: `kernels` of linear layers, which are sharded, and `others`."""
    image = jnp.zeros((1, 1, model.patch, model.patch, CHANNELS))
    params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    count = {"kernels": 0, "others": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        count["kernels" if path[-1].key == "kernel" else "others"] += leaf.size
    return count
