"""How much memory training takes on each device, estimated from the model's definition.

An estimate: it counts what must be kept, not what a compiler adds. With fused attention no (T, T) weights
are ever stored, so nothing here grows with the square of the tokens.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from muskie_jax.data.buckets import Bucket
from muskie_jax.models.muskie import CHANNELS, Muskie

# Arrays as large as the tokens (tokens x width) that a transformer layer keeps for its backward pass:
# input, first norm, query, key and value before and after rotation (keys and queries only), attention's
# output, sum, second norm, and the four-fold hidden layer before and after GELU.
KEPT_BY_LAYER = 1 + 1 + 3 + 2 + 1 + 1 + 1 + 4 + 4
LAYERS_PER_BLOCK = 2
# Float32 arrays as large as the pixels around the loss: images, targets, prediction, confidence, its
# logarithm, errors, and gradients of the head's two outputs.
KEPT_BY_LOSS = 8


def training_memory(
    model: Muskie, bucket: Bucket, groups: int, mesh: Mapping[str, int], prefetched: int = 2
) -> dict[str, float]:
    """Bytes on each device while the gradients of a bucket are computed, by part.

    Args:
      model: the network.
      bucket: the shape of a batch.
      groups: groups of the batch after splitting, over all devices.
      mesh: sizes of the axes data, fsdp and view.
      prefetched: batches that lie ready on the device besides the one in use.

    Returns:
      `parameters`, `optimizer` (two moments), `gradients` (of the update so far), `compute copies`
      (parameters in the type of matrix products, whole on every device if that is not float32 or if
      they are split), `activations` (kept from the forward to the backward pass), `working set` (of the
      block whose gradients are being computed; without rematerialisation a part of the activations),
      `loss` (float32 arrays around it) and `batches`. Their sum is the total.
    """
    count = _parameters(model)
    kernels = count["kernels"]
    split = kernels / mesh["fsdp"] + count["others"]
    itemsize = jnp.dtype(model.dtype).itemsize
    copied = model.dtype != jnp.float32 or mesh["fsdp"] > 1
    local = groups * bucket.views / (mesh["data"] * mesh["fsdp"] * mesh["view"])  # views on a device
    rows, columns = bucket.grid(model.patch)
    tokens = local * (rows * columns + model.registers)
    pixels = local * bucket.height * bucket.width * CHANNELS
    block = tokens * model.width * itemsize * KEPT_BY_LAYER * LAYERS_PER_BLOCK
    inputs = tokens * model.width * itemsize * model.depth
    kept = inputs if model.remat == "block" else block * model.depth
    return {
        "parameters": 4 * split,
        "optimizer": 8 * split,
        "gradients": 4 * split,
        "compute copies": itemsize * kernels if copied else 0.0,
        "activations": kept,
        "working set": block if model.remat == "block" else block / LAYERS_PER_BLOCK,
        "loss": 4 * pixels * KEPT_BY_LOSS,
        "batches": pixels * (1 + prefetched),
    }


def _parameters(model: Muskie) -> dict[str, int]:
    """Numbers of parameters: of the kernels of linear layers, which meshes split, and of the others."""
    image = jnp.zeros((1, 1, model.patch, model.patch, CHANNELS))
    # Shapes are the same whatever computes attention; on one device nothing has to be split.
    plain = dataclasses.replace(model, attention=type(model).attention, parent=None)
    params = jax.eval_shape(plain.init, jax.random.key(0), image)["params"]
    count = {"kernels": 0, "others": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        count["kernels" if path[-1].key == "kernel" else "others"] += leaf.size
    return count
