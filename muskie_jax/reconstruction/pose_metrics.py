"""Errors of predicted cameras that do not depend on the common frame or on scale: relative poses, and AUC.

As in the evaluations of VGGT (arXiv 2503.11651) and pi^3 (arXiv 2507.13347), which follow PoseDiffusion
(arXiv 2306.15667). Axes: V views, P = V (V - 1) / 2 pairs of views.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

AUC_LIMITS = (5, 15, 30)  # degrees
UNDEFINED_DIRECTION = 90.0  # degrees: the error of a translation of length 0, as published


class PoseErrors(NamedTuple):
    """Errors of the relative poses of all pairs of views, in degrees.

    Attributes:
      rotation: angle between predicted and true relative rotation, 0 to 180.
      translation: angle between the lines of predicted and true relative translation, 0 to 90. The sign of
        a translation does not count.
    """

    rotation: Float[np.ndarray, " P"]
    translation: Float[np.ndarray, " P"]

    @property
    def worse(self) -> Float[np.ndarray, " P"]:
        """The larger of the two angles, on which AUC is computed."""
        return np.maximum(self.rotation, self.translation)


def relative_pose_errors(
    predicted: Float[np.ndarray, "V 4 4"], true: Float[np.ndarray, "V 4 4"]
) -> PoseErrors:
    """Returns the errors of inv(T_i) T_j over all pairs of views i < j.

    Args:
      predicted, true: camera-to-world poses. Their common frames and units may differ.
    """
    first, second = np.triu_indices(len(predicted), 1)
    predicted_rotation, predicted_offset = _relative(predicted, first, second)
    true_rotation, true_offset = _relative(true, first, second)
    # |R - R'| = 2 sqrt(2) sin(angle / 2) stays exact for small angles, where the trace does not.
    chord = np.linalg.norm(predicted_rotation - true_rotation, axis=(1, 2)) / np.sqrt(8)
    rotation = np.degrees(2 * np.arcsin(np.clip(chord, 0, 1)))
    return PoseErrors(rotation, _angles_between_lines(predicted_offset, true_offset))


def _relative(
    camera_to_world: Float[np.ndarray, "V 4 4"], first: np.ndarray, second: np.ndarray
) -> tuple[Float[np.ndarray, "P 3 3"], Float[np.ndarray, "P 3"]]:
    """Returns rotation and translation of inv(T_first) T_second."""
    poses = np.asarray(camera_to_world, np.float64)
    rotation, centre = poses[:, :3, :3], poses[:, :3, 3]
    to_first = rotation[first].swapaxes(1, 2)
    return to_first @ rotation[second], np.einsum("pij,pj->pi", to_first, centre[second] - centre[first])


def _angles_between_lines(
    a: Float[np.ndarray, "P 3"], b: Float[np.ndarray, "P 3"]
) -> Float[np.ndarray, " P"]:
    sine = np.linalg.norm(np.cross(a, b), axis=1)
    angle = np.degrees(np.arctan2(sine, np.abs((a * b).sum(1))))
    defined = (np.linalg.norm(a, axis=1) > 0) & (np.linalg.norm(b, axis=1) > 0)
    return np.where(defined, angle, UNDEFINED_DIRECTION)


def pose_auc(worse: Float[np.ndarray, " P"], limit: int) -> float:
    """Returns the area under the curve of accuracy up to `limit` degrees, in percent.

    It is the mean of the fractions of pairs below 1, 2, ... `limit` degrees; an error of exactly `limit`
    counts in the last. Since a pair is below t if both angles are, this is the published mean over the
    minimum of rotation and translation accuracy, pair by pair.

    Args:
      worse: see `PoseErrors`; at least one pair.
      limit: whole degrees.
    """
    counts, _ = np.histogram(worse, np.arange(limit + 1))
    return 100 * float(np.cumsum(counts).mean()) / len(worse)


def pose_metrics(errors: PoseErrors) -> dict[str, float]:
    """Returns the metrics of a set of pairs: percentages and degrees.

    - `auc_5`, `auc_15`, `auc_30`: see `pose_auc`;
    - `rotation_30`, `translation_30`: percentage of pairs with an angle below 30 degrees;
    - `rotation_mean`, `rotation_median`, `translation_mean`, `translation_median`: angles.
    """
    metrics = {f"auc_{limit}": pose_auc(errors.worse, limit) for limit in AUC_LIMITS}
    limit = AUC_LIMITS[-1]
    for name, angles in errors._asdict().items():
        metrics[f"{name}_{limit}"] = 100 * float((angles < limit).mean())
        metrics[f"{name}_mean"] = float(angles.mean())
        metrics[f"{name}_median"] = float(np.median(angles))
    return metrics


def pose_metrics_by_group(groups: Sequence[PoseErrors]) -> dict[str, list[float]]:
    """Returns those of `pose_metrics` that are means over pairs, for each group, and `pairs`, its pairs.

    The metric of all groups together is the mean over groups, weighted by `pairs`.
    """
    by_group = {"pairs": [float(len(each.rotation)) for each in groups]}
    for name in (*(f"auc_{limit}" for limit in AUC_LIMITS), "rotation_mean", "translation_mean"):
        by_group[name] = [pose_metrics(each)[name] for each in groups]
    return by_group
