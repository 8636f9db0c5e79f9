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
from muskie_jax.models.dpt import HIDDEN, LEVELS
from muskie_jax.models.muskie import CHANNELS, Muskie
from muskie_jax.models.reconstruction import Reconstruction
from muskie_jax.perf.flops import CAMERA_LAYERS, POINT_HEAD_LEVELS
from muskie_jax.sharding import partition_spec, path_name


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
# Float32 numbers per pixel of a view that JAX keeps of the losses of a decoder, most of them for normals at
# four corners. An upper bound, since XLA computes some of them again.
KEPT_BY_GEOMETRY_LOSS = 128
FINEST_MAP = 64  # pixels per patch of the point head's map before it is enlarged to the view


def training_memory(
    model: Muskie | Reconstruction,
    bucket: Bucket,
    groups: int,
    mesh: Mapping[str, int],
    prefetched: int = 2,
    batches: int = 1,
) -> dict[str, float]:
    """Returns the bytes per device, by part, while the gradients of one batch are computed.

    For a Muskie, the total is within 3% of the memory that the compiler reserved on an H100 and an H200;
    see tests/perf/test_memory.py. For a network with a decoder, it was not compared with a GPU.

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
      - `optimizer`: two moments per trained parameter, as of AdamW; Muon keeps one for the kernels of the
        blocks;
      - `gradients`: sum of the gradients of an update's other batches, float32;
      - `compute copies`: unsharded kernels in the dtype of matrix products; 0 if kernels are float32 and
        not sharded;
      - `activations`: arrays kept from the forward to the backward pass. During the backward pass,
        gradients of kernels reuse their memory;
      - `working set`: temporary arrays of the loss or of a block's backward pass, whichever is larger;
      - `batches`: images, and the depth that a decoder is trained with.
    """
    backbone = model if isinstance(model, Muskie) else model.backbone
    # Parameter shapes depend on neither the mesh, nor rematerialisation, nor the attention kernel.
    plain = backbone.clone(attention=Attention("xla"), remat="none")
    plain = plain if isinstance(model, Muskie) else model.clone(backbone=plain)
    count = _parameters(plain)  # pyright: ignore[reportArgumentType]  # flax makes modules hashable
    fsdp, itemsize = mesh["fsdp"], jnp.dtype(backbone.dtype).itemsize
    is_copied = backbone.dtype != jnp.float32 or fsdp > 1
    views = groups * bucket.views / (mesh["data"] * fsdp * mesh["view"])  # views per device
    pixels = views * bucket.height * bucket.width
    if isinstance(model, Muskie):
        kept, block_backward = _blocks_memory(model, bucket, views, mesh)
        working, image_bytes = max(4 * CHANNELS * pixels * KEPT_BY_LOSS, block_backward), CHANNELS
    else:
        kept, working = _decoder_memory(model, bucket, views, mesh)
        image_bytes = CHANNELS + 4  # and depth, float32
    return {
        "parameters": 4 * count.everything.per_device(fsdp),
        "optimizer": 8 * count.trained.per_device(fsdp),
        "gradients": 4 * count.trained.per_device(fsdp) if batches > 1 else 0.0,
        "compute copies": itemsize * count.everything.kernels if is_copied else 0.0,
        "activations": max(kept, itemsize * count.trained.per_device(fsdp)),
        "working set": working,
        "batches": image_bytes * pixels * (1 + prefetched),
    }


def _blocks_memory(
    model: Muskie, bucket: Bucket, views: float, mesh: Mapping[str, int]
) -> tuple[float, float]:
    """Returns the bytes that the blocks of a network keep, and those of a block's backward pass."""
    rows, columns = bucket.grid(model.patch)
    tokens = views * (rows * columns + model.registers)
    itemsize = jnp.dtype(model.dtype).itemsize
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
    return kept * model.depth, recomputed + stream_array * GRADIENTS_OF_BLOCK


def _decoder_memory(
    model: Reconstruction, bucket: Bucket, views: float, mesh: Mapping[str, int]
) -> tuple[float, float]:
    """Returns the bytes that a network with a decoder keeps, and those of its temporary arrays.

    The gradient of the point head's largest array is in memory with everything that is kept. That of a
    block is not, since the head has then released what it kept.
    """
    backbone = model.backbone
    rows, columns = bucket.grid(backbone.patch)
    patches, itemsize = views * rows * columns, jnp.dtype(backbone.dtype).itemsize
    token_array = patches * backbone.width * itemsize
    enlarged = backbone.patch**2 / 2  # pixels of a patch in the view, with half of the channels
    kept_by_head = kept_by_point_head(backbone.width, backbone.patch, itemsize)
    pixels = views * bucket.height * bucket.width
    head = patches * kept_by_head + token_array * CAMERA_LAYERS + 4 * KEPT_BY_GEOMETRY_LOSS * pixels

    decoder = backbone.clone(depth=model.decoder_depth, registers=0)
    blocks = [_blocks_memory(decoder, bucket, views, mesh)] if model.decoder_depth else []
    if not model.freeze_backbone:
        blocks.append(_blocks_memory(backbone, bucket, views, mesh))
    largest_backward = max((backward for _, backward in blocks), default=0.0)
    working = max(token_array * enlarged, largest_backward - head)
    return head + sum(kept for kept, _ in blocks), working


def kept_by_point_head(width: int, patch: int, itemsize: int) -> float:
    """Returns the bytes per patch that the point head keeps: inputs of convolutions, masks of ReLUs.

    Args:
      width: channels of tokens.
      patch: side of a patch, pixels.
      itemsize: bytes of a number in products.
    """
    numbers = width * (FINEST_MAP + patch**2 / 2)  # half of the channels at the size of the view
    masks = 0.0
    for number, (divisor, area) in enumerate(POINT_HEAD_LEVELS, start=1):
        units = 2 if number < LEVELS else 1  # the coarsest level has one residual unit
        # Tokens, and the reduced map before and after it is resampled, which level 3 is not.
        numbers += width * (1 + (area + (number != 3)) / divisor)
        numbers += width * area * (2 * units + 1)  # two convolutions per unit; the last of the fusion
        masks += width * area * 2 * units
    last_layer = HIDDEN * patch**2 * (4 + 1)  # input of the last convolution, float32, and its mask
    return itemsize * numbers + masks + last_layer


class _Count(NamedTuple):
    """Numbers of parameters: in kernels, sharded over `fsdp`, and in total."""

    kernels: int
    sharded: int
    total: int

    def per_device(self, fsdp: int) -> float:
        return self.sharded / fsdp + self.total - self.sharded


class _Counts(NamedTuple):
    everything: _Count
    trained: _Count


@functools.cache
def _parameters(model: Muskie | Reconstruction) -> _Counts:
    """Returns the counts of all parameters of a network, and of those that are trained."""
    side = 2 * (model if isinstance(model, Muskie) else model.backbone).patch
    image = jnp.zeros((1, 1, side, side, CHANNELS))
    params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
    leaves = {path_name(path): leaf.size for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    is_frozen = isinstance(model, Reconstruction) and model.freeze_backbone
    trained = {name for name in leaves if not (is_frozen and name.startswith("backbone/"))}

    def count(names) -> _Count:
        total = lambda chosen: sum(leaves[name] for name in names if chosen(name))
        sharded = lambda name: "fsdp" in partition_spec(name)
        return _Count(total(lambda name: name.endswith("kernel")), total(sharded), total(lambda _: True))

    return _Counts(count(leaves), count(trained))
