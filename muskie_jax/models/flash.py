"""FlashAttention-3 on Hopper GPUs (H100, H200), from the optional package dew-flash-attn-cu13.

The package (version 0.3.6, BSD-3) calls the authors' CUDA kernels through XLA's foreign function interface.
It needs Linux on x86-64, CUDA 13 and jax 0.11.2 or later. Source: Shah et al., "FlashAttention-3: Fast and
Accurate Attention with Asynchrony and Low-precision", arXiv 2407.08608.

Of three packages, this one fits best. flash-attn3-jax 0.2.3 has heads of 128 channels only, so that heads
of 64 channels would do twice the work. fa4-jax 0.1.0 compiles its kernels at run time, with NVIDIA's CuTe
DSL.

Milliseconds of attention alone, forward and backward, on one H200 (jax 0.11.2, 2026-11-29), as printed by
`python -m muskie_jax.perf.attention`:

| sequences | queries = keys | heads x channels | cuDNN | FlashAttention-3 |
|---|---|---|---|---|
| 512 | 68 | 6 x 64 | 0.329 | 0.411 |
| 256 | 136 | 6 x 64 | 0.392 | 0.402 |
| 32 | 200 | 12 x 64 | 0.154 | 0.169 |
| 512 | 200 | 6 x 64 | 0.913 | 1.022 |
| 64 | 272 | 6 x 64 | 0.223 | 0.225 |
| 32 | 320 | 12 x 64 | 0.236 | 0.239 |
| 128 | 400 | 6 x 64 | 0.653 | 0.634 |
| 32 | 448 | 12 x 64 | 0.357 | 0.355 |
| 64 | 544 | 6 x 64 | 0.502 | 0.444 |
| 32 | 580 | 12 x 64 | 0.527 | 0.493 |
| 64 | 800 | 6 x 64 | 0.868 | 0.766 |
| 32 | 1028 | 12 x 64 | 1.300 | 1.105 |
| 4 | 1600 | 12 x 64 | 0.357 | 0.328 |
| 4 | 4640 | 12 x 64 | 2.370 | 1.856 |
| 4 | 8224 | 12 x 64 | 6.867 | 5.147 |
| 4 | 8224 | 16 x 80 | 12.942 | 11.010 |
"""

import functools
import importlib

import jax
from jax import Array
from jaxtyping import Float

PACKAGE, MODULE = "dew-flash-attn-cu13==0.3.6", "dew_flash_attn"
INSTALL = f"python -m pip install {PACKAGE} (Linux on x86-64, Python 3.12 or later, CUDA 13)"
COMPUTE_CAPABILITY = "9.0"  # of Hopper, for which the kernels are compiled
LARGEST_HEAD = 256  # channels
FEWEST_KEYS = 400  # shortest sequence for which "auto" prefers these kernels to cuDNN's, see the table
FORWARD_CALL = "dew_flash3_mha_fwd"  # the function that XLA calls in the forward pass


def runs_on(device: jax.Device) -> bool:
    """Returns whether a device has the architecture that the kernels need."""
    return getattr(device, "compute_capability", None) == COMPUTE_CAPABILITY


@functools.cache
def is_installed() -> bool:
    """Returns whether the package and the CUDA libraries that it needs are installed."""
    try:
        importlib.import_module(MODULE)
    except (ImportError, OSError):  # OSError: its library finds no CUDA 13
        return False
    return True


def flash_attention(
    query: Float[Array, "N Tq heads D"],
    key: Float[Array, "N Tk heads D"],
    value: Float[Array, "N Tk heads D"],
) -> Float[Array, "N Tq heads D"]:
    """Attends with FlashAttention-3, in 16-bit dtypes."""
    return importlib.import_module(MODULE).flash_mha(query, key, value)
