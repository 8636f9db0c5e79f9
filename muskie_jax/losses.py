"""Reconstruction losses per token, and the objective that averages them.

The last axis has the P = p*p*3 values of a patch. The leading axes are groups, views and patches.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from muskie_jax.checks import one_of

ERRORS = ("l2", "l1", "smooth_l1")
POOLING = ("groups", "tokens")
EPSILON = 0.1  # the paper's eps: error weight at confidence 0
REGULARISER = 0.1  # the paper's lambda: weight of -log(confidence)
LOG_OFFSET = 1e-6  # keeps log(confidence) finite


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """Settings of the reconstruction loss: `config.loss`.

    Attributes:
      error: error function of a value: "l2", "l1" or "smooth_l1".
      confidence: whether to weight errors by (c + eps) and penalise -log c, as published.
      normalize_targets: whether to normalise each target patch to mean 0 and variance 1, as in MAE.
      pooling: how errors of masked tokens are averaged. "groups" averages within each group, then over
        groups, so that mask modes and numbers of reference views count alike, as published. "tokens"
        averages over all tokens of a batch, so that groups with more masked tokens count more.
    """

    error: Literal["l2", "l1", "smooth_l1"] = "l2"
    confidence: bool = True
    normalize_targets: bool = False
    pooling: Literal["groups", "tokens"] = "groups"


def check_loss(loss: ConfigDict) -> None:
    """Raises UserError for an unknown value of `config.loss`."""
    one_of(loss.error, ERRORS, "config.loss.error")
    one_of(loss.pooling, POOLING, "config.loss.pooling")


@struct.dataclass
class TokenLosses:
    """Loss terms of each token, zero for visible tokens.

    Attributes:
      weighted: the error, weighted by confidence if `confidence` is set.
      squared: the squared error, whatever `error` is; of normalised patches if targets are normalised.
      log_confidence: the mean of -log(c + 1e-6); zero without confidence weighting.
      hidden: 1 for masked tokens, 0 for visible tokens.
    """

    weighted: Float[Array, "*tokens"]
    squared: Float[Array, "*tokens"]
    log_confidence: Float[Array, "*tokens"]
    hidden: Float[Array, "*tokens"]


def elementwise_error(difference: Array, kind: str) -> Array:
    """Returns the error of every value; smooth_l1 is quadratic below 1, linear above, as in PyTorch."""
    if kind == "l2":
        return jnp.square(difference)
    magnitude = jnp.abs(difference)
    if kind == "l1":
        return magnitude
    if kind == "smooth_l1":
        return jnp.where(magnitude < 1.0, 0.5 * magnitude**2, magnitude - 0.5)
    raise ValueError(f"loss.error={kind!r} is not a valid value (choices: {', '.join(ERRORS)})")


def normalize_patches(patches: Float[Array, "*tokens P"]) -> Float[Array, "*tokens P"]:
    """Normalises each patch to mean 0 and variance 1, as in MAE."""
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, keepdims=True)
    return (patches - mean) * jax.lax.rsqrt(variance + 1e-6)


def token_losses(
    pred: Float[Array, "*tokens P"],
    conf: Float[Array, "*tokens P"],
    target: Float[Array, "*tokens P"],
    mask: Bool[Array, "*tokens"],
    options: LossOptions = LossOptions(),
) -> TokenLosses:
    """Returns the loss terms of every token.

    Args:
      pred, conf: predicted pixels and confidences, see `MuskieOutput`.
      target: pixels of the patches, not yet normalised.
      mask: which tokens are hidden, True = hidden.
      options: error function, confidence weighting and target normalisation.
    """
    if options.normalize_targets:
        target = normalize_patches(target)
    hidden = mask.astype(jnp.float32)
    difference = pred - target
    errors = elementwise_error(difference, options.error)
    log_confidence = jnp.zeros_like(hidden)
    if options.confidence:
        errors = (conf + EPSILON) * errors
        log_confidence = -jnp.log(conf + LOG_OFFSET).mean(axis=-1)
    return TokenLosses(
        weighted=hidden * errors.mean(axis=-1),
        squared=hidden * jnp.square(difference).mean(axis=-1),
        log_confidence=hidden * log_confidence,
        hidden=hidden,
    )


def total_loss(losses: TokenLosses, pooling: Literal["groups", "tokens"] = "groups") -> Array:
    """Returns the objective: mean error of masked tokens + lambda * mean of mask * -log c over all tokens.

    It is 0 if no token of the batch is masked.

    Args:
      losses: loss terms of all tokens; the first axis is groups.
      pooling: see `LossOptions`. Groups without a masked token do not count.
    """
    axes = tuple(range(1, losses.hidden.ndim)) if pooling == "groups" else None
    hidden, weighted = losses.hidden.sum(axes), losses.weighted.sum(axes)
    means = weighted / jnp.maximum(hidden, 1.0)
    error = means.sum() / jnp.maximum(jnp.count_nonzero(hidden), 1)
    return error + REGULARISER * losses.log_confidence.mean()
