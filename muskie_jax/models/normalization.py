"""LayerNorm and GELU whose backward passes read and write as little as possible.

Between matrix products and attention a training step only moves memory, so its time is how much an
operation keeps for its backward pass and how often that pass reads it. Derived automatically, GELU
keeps three arrays and LayerNorm's gradient takes four passes in float32. Here each keeps its input
alone (LayerNorm also two numbers per token). The functions are those of `flax.linen.LayerNorm` and
`flax.linen.gelu`.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

EPSILON = 1e-5


class LayerNorm(nn.Module):
    """Normalises the last axis: statistics in float32, input and result in `dtype`.

    Attributes:
      dtype: see above.
      shards: in how many parts, on devices of their own, the first two axes are split.
    """

    dtype: jnp.dtype
    shards: tuple[int, int] = (1, 1)

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        return layer_norm(x.astype(self.dtype), scale, bias, self.shards)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def layer_norm(x: Array, scale: Array, bias: Array, shards: tuple[int, int] = (1, 1)) -> Array:
    """x (B, N, ..., d) of any float type, float32 scale and bias (d,) -> the same shape and type.

    `shards`: see `LayerNorm`.
    """
    return _layer_norm_forward(x, scale, bias, shards)[0]


def _layer_norm_forward(x, scale, bias, shards):
    wide = x.astype(jnp.float32)
    # Two sums of the same read, which XLA takes while it writes x; in float32 nothing is lost by
    # subtracting squares as long as the mean is not hundreds of standard deviations away from 0.
    mean = wide.mean(-1, keepdims=True)
    variance = jnp.square(wide).mean(-1, keepdims=True) - jnp.square(mean)
    inverse = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + EPSILON)
    y = (wide - mean) * inverse * scale + bias
    return y.astype(x.dtype), (x, mean, inverse, scale)


def _layer_norm_backward(shards, residuals, dy):
    x, mean, inverse, scale = residuals
    dy = dy.astype(jnp.float32)
    normalized = (x.astype(jnp.float32) - mean) * inverse
    # One reduction after the other, each followed by what needs it: XLA makes one kernel of such a
    # chain. The mean of `normalized` is 0, so centring does not change the second.
    centered = dy * scale
    centered -= centered.mean(-1, keepdims=True)
    slope = (centered * normalized).mean(-1, keepdims=True)
    dx = inverse * (centered - normalized * slope)
    dscale, dbias = _sums((dy * normalized, dy), shards)
    return dx.astype(x.dtype), dscale, dbias


def _sums(arrays, shards):
    """Sums over all axes but the last: of all arrays in one pass over a device's tokens, then of each.

    Several arrays are summed together only along axes that no mesh splits. Along others XLA would gather
    partial sums, norm by norm; ordinary sums become part of one all-reduce for all gradients. (Where that
    pass is not over all of a device's tokens, XLA stores the products that are summed, on GPUs.)
    """
    first, second, *others = arrays[0].shape
    parts = (shards[0], first // shards[0], shards[1], second // shards[1])
    arrays = tuple(x.reshape(*parts, *others) for x in arrays)
    add = lambda a, b: tuple(x + y for x, y in zip(a, b))
    zeros = (jnp.float32(0),) * len(arrays)
    of_devices = jax.lax.reduce(arrays, zeros, add, (1, 3, *range(4, arrays[0].ndim - 1)))
    return [x.sum((0, 1)) for x in of_devices]


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """The exact GELU, x * Phi(x), computed in float32; the result has the type of `x`."""
    wide = x.astype(jnp.float32)
    return (wide * _normal_cdf(wide)).astype(x.dtype)


def _normal_cdf(x: Array) -> Array:
    return 0.5 * (1.0 + jax.lax.erf(x * math.sqrt(0.5)))


def _gelu_backward(x, dy):
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * jnp.square(wide)) / math.sqrt(2 * math.pi)
    return ((dy.astype(jnp.float32) * (_normal_cdf(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)
