"""How much memory training takes on each device, estimated from the model's definition.

An estimate: it counts what must be kept, not what a compiler adds. With fused attention no (T, T) weights
are ever stored, so nothing here grows with the square of the tokens.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from muskie_jax.data.buckets import Bucket
from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import CHANNELS, Muskie

# Arrays as large as the tokens (tokens x width) that a transformer layer keeps for its backward pass,
# by what is computed again (`config.model.remat`); the input of each block comes to it.
KEPT_BY_LAYER = {
    # first norm; queries, keys and values; attention's output; sum; second norm; hidden layer, twice
    "none": 1 + 3 + 1 + 1 + 1 + 4 + 4,
    # queries, keys and values; attention's output; sum; hidden layer before GELU
    "elementwise": 3 + 1 + 1 + 4,
    "block": 1,  # attention's output
    "full": 0,
}
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
      block whose gradients are being computed, with what is computed again for it),
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
    array = tokens * model.width * itemsize
    layers = model.depth * LAYERS_PER_BLOCK
    kept = array * (model.depth + layers * KEPT_BY_LAYER[model.remat])
    again = KEPT_BY_LAYER["none"] - KEPT_BY_LAYER[model.remat]
    # A block's backward pass starts with what it must compute again, and has a layer's gradients.
    working = array * (LAYERS_PER_BLOCK * again + KEPT_BY_LAYER["none"])
    return {
        "parameters": 4 * split,
        "optimizer": 8 * split,
        "gradients": 4 * split,
        "compute copies": itemsize * kernels if copied else 0.0,
        "activations": kept,
        "working set": working,
        "loss": 4 * pixels * KEPT_BY_LOSS,
        "batches": pixels * (1 + prefetched),
    }


def _parameters(model: Muskie) -> dict[str, int]:
    """Numbers of parameters: of the kernels of linear layers, which meshes split, and of the others."""
    image = jnp.zeros((1, 1, model.patch, model.patch, CHANNELS))
    # Shapes are the same whatever computes attention; on one device nothing has to be split.
    plain = model.clone(attention=Attention("xla"))
    params = jax.eval_shape(plain.init, jax.random.key(0), image)["params"]
    count = {"kernels": 0, "others": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        count["kernels" if path[-1].key == "kernel" else "others"] += leaf.size
    return count
