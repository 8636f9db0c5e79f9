"""LayerNorm and GELU with backward passes that minimise memory traffic.

Between matrix products and attention, a training step is bound by memory bandwidth. Its time depends on
which arrays are saved for the backward pass, and how often that pass reads them. With automatic
derivatives, GELU saves three arrays, and LayerNorm's gradient makes four float32 passes. Here each function
saves only its input (LayerNorm also two numbers per token). Both compute the same functions as
`flax.linen.LayerNorm` and `flax.linen.gelu`.

LayerNorm is one of two places where the model depends on the mesh; the other is `Attention`. The gradients
of scale and bias are sums over all tokens, computed in one pass. If that pass spans devices, XLA gathers
partial sums for each norm. `LayerNorm.shards` therefore states how the mesh splits tokens.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Float32

EPSILON = 1e-5


class LayerNorm(nn.Module):
    """Normalises the last axis, with float32 statistics.

    Attributes:
      dtype: dtype of the result.
      shards: numbers of shards of the first and second axis, from `Attention.shards`.
    """

    dtype: jnp.dtype
    shards: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: Float[Array, "B N *rest d"]) -> Float[Array, "B N *rest d"]:
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        return layer_norm(x, scale, bias, self.dtype, self.shards)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def layer_norm(
    x: Float[Array, "B N *rest d"],
    scale: Float32[Array, " d"],
    bias: Float32[Array, " d"],
    dtype: jnp.dtype,
    shards: tuple[int, int] = (1, 1),
) -> Float[Array, "B N *rest d"]:
    """Normalises the last axis in float32; `dtype` and `shards` are as in `LayerNorm`."""
    return _layer_norm_forward(x, scale, bias, dtype, shards)[0]


def _layer_norm_forward(x, scale, bias, dtype, shards):
    x_float32 = x.astype(jnp.float32)
    # XLA computes both means in one read, fused into the operation that writes x. In float32 the
    # difference of squares is accurate unless the mean exceeds hundreds of standard deviations.
    mean = x_float32.mean(-1, keepdims=True)
    variance = jnp.square(x_float32).mean(-1, keepdims=True) - jnp.square(mean)
    inverse = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + EPSILON)
    y = (x_float32 - mean) * inverse * scale + bias
    return y.astype(dtype), (x, mean, inverse, scale)


def _layer_norm_backward(dtype, shards, residuals, dy):
    x, mean, inverse, scale = residuals
    dy = dy.astype(jnp.float32)
    normalized = (x.astype(jnp.float32) - mean) * inverse
    # Each mean is used only by the next line, so XLA fuses all of this into one kernel. `slope` is the same
    # with or without the centring, since `normalized` has mean 0.
    centered = dy * scale
    centered -= centered.mean(-1, keepdims=True)
    slope = (centered * normalized).mean(-1, keepdims=True)
    dx = inverse * (centered - normalized * slope)
    dscale, dbias = _sum_over_tokens((dy * normalized, dy), shards)
    return dx.astype(x.dtype), dscale, dbias


def _sum_over_tokens(arrays, shards):
    """Sums arrays over all axes but the last: first within each device in one pass, then over devices.

    The joint pass covers only axes that are not sharded. Over sharded axes, XLA would gather the partial
    sums of each norm separately, whereas plain sums are part of the single all-reduce of all gradients. (On
    GPUs, XLA stores the summed products unless the pass covers all of a device's tokens.)
    """
    first, second, *others = arrays[0].shape
    split = (shards[0], first // shards[0], shards[1], second // shards[1])
    arrays = tuple(x.reshape(*split, *others) for x in arrays)
    add = lambda a, b: tuple(x + y for x, y in zip(a, b))
    zeros = (jnp.float32(0),) * len(arrays)
    device_sums = jax.lax.reduce(arrays, zeros, add, (1, 3, *range(4, arrays[0].ndim - 1)))
    return [x.sum((0, 1)) for x in device_sums]


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def gelu(x: Float[Array, "*any"]) -> Float[Array, "*any"]:
    """Returns the exact GELU, x * Phi(x), computed in float32, in the dtype of `x`."""
    x_float32 = x.astype(jnp.float32)
    return (x_float32 * _normal_cdf(x_float32)).astype(x.dtype)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


def _gelu_backward(x, dy):
    x_float32 = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(x_float32)) / math.sqrt(2 * math.pi)
    dx = dy.astype(jnp.float32) * (_normal_cdf(x_float32) + x_float32 * density)
    return (dx.astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)
