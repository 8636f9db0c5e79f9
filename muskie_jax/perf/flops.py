"""How much arithmetic a step is, counted from the model's definition, and what devices can do."""

import jax
import jax.numpy as jnp

from muskie_jax.buckets import Bucket
from muskie_jax.models import splash
from muskie_jax.models.muskie import CHANNELS, Muskie
from muskie_jax.perf.machines import find_chip


def forward_flops(model: Muskie, bucket: Bucket, slots: int | None = None) -> float:
    """Multiplications and additions of one group's forward pass: matrix products and attention.

    Counts 2 per multiply-add; leaves out norms, RoPE, activations and softmax.

    Args:
      model: the network.
      bucket: the shape of a group.
      slots: of how many patches the last layer and the head compute something; None means all tokens.
    """
    ends, linear, attention = _forward_parts(model, bucket, slots)
    return ends + linear + attention


def _forward_parts(model: Muskie, bucket: Bucket, slots: int | None) -> tuple[float, float, float]:
    """Patch embedding and head; the blocks' linear layers; attention."""
    rows, columns = bucket.grid(model.patch)
    patches = bucket.views * rows * columns
    tokens = patches + bucket.views * model.registers
    last, predicted = (tokens, patches) if slots is None else (slots, slots)
    values = CHANNELS * model.patch**2
    width, layers = model.width, 2 * model.depth
    ends = 2 * values * width * (patches + 2 * predicted)  # patch embedding, and the head's two outputs
    after_attention = 9 * ((layers - 1) * tokens + last)  # proj 1, mlp 8
    linear = 2 * width**2 * (3 * layers * tokens + after_attention)  # qkv 3
    frame_attention = model.depth * tokens * (tokens / bucket.views)
    global_attention = ((model.depth - 1) * tokens + last) * tokens
    return ends, linear, 4 * width * (frame_attention + global_attention)


def training_flops(model: Muskie, bucket: Bucket, slots: int | None = None) -> float:
    """Of one group's forward and backward pass; recomputation is not counted, as usual for MFU."""
    return 3.0 * forward_flops(model, bucket, slots)


def hardware_flops(
    model: Muskie, bucket: Bucket, on_tpu: bool, view_shards: int = 1, slots: int | None = None
) -> float:
    """What devices have to compute for one group's training step, with all that is computed twice.

    Beside `training_flops`: a rematerialised block's forward pass again; the weights again in the backward
    pass of fused attention; and on TPUs the padding of splash attention, to whole blocks of tokens and to
    the 128 columns of a matrix unit, of which a head fills 64 or 80.

    Args:
      view_shards: devices that share the views of a group; where there are several, all is computed.
    """
    linear_again = 1 if model.remat in ("block", "full") else 0
    attention_again = 1 if model.remat == "full" else 0
    ends, linear, _ = _forward_parts(model, bucket, slots)
    rows, columns = bucket.grid(model.patch)
    view = rows * columns + model.registers
    size, itemsize = model.width // model.heads, jnp.dtype(model.dtype).itemsize

    def attention(sequences: float, queries: int, keys: int) -> float:
        products, columns = 2 * (1 + attention_again) + 5, size
        if on_tpu:
            products += 0 if splash.is_fused(keys, itemsize) else 2
            columns = max(size, splash.LANES)
            queries, keys = (splash.padded_length(t, itemsize) for t in (queries, keys))
        return sequences * model.heads * products * 2 * queries * keys * columns

    inside = attention(bucket.views, view, view)
    queries = bucket.views * view // view_shards
    across = attention(view_shards, queries, bucket.views * view)
    last = across if slots is None else attention(1, slots, bucket.views * view)
    attentions = model.depth * inside + (model.depth - 1) * across + last
    return 3 * ends + (3 + linear_again) * linear + attentions


def peak_flops(device: jax.Device) -> float | None:
    """Peak bfloat16 FLOP/s of a device, or None if it is not in the table (a CPU, for one)."""
    chip = find_chip(device.device_kind)
    return chip.flops if chip else None
