"""Estimates the memory that training takes on each device, from the model's definition.

The estimate counts the arrays that must be kept, not those that a compiler adds. Fused attention never
stores (T, T) weights, so no term grows with the square of the number of tokens.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from muskie_jax.buckets import Bucket
from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import CHANNELS, Muskie

# Remat policy (`config.model.remat`) -> token-sized arrays (tokens x width) that a block of two layers
# keeps for its backward pass.
KEPT_BY_BLOCK = {
    # Of each layer: its input; first norm; queries, keys and values; attention's output; residual sum;
    # second norm; hidden layer of the MLP before and after GELU. Backward passes of norms, GELU and RoPE
    # need no other arrays.
    "none": 2 * (1 + 1 + 3 + 1 + 1 + 1 + 4 + 4),
    # Of each layer: its input, queries, keys and values, attention's output, residual sum, hidden layer.
    "elementwise": 2 * (1 + 3 + 1 + 1 + 4),
    "block": 1 + 2 * 1,  # its input, and both attentions' outputs
    "full": 1,  # its input
}
# Remat policy -> those of these arrays that the last layer keeps only for slots (see `Task.slots`):
# queries, attention's output, and all later ones.
KEPT_FOR_SLOTS = {"none": 1 + 1 + 1 + 1 + 4 + 4, "elementwise": 1 + 1 + 1 + 4, "block": 1, "full": 0}
# Token-sized arrays of gradients during the backward pass of a block.
GRADIENTS_OF_BLOCK = 2
# Float32 arrays as large as the images when the backward pass starts: images, prediction, confidence, and
# gradients of the head's two outputs.
KEPT_BY_LOSS = 5


def training_memory(
    model: Muskie,
    bucket: Bucket,
    groups: int,
    mesh: Mapping[str, int],
    prefetched: int = 2,
    batches: int = 1,
    slots: int | None = None,
) -> dict[str, float]:
    """Returns the bytes per device, by part, while gradients of one batch are computed.

    The total is within 3% of what the compiler reserved on an H100 and an H200; see
    tests/perf/test_memory.py.

    Args:
      model: the network.
      bucket: image size and views of a group.
      groups: groups of the batch over all devices, after loaded groups were split into the bucket's.
      mesh: sizes of the axes data, fsdp and view.
      prefetched: batches on the device besides the one in use.
      batches: batches per update.
      slots: number of patches per group that the last layer and the head compute; None: all.

    Returns:
      A dictionary whose values sum to the total:

      - `parameters`;
      - `optimizer`: two moments;
      - `gradients`: of an update's other batches, float32;
      - `compute copies`: kernels in the type of matrix products, unsharded, on every device; 0 if they are
        float32 and not sharded;
      - `activations`: kept from the forward to the backward pass, in which kernels' gradients take their
        memory;
      - `working set`: temporary arrays of the loss or of a block's backward pass, the larger of the two;
      - `batches`: images.
    """
    # Parameter shapes depend on neither the mesh, nor rematerialisation, nor the attention kernel.
    plain = model.clone(attention=Attention("xla"), remat="none")
    count = _parameters(plain)  # pyright: ignore[reportArgumentType]  # flax makes modules hashable
    kernels = count["kernels"]
    sharded = kernels / mesh["fsdp"] + count["others"]
    itemsize = jnp.dtype(model.dtype).itemsize
    is_copied = model.dtype != jnp.float32 or mesh["fsdp"] > 1
    views = groups * bucket.views / (mesh["data"] * mesh["fsdp"] * mesh["view"])  # on a device
    rows, columns = bucket.grid(model.patch)
    tokens = views * (rows * columns + model.registers)
    pixels = views * bucket.height * bucket.width * CHANNELS
    predicted = 1.0 if slots is None else slots / (bucket.views * rows * columns)
    token_array = tokens * model.width * itemsize
    kept = KEPT_BY_BLOCK[model.remat]
    recomputed = KEPT_BY_BLOCK["none"] - kept
    if model.remat == "elementwise":
        recomputed /= 2  # one layer at a time, since the input of each is kept
    # Global layers keep the keys and values gathered from all devices instead of the device's own.
    gathered = 2 * (mesh["view"] - 1)
    if model.remat == "none":
        kept += gathered
    else:
        recomputed += gathered
    block_backward = token_array * (recomputed + GRADIENTS_OF_BLOCK)
    not_kept = (1 - predicted) * KEPT_FOR_SLOTS[model.remat]
    return {
        "parameters": 4 * sharded,
        "optimizer": 8 * sharded,
        "gradients": 4 * sharded if batches > 1 else 0.0,
        "compute copies": itemsize * kernels if is_copied else 0.0,
        "activations": max(token_array * (kept * model.depth - not_kept), itemsize * sharded),
        "working set": max(4 * pixels * predicted * KEPT_BY_LOSS, block_backward),
        "batches": pixels * (1 + prefetched),
    }


@functools.cache
def _parameters(model: Muskie) -> dict[str, int]:
    """Returns parameter counts: `kernels` of linear layers, which meshes shard, and `others`."""
    image = jnp.zeros((1, 1, model.patch, model.patch, CHANNELS))
    params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    count = {"kernels": 0, "others": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        count["kernels" if path[-1].key == "kernel" else "others"] += leaf.size
    return count
