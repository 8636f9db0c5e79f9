"""LayerNorm and GELU whose backward passes read and write as little as possible.

Between matrix products and attention a training step only moves memory, so its time is how much an
operation keeps for its backward pass and how often that pass reads it. Derived automatically, GELU
keeps three arrays and LayerNorm's gradient takes four passes in float32. Here each keeps its input
alone (LayerNorm also two numbers per token). The functions are those of `flax.linen.LayerNorm` and
`flax.linen.gelu`.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array

EPSILON = 1e-5


class LayerNorm(nn.Module):
    """Normalises the last axis: statistics in float32, input and result in `dtype`.

    The axis before it must not be split over devices: tokens of one view, see `_sums`.
    """

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1:]
        scale = self.param("scale", nn.initializers.ones, width)
        bias = self.param("bias", nn.initializers.zeros, width)
        return layer_norm(x.astype(self.dtype), scale, bias)


@jax.custom_vjp
def layer_norm(x: Array, scale: Array, bias: Array) -> Array:
    """x (..., T, d) of any float type, float32 scale and bias (d,) -> (..., T, d) of the type of `x`."""
    return _layer_norm_forward(x, scale, bias)[0]


def _layer_norm_forward(x, scale, bias):
    wide = x.astype(jnp.float32)
    # Two sums of the same read, which XLA takes while it writes x; in float32 nothing is lost by
    # subtracting squares as long as the mean is not hundreds of standard deviations away from 0.
    mean = wide.mean(-1, keepdims=True)
    variance = jnp.square(wide).mean(-1, keepdims=True) - jnp.square(mean)
    inverse = jax.lax.rsqrt(jnp.maximum(variance, 0.0) + EPSILON)
    y = (wide - mean) * inverse * scale + bias
    return y.astype(x.dtype), (x, mean, inverse, scale)


def _layer_norm_backward(residuals, dy):
    x, mean, inverse, scale = residuals
    dy = dy.astype(jnp.float32)
    normalized = (x.astype(jnp.float32) - mean) * inverse
    # One reduction after the other, each followed by what needs it: XLA makes one kernel of such a
    # chain. The mean of `normalized` is 0, so centring does not change the second.
    centered = dy * scale
    centered -= centered.mean(-1, keepdims=True)
    slope = (centered * normalized).mean(-1, keepdims=True)
    dx = inverse * (centered - normalized * slope)
    dscale, dbias = _sums((dy * normalized, dy))
    return dx.astype(x.dtype), dscale, dbias


def _sums(arrays):
    """Sums over all axes but the last: of all arrays in one pass over the tokens of a view, then of each.

    Several arrays are summed together only along an axis that no mesh splits. Along another one XLA
    would gather partial sums, norm by norm; ordinary sums become part of one all-reduce for all gradients.
    """
    add = lambda a, b: tuple(x + y for x, y in zip(a, b))
    zeros = (jnp.float32(0),) * len(arrays)
    of_views = jax.lax.reduce(arrays, zeros, add, (arrays[0].ndim - 2,))
    return [x.sum(range(x.ndim - 1)) for x in of_views]


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
