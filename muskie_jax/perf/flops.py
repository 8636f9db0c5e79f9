"""FLOPs of a training step, counted from the model's definition, and the peak FLOP/s of devices."""

import jax
import jax.numpy as jnp

from muskie_jax.buckets import Bucket
from muskie_jax.models import splash
from muskie_jax.models.camera_head import STAGES
from muskie_jax.models.dpt import HIDDEN
from muskie_jax.models.muskie import CHANNELS, Muskie
from muskie_jax.models.reconstruction import Reconstruction
from muskie_jax.perf.machines import find_chip

# For each level of the point head, what its channels divide the width by, and pixels of its map per patch.
POINT_HEAD_LEVELS = ((4, 16), (2, 4), (1, 1), (1, 1 / 4))
CAMERA_LAYERS = 3 * STAGES  # linear layers of the camera head that see every patch


def forward_flops(model: Muskie, bucket: Bucket) -> float:
    """Returns the FLOPs of the forward pass of one group of a bucket: matrix products and attention.

    A multiply-add counts as 2. Norms, RoPE, activations and softmax do not count.
    """
    ends, linear, attention = _forward_parts(model, bucket)
    return ends + linear + attention


def _forward_parts(model: Muskie, bucket: Bucket) -> tuple[float, float, float]:
    """Returns the FLOPs of patch embedding and head, of the blocks' linear layers, and of attention."""
    rows, columns = bucket.grid(model.patch)
    patches = bucket.views * rows * columns
    tokens = patches + bucket.views * model.registers
    values = CHANNELS * model.patch**2
    width, layers = model.width, 2 * model.depth
    ends = 2 * values * width * 3 * patches  # embedding 1; the head has two outputs per pixel value
    linear = 2 * width**2 * 12 * layers * tokens  # queries, keys, values 3; output projection 1; MLP 8
    frame_attention = model.depth * tokens * (tokens / bucket.views)
    global_attention = model.depth * tokens * tokens
    return ends, linear, 4 * width * (frame_attention + global_attention)


def training_flops(model: Muskie | Reconstruction, bucket: Bucket) -> float:
    """Returns the FLOPs of one group's forward and backward pass, as MFU counts them.

    The count is three times that of the forward pass, and once for a frozen backbone. Recomputation does
    not count.
    """
    if isinstance(model, Muskie):
        return 3.0 * forward_flops(model, bucket)
    backbone = model.backbone
    ends, linear, attention = _forward_parts(backbone, bucket)
    in_backbone = ends / 3 + linear + attention  # of `ends`, the embedding alone
    _, *of_decoder = _forward_parts(_decoder_blocks(model), bucket)
    decoding = sum(of_decoder) + _head_flops(backbone, bucket)
    return (1.0 if model.freeze_backbone else 3.0) * in_backbone + 3.0 * decoding


def _decoder_blocks(model: Reconstruction) -> Muskie:
    """Returns a network with the blocks of a decoder, which sees no registers."""
    return model.backbone.clone(depth=model.decoder_depth, registers=0)


def _head_flops(backbone: Muskie, bucket: Bucket) -> float:
    """Returns the FLOPs of a forward pass of the point head and the camera head."""
    rows, columns = bucket.grid(backbone.patch)
    tokens = bucket.views * rows * columns
    return _point_head_flops(backbone, bucket) + 2.0 * CAMERA_LAYERS * backbone.width**2 * tokens


