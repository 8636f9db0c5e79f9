"""How much memory training takes on each device, estimated from the model's definition.

An estimate: it counts what must be kept, not what a compiler adds. With fused attention no (T, T) weights
are ever stored, so nothing here grows with the square of the tokens.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from muskie_jax.buckets import Bucket
from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import CHANNELS, Muskie

# Arrays as large as the tokens (tokens x width) that a block of two layers keeps for its backward pass, by
# what is computed again (`config.model.remat`).
KEPT_BY_BLOCK = {
    # Of each layer: its input; first norm; queries, keys and values; attention's output; sum; second norm;
    # hidden layer before and after GELU. Gradients of norms, GELU and RoPE want nothing else.
    "none": 2 * (1 + 1 + 3 + 1 + 1 + 1 + 4 + 4),
    # Of each layer its input, queries, keys and values, attention's output, sum, hidden layer.
    "elementwise": 2 * (1 + 3 + 1 + 1 + 4),
    "block": 1 + 2 * 1,  # its input, and attention's outputs
    "full": 1,  # its input
}
# Those of them that the last layer keeps only of patches that have slots (see `Task.slots`): queries,
# attention's output, and all that comes after.
KEPT_OF_PLACES = {"none": 1 + 1 + 1 + 1 + 4 + 4, "elementwise": 1 + 1 + 1 + 4, "block": 1, "full": 0}
# Such arrays that hold gradients while a block is on its way back.
GRADIENTS_OF_BLOCK = 2
# Float32 arrays as large as the pixels when the backward pass starts: images, prediction, confidence, and
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
    """Bytes on each device while the gradients of a bucket are computed, by part.

    Within 3% of what the compiler reserved on an H100 and an H200, see tests/perf/test_memory.py.

    Args:
      model: the network.
      bucket: the shape of a batch.
      groups: groups of the batch after splitting, over all devices.
      mesh: sizes of the axes data, fsdp and view.
      prefetched: batches that lie ready on the device besides the one in use.
      batches: of an update.
      slots: of how many patches of a group the last layer and the head compute something; None: of all.

    Returns:
      `parameters`, `optimizer` (two moments), `gradients` (of an update's other batches, float32),
      `compute copies` (parameters in the type of matrix products, whole on every device if that is not
      float32 or if they are split), `activations` (kept from the forward to the backward pass, in which
      gradients of kernels take their place), `working set` (what the loss or, if that is more, a
      block on its way back needs besides) and `batches`. Their sum is the total.
    """
    # Shapes are the same whatever is computed again or computes attention; on one device nothing is split.
    count = _parameters(model.clone(attention=Attention("xla"), remat="none"))
    kernels = count["kernels"]
    split = kernels / mesh["fsdp"] + count["others"]
    itemsize = jnp.dtype(model.dtype).itemsize
    copied = model.dtype != jnp.float32 or mesh["fsdp"] > 1
    local = groups * bucket.views / (mesh["data"] * mesh["fsdp"] * mesh["view"])  # views on a device
    rows, columns = bucket.grid(model.patch)
    tokens = local * (rows * columns + model.registers)
    pixels = local * bucket.height * bucket.width * CHANNELS
    predicted = 1.0 if slots is None else slots / (bucket.views * rows * columns)
    array = tokens * model.width * itemsize
    kept = KEPT_BY_BLOCK[model.remat]
    again = KEPT_BY_BLOCK["none"] - kept
    if model.remat == "elementwise":
        again /= 2  # a layer at a time, since each has its input
    # The layer across views keeps the keys and values that it gathered, instead of the device's own.
    gathered = 2 * (mesh["view"] - 1)
    if model.remat == "none":
        kept += gathered
    else:
        again += gathered
    block = array * (again + GRADIENTS_OF_BLOCK)
    spared = (1 - predicted) * KEPT_OF_PLACES[model.remat]
    return {
        "parameters": 4 * split,
        "optimizer": 8 * split,
        "gradients": 4 * split if batches > 1 else 0.0,
        "compute copies": itemsize * kernels if copied else 0.0,
        "activations": max(array * (kept * model.depth - spared), itemsize * split),
        "working set": max(4 * pixels * predicted * KEPT_BY_LOSS, block),
        "batches": pixels * (1 + prefetched),
    }


@functools.cache
def _parameters(model: Muskie) -> dict[str, int]:
    """Numbers of parameters: of the kernels of linear layers, which meshes split, and of the others."""
    image = jnp.zeros((1, 1, model.patch, model.patch, CHANNELS))
    params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    count = {"kernels": 0, "others": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        count["kernels" if path[-1].key == "kernel" else "others"] += leaf.size
    return count
