"""The scale that aligns predicted points with true points: an exact weighted median."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Float32, Int

SAMPLES = 4096  # points that decide the scale of a group


def weighted_median(
    values: Float[Array, "*batch N"], weights: Float[Array, "*batch N"]
) -> Float[Array, "*batch"]:
    """Returns the m among the values that minimises the sum of weights * |value - m|.

    It is the smallest value whose weight, together with those of all smaller values, is at least half.

    Args:
      values: finite values.
      weights: weights, at least 0. If all are 0, the result is one of the values.
    """
    order = jnp.argsort(values, axis=-1)
    ordered = jnp.take_along_axis(values, order, axis=-1)
    cumulated = jnp.cumsum(jnp.take_along_axis(weights, order, axis=-1), axis=-1)
    first = jnp.argmax(cumulated >= cumulated[..., -1:] / 2, axis=-1, keepdims=True)
    return jnp.take_along_axis(ordered, first, axis=-1)[..., 0]


def optimal_scale(
    predicted: Float[Array, "B N 3"], true: Float[Array, "B N 3"], weights: Float[Array, "B N"]
) -> Float[Array, " B"]:
    """Returns the s of each group that minimises the sum of weights * |s * predicted - true|.

    The sum is over points and coordinates. A negative s is replaced by -s, as published. If all weights are
    0, s is 0.
    """
    # |s p - t| = |p| |s - t / p|, so the optimum is a weighted median of ratios.
    zero = predicted == 0
    ratios = jnp.where(zero, 0, true / jnp.where(zero, 1, predicted))
    by_coordinate = weights[..., None] * jnp.abs(predicted)
    flat = lambda x: x.reshape(len(x), -1)
    scale = jnp.abs(weighted_median(flat(ratios), flat(by_coordinate)))
    return jnp.where(by_coordinate.sum((1, 2)) > 0, scale, 0)


def sample_indices(valid: Bool[Array, "B N"], samples: int = SAMPLES) -> Int[Array, "B samples"]:
    """Returns the indices of valid elements, in order, at equal steps; nearest-neighbour resampling.

    If there are fewer than `samples`, they repeat; if there is none, the indices are arbitrary.
    """

    def of_group(valid):
        rank = jnp.cumsum(valid)
        # float32, as published: rounding decides which of two neighbours is drawn.
        step = rank[-1].astype(jnp.float32) / samples
        wanted = jnp.floor(jnp.arange(samples, dtype=jnp.float32) * step).astype(rank.dtype)
        wanted = jnp.minimum(wanted, rank[-1] - 1)
        return jnp.minimum(jnp.searchsorted(rank, wanted + 1), len(valid) - 1)

    return jax.vmap(of_group)(valid)


def alignment_scale(
    predicted: Float32[Array, "B V H W 3"],
    true: Float32[Array, "B V H W 3"],
    weights: Float32[Array, "B V H W"],
    valid: Bool[Array, "B V H W"],
) -> Float32[Array, " B"]:
    """Returns the scale of each group's prediction, from at most SAMPLES of its valid points.

    It has no gradient. It is 0 for a group without a valid point.
    """
    predicted, true, weights = jax.lax.stop_gradient((predicted, true, weights))
    flat = lambda x, *rest: x.reshape(len(x), -1, *rest)
    indices = sample_indices(flat(valid))
    take = lambda x: jnp.take_along_axis(x, indices.reshape(*indices.shape, *(1,) * (x.ndim - 2)), axis=1)
    sampled_weights = take(flat(weights)) * take(flat(valid))
    return optimal_scale(take(flat(predicted, 3)), take(flat(true, 3)), sampled_weights)
