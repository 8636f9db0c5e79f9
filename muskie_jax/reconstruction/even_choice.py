"""Chooses some of the pixels of point maps."""

import numpy as np
from jaxtyping import Bool


def choose_evenly(valid: Bool[np.ndarray, "*shape"], count: int) -> Bool[np.ndarray, "*shape"]:
    """Returns a mask of at most `count` valid elements (0: all), at equal steps in their order."""
    known = np.flatnonzero(valid)
    if count and len(known) > count:
        known = known[np.arange(count) * len(known) // count]
    chosen = np.zeros(valid.size, bool)
    chosen[known] = True
    return chosen.reshape(valid.shape)
