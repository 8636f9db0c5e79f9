"""The largest values of settings, so that a typing error is refused before it exhausts the machine."""

import math
from typing import Any

from ml_collections import ConfigDict

from muskie_jax.checks import require

LARGEST_NUMBER = 2**31 - 1  # of whole numbers that are not listed below, such as steps
LARGEST = {
    "seed": 2**32 - 1,  # JAX ignores the higher bits
    "model.patch": 1_024,
    "model.registers": 1_024,
    "model.max_views": 4_096,
    "batch.groups": 1_000_000,
    "batch.views": 4_096,
    "batch.reuse": 10_000,
    "batch.passes": 100_000,
    "data.workers": 1_024,
    "data.threads": 1_024,
    "data.prefetch": 1_024,
    "evaluation.groups": 1_000_000,
    "evaluation.views": 4_096,
    "evaluation.pictures": 1_024,
    "evaluate.points": 1_000_000,
    "evaluate.pictures": 1_000_000,
    "evaluate.reconstruction.groups": 1_000_000,
}


def check_numbers(config: ConfigDict) -> None:
    """Raises UserError for a number in a config that is infinite, NaN or too large, also inside tuples."""
    for key, value in config.items():
        _check(value, key, f"config.{key}={value}")


def _check(value: Any, path: str, shown: str) -> None:
    if isinstance(value, ConfigDict):
        for key, each in value.items():
            _check(each, f"{path}.{key}", f"config.{path}.{key}={each}")
    elif isinstance(value, (tuple, list)):
        for each in value:
            _check(each, path, f"config.{path} has {each}, which")
    elif isinstance(value, int):
        largest = LARGEST.get(path, LARGEST_NUMBER)
        require(value <= largest, f"{shown} must be at most {largest}")
    elif isinstance(value, float):
        require(math.isfinite(value), f"{shown} must be a finite number")
