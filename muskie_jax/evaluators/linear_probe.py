"""Ridge regression with a regulariser chosen by leaving out one group of samples at a time.

Axes: N samples.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

# Candidates of the regulariser, relative to the mean eigenvalue of the samples' inner products.
STRENGTHS = tuple(10.0**power for power in range(-6, 4))
SMALLEST_DEVIATION = 1e-6


class LinearProbe(NamedTuple):
    """An affine function of features: ((x - mean) / deviation) weights + offset.

    Attributes:
      error: mean squared error of the samples it was fitted to, predicted from those of other groups.
      strength: the chosen regulariser, one of STRENGTHS.
    """

    mean: Float[np.ndarray, " D"]
    deviation: Float[np.ndarray, " D"]
    weights: Float[np.ndarray, "D K"]
    offset: Float[np.ndarray, " K"]
    error: float
    strength: float

    def __call__(self, features: Float[np.ndarray, "N D"]) -> Float[np.ndarray, "N K"]:
        return (features - self.mean) / self.deviation @ self.weights + self.offset


def fit_linear_probe(
    features: Float[np.ndarray, "N D"], targets: Float[np.ndarray, "N K"], groups: Int[np.ndarray, " N"]
) -> LinearProbe:
    """Fits by ridge regression on standardised features.

    The cost grows with N cubed, and does not depend on D beyond inner products.

    Args:
      features: inputs.
      targets: outputs.
      groups: number of the group of each sample. Samples that share a part of their inputs, such as pairs
        with a common view, must be in one group: they would predict each other too well. With one group
        only, samples are left out one at a time.
    """
    mean = features.mean(0)
    deviation = np.maximum(features.std(0), SMALLEST_DEVIATION)
    x = ((features - mean) / deviation).astype(np.float64)
    offset = targets.mean(0)
    y = targets - offset
    eigenvalues, basis = np.linalg.eigh(x @ x.T)
    eigenvalues = np.maximum(eigenvalues, 0)
    rotated, unit = basis.T @ y, max(float(eigenvalues.mean()), SMALLEST_DEVIATION)
    best = (np.inf, STRENGTHS[-1])
    numbers = groups if np.ptp(groups) > 0 else np.arange(len(groups))
    members = [np.flatnonzero(numbers == number) for number in np.unique(numbers)]
    for strength in STRENGTHS:
        inverse = 1 / (eigenvalues + strength * unit)
        # The predictions of a group from all others, in closed form; 1/N is the share of the offset.
        hat = (basis * (eigenvalues * inverse)) @ basis.T + 1 / len(x)
        residual = y - hat @ y
        left_out = [
            np.linalg.solve(np.eye(len(each)) - hat[np.ix_(each, each)], residual[each]) for each in members
        ]
        best = min(best, (float(np.square(np.concatenate(left_out)).mean()), strength))
    error, strength = best
    weights = x.T @ (basis @ (rotated / (eigenvalues + strength * unit)[:, None]))
    return LinearProbe(mean, deviation, weights, offset, error, strength)