def _point_head_flops(backbone: Muskie, bucket: Bucket) -> float:
    """Returns the FLOPs of a point head's convolutions, without resizing; see `muskie_jax.models.dpt`."""
    rows, columns = bucket.grid(backbone.patch)
    width, patches, pixels = backbone.width, rows * columns, bucket.height * bucket.width
    levels = [(width // divisor, area) for divisor, area in POINT_HEAD_LEVELS]
    multiply_adds = 0.0
    for channels, area in levels:
        multiply_adds += width * channels + 9 * channels * width * area  # to the level's channels, and back
        multiply_adds += 4 * 9 * width**2 * area + width**2 * area  # two residual units; 1x1 convolution
    multiply_adds += (
        4**2 * levels[0][0] ** 2 + 2**2 * levels[1][0] ** 2
    )  # enlarging; each output pixel once
    multiply_adds -= 2 * 9 * width**2 / 4  # the coarsest level has one residual unit
    multiply_adds += 9 * width**2 / 4  # convolution of stride 2
    multiply_adds += 9 * width * (width // 2) * 64  # at 8 x 8 pixels per patch
    per_pixel = 9 * (width // 2) * HIDDEN + HIDDEN * 4
    return 2.0 * bucket.views * (multiply_adds * patches + per_pixel * pixels)


def hardware_flops(
    model: Muskie | Reconstruction, bucket: Bucket, on_tpu: bool, view_shards: int = 1
) -> float:
    """Returns the FLOPs that devices execute for one group's training step, as HFU counts them.

    Hardware FLOPs utilisation (HFU) counts recomputation and padding, which MFU leaves out. In addition to
    `training_flops`, this counts:

    - the repeated forward pass of a rematerialised block;
    - attention weights, which fused attention recomputes in its backward pass;
    - on TPUs, the padding of splash attention: token counts are padded to complete blocks, and heads of 64
      or 80 channels to the 128 columns of a matrix unit.

    Args:
      model: the network.
      bucket: image size and view count of the group.
      on_tpu: whether attention is splash attention.
      view_shards: number of devices that split the views of a group.
    """
    if isinstance(model, Muskie):
        ends, *_ = _forward_parts(model, bucket)
        return 3 * ends + _executed_by_blocks(model, bucket, on_tpu, view_shards)
    backbone, trains_backbone = model.backbone, not model.freeze_backbone
    ends, *_ = _forward_parts(backbone, bucket)
    embedding = ends / 3 * (3 if trains_backbone else 1)
    return (
        embedding
        + _executed_by_blocks(backbone, bucket, on_tpu, view_shards, trains_backbone)
        + _executed_by_blocks(_decoder_blocks(model), bucket, on_tpu, view_shards)
        + 3 * _head_flops(backbone, bucket)
    )


def _executed_by_blocks(
    model: Muskie, bucket: Bucket, on_tpu: bool, view_shards: int, trained: bool = True
) -> float:
    """Returns the FLOPs that devices execute in the blocks of a network, see `hardware_flops`.

    Without `trained`, the blocks have a forward pass only.
    """
    linear_again = 1 if trained and model.remat in ("block", "full") else 0
    attention_again = 1 if trained and model.remat == "full" else 0
    _, linear, _ = _forward_parts(model, bucket)
    rows, columns = bucket.grid(model.patch)
    frame_tokens = rows * columns + model.registers
    head_size, itemsize = model.width // model.heads, jnp.dtype(model.dtype).itemsize

    def attention(sequences: float, queries: int, keys: int) -> float:
        products, columns = 2 * (1 + attention_again) + (5 if trained else 0), head_size
        if on_tpu:
            products += 0 if splash.is_fused(keys, itemsize) else 2
            columns = max(head_size, splash.LANES)
            queries, keys = (splash.padded_length(t, itemsize) for t in (queries, keys))
        return sequences * model.heads * products * 2 * queries * keys * columns

    group_tokens = bucket.views * frame_tokens
    frame_attention = attention(bucket.views, frame_tokens, frame_tokens)
    global_attention = attention(view_shards, group_tokens // view_shards, group_tokens)
    attentions = model.depth * (frame_attention + global_attention)
    return ((3 if trained else 1) + linear_again) * linear + attentions


def peak_flops(device: jax.Device) -> float | None:
    """Returns a device's peak bfloat16 FLOP/s, or None if `machines` does not list the device."""
    chip = find_chip(device.device_kind)
    return chip.flops if chip else None
