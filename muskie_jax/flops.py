"""How much arithmetic a step is, counted from the model's definition, and what devices can do."""

import jax

from muskie_jax.data.buckets import Bucket
from muskie_jax.models.muskie import CHANNELS, Muskie

# Dense bfloat16 peak of one device, FLOP/s, from the vendors' data sheets; by a part of the name that
# JAX gives the device. The longer names come first.
PEAK_FLOPS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "GB200": 2500e12,
    "B200": 2250e12,
    "TPU v6": 918e12,
    "TPU7x": 2307e12,
    "TPU v5p": 459e12,
    "TPU v5 lite": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
}


def forward_flops(model: Muskie, bucket: Bucket) -> float:
    """Multiplications and additions of one group's forward pass: matrix products and attention.

    Counts 2 per multiply-add; leaves out norms, RoPE, activations and softmax.
    """
    rows, columns = bucket.grid(model.patch)
    patches = bucket.views * rows * columns
    tokens = patches + bucket.views * model.registers
    values = CHANNELS * model.patch**2
    width = model.width
    ends = 2 * patches * values * width * 3  # patch embedding, and the head's two outputs
    linear = 2 * tokens * 12 * width**2  # qkv 3, proj 1, mlp 8
    frame_attention = 4 * tokens * (tokens / bucket.views) * width
    global_attention = 4 * tokens * tokens * width
    return ends + model.depth * (2 * linear + frame_attention + global_attention)


def training_flops(model: Muskie, bucket: Bucket) -> float:
    """Of one group's forward and backward pass; recomputation is not counted, as usual for MFU."""
    return 3.0 * forward_flops(model, bucket)


def peak_flops(device: jax.Device) -> float | None:
    """Peak bfloat16 FLOP/s of a device, or None if it is not in the table (a CPU, for one)."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in device.device_kind), None)
