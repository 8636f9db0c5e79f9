"""95% intervals of metrics, by bootstrap over groups of views.

Groups are drawn with replacement, as many as there are, RESAMPLES times. All models of an evaluation set
have the same groups, and every metric uses the same draws. The metrics of two models under one draw are
therefore paired, and so are their differences.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

RESAMPLES, SEED = 1000, 0
PERCENTILES = (2.5, 97.5)
WEIGHTS = ("pairs", "cm_pairs", "patches")  # the counts in `ResultRow.by_group` that weigh groups
# With five groups, all differences have the same sign by chance in 6% of cases.
MIN_GROUPS = 6

Resampled = Float[np.ndarray, " RESAMPLES"]  # a metric under each draw of groups; NaN without any pair


class Estimate(NamedTuple):
    """A metric, and its values under each draw of groups; None if they are unknown."""

    value: float
    resampled: Resampled | None = None


def resample(by_group: Mapping[str, Sequence[float | None]], metric: str) -> Resampled | None:
    """Returns a metric under each draw of groups.

    Args:
      by_group: see `muskie_jax.evaluators.results.ResultRow`.
      metric: such as "px_ate" or "mse".

    Returns:
      NaN throughout if fewer than MIN_GROUPS groups have the metric; None if it is unknown by group, as in
      results of earlier versions.
    """
    if metric not in by_group or metric in WEIGHTS:
        return None
    pairs = "cm_pairs" if metric.startswith("cm") else "pairs"
    weights_name = "patches" if "patches" in by_group else pairs
    means = np.array([np.nan if x is None else x for x in by_group[metric]], np.float64)
    weights = np.where(np.isfinite(means), np.array(by_group[weights_name], np.float64), 0)
    if (weights > 0).sum() < MIN_GROUPS:
        return np.full(RESAMPLES, np.nan)
    draws = _draws(len(means))
    total = draws @ weights
    return draws @ (weights * np.nan_to_num(means)) / np.where(total > 0, total, np.nan)


@functools.lru_cache(maxsize=8)
def _draws(groups: int) -> Float[np.ndarray, "RESAMPLES groups"]:
    """Returns how often each draw contains each group."""
    chances = np.full(groups, 1 / groups)
    return np.random.default_rng(SEED).multinomial(groups, chances, RESAMPLES).astype(np.float64)


def interval(resampled: Resampled) -> tuple[float, float] | None:
    """Returns the ends of the 95% interval; None if no draw has a value."""
    known = resampled[np.isfinite(resampled)]
    if not len(known):
        return None
    low, high = np.percentile(known, PERCENTILES)
    return float(low), float(high)


def may_be_equal(a: Resampled | None, b: Resampled | None) -> bool:
    """Returns whether two metrics cannot be distinguished: the interval of their difference includes 0.

    Metrics of fewer than MIN_GROUPS groups cannot be distinguished. False if a metric is unknown by group.
    """
    if a is None or b is None:
        return False
    difference = interval(a - b)
    return difference is None or difference[0] <= 0 <= difference[1]
