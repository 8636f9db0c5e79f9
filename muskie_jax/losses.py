"""Per-token reconstruction losses. Nothing here reduces over the batch.

P = p*p*3 values per patch; the axes before it are those of the tokens: groups, views and patches, or
groups and their hidden patches.
"""

import dataclasses
from typing import Literal

import flax
import jax
import jax.numpy as jnp
from jax import Array
from ml_collections import ConfigDict

from muskie_jax.checks import one_of

ERRORS = ("l2", "l1", "smooth_l1")
EPSILON = 0.1  # the paper's eps: error weight at confidence 0
REGULARISER = 0.1  # the paper's lambda: price of low confidence
LOG_OFFSET = 1e-6  # keeps log(confidence) finite


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """Settings of the reconstruction loss: `config.loss`.

    Attributes:
      error: how the error of a value is measured: "l2", "l1" or "smooth_l1".
      confidence: weights errors by (c + eps) and penalises -log c, as published.
      normalize_targets: compares with each target patch normalised to mean 0 and variance 1, as in MAE.
    """

    error: Literal["l2", "l1", "smooth_l1"] = "l2"
    confidence: bool = True
    normalize_targets: bool = False


def check_loss(loss: ConfigDict) -> None:
    """Raises UserError for an unknown error of `config.loss`."""
    one_of(loss.error, ERRORS, "config.loss.error")


@flax.struct.dataclass
class TokenLosses:
    """What each token contributes, float32 (...), zero where the token was visible.

    Attributes:
      weighted: the error weighted by confidence (plain, without confidence weighting).
      squared: the squared error, whatever `error` is; of normalised patches if targets are normalised.
      log_confidence: mean of -log(c + 1e-6); zero without confidence weighting.
      hidden: 1 where the token was masked.
    """

    weighted: Array
    squared: Array
    log_confidence: Array
    hidden: Array


def elementwise_error(difference: Array, kind: Literal["l2", "l1", "smooth_l1"]) -> Array:
    """Error of every value; smooth_l1 is quadratic below 1 and linear above, as in PyTorch."""
    if kind == "l2":
        return jnp.square(difference)
    magnitude = jnp.abs(difference)
    if kind == "l1":
        return magnitude
    if kind == "smooth_l1":
        return jnp.where(magnitude < 1.0, 0.5 * magnitude**2, magnitude - 0.5)
    raise ValueError(f"loss.error={kind!r}: choose one of {', '.join(ERRORS)}")


def normalize_patches(patches: Array) -> Array:
    """Each patch minus its mean, divided by its standard deviation (..., P), as in MAE."""
    mean = patches.mean(axis=-1, keepdims=True)
    variance = patches.var(axis=-1, keepdims=True)
    return (patches - mean) * jax.lax.rsqrt(variance + 1e-6)


def token_losses(
    pred: Array,
    conf: Array,
    target: Array,
    mask: Array,
    options: LossOptions = LossOptions(),
) -> TokenLosses:
    """Losses of every token.

    Args:
      pred, conf, target: float32 (..., P), see `MuskieOutput`; target is the patch's own pixels.
      mask: bool (...), True = hidden.
      options: which loss.
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


def total_loss(losses: TokenLosses, tokens: int | None = None) -> Array:
    """The objective: mean over masked tokens of the error + lambda * mean over all of -log c.

    Finite, and zero in both terms, if no token of the batch was masked.

    Args:
      losses: of all tokens, or of hidden ones alone.
      tokens: how many there are in all, if not all have losses.
    """
    error = losses.weighted.sum() / jnp.maximum(losses.hidden.sum(), 1.0)
    return error + REGULARISER * losses.log_confidence.sum() / (tokens or losses.hidden.size)
