"""Errors of predicted positions, in pixels and in centimetres.

There are two protocols. "published" follows the paper's tables, with all their conventions: the first view
counts as a target, although every prediction there is exact, and some maps are sampled half a pixel off.
"targets", the default, excludes the first view and uses consistent conventions.

Axes: V views, N points. Positions are (column, row).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

from muskie_jax.correspondence.tracks import surface_points, true_tracks
from muskie_jax.data.posed.views import PosedViews

PIXELS = (1, 2, 5, 10, 25, 50)
CENTIMETRES = (1, 2, 5, 10)


@dataclasses.dataclass(frozen=True)
class Truth:
    """Ground truth for the points of a group.

    Attributes:
      tracks: position of every point in every view, in pixels.
      counted: whether a (point, view) pair is scored.
      surface: the 3-D point of each view's depth map at `tracks`, in metres, in the view's camera frame.
      has_surface: whether depth is known at `tracks`.
      angle: rotation of each view relative to the first view, in degrees.
    """

    tracks: Float[np.ndarray, "N V 2"]
    counted: Bool[np.ndarray, "N V"]
    surface: Float[np.ndarray, "N V 3"]
    has_surface: Bool[np.ndarray, "N V"]
    angle: Float[np.ndarray, " V"]


def compute_truth(points: np.ndarray, views: PosedViews, protocol: str) -> Truth:
    """Computes the ground truth for points of the first view, int (N, 2)."""
    tracks, counted = true_tracks(points, views)
    if protocol == "targets":
        counted[:, 0] = False
    surface, has_surface = surface_points(tracks, views, protocol)
    if protocol == "published":
        has_surface = np.ones_like(has_surface)
    return Truth(tracks, counted, surface, has_surface, rotation_angles(views.world_to_camera))


def rotation_angles(world_to_camera: Float[np.ndarray, "V 4 4"]) -> Float[np.ndarray, " V"]:
    """Returns the angle of each camera's rotation relative to the first camera, in degrees."""
    relative = world_to_camera[:, :3, :3] @ world_to_camera[0, :3, :3].T
    cosine = (np.trace(relative, axis1=1, axis2=2) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def compute_errors(
    predicted: Float[np.ndarray, "*batch N V 2"], truth: Truth, views: PosedViews, protocol: str
) -> tuple[Float[np.ndarray, "*batch N V"], Float[np.ndarray, "*batch N V"]]:
    """Computes the distances of predictions from the ground truth.

    Where a view has no depth at the predicted position, the 3-D point is the camera's centre, which counts
    as an error.

    Returns:
      Distances in pixels; and distances in metres, NaN where the ground truth has no depth.
    """
    pixels = np.linalg.norm(predicted - truth.tracks, axis=-1)
    surface, _ = surface_points(predicted, views, protocol)
    metres = np.linalg.norm(surface - truth.surface, axis=-1)
    return pixels, np.where(truth.has_surface, metres, np.nan)


class Scores:
    """Pools the errors of groups, with equal weight for every (point, view) pair."""

    def __init__(self):
        self._pixels: list[np.ndarray] = []
        self._metres: list[np.ndarray] = []

    def add(self, pixels: np.ndarray, metres: np.ndarray) -> None:
        """Adds the errors of a group's (point, view) pairs, in any shape.

        The 3-D scores leave out NaN metres.
        """
        self._pixels.append(np.ravel(pixels))
        self._metres.append(np.ravel(metres)[~np.isnan(np.ravel(metres))])

    @property
    def pairs(self) -> int:
        """The number of (point, view) pairs."""
        return sum(map(len, self._pixels))

    def values(self) -> dict[str, float]:
        """Returns mean errors and percentages within thresholds; NaN without pairs.

        Keys: `px_ate`, the mean error in pixels; `px_1` to `px_50`, the percentages of pairs with an error
        of at most 1 to 50 pixels; `cm_ate` and `cm_1` to `cm_10`, the same in centimetres; and `pairs`, the
        number of pairs.
        """
        values: dict[str, float] = {}
        for unit, chunks, scale, limits in (
            ("px", self._pixels, 1.0, PIXELS),
            ("cm", self._metres, 100.0, CENTIMETRES),
        ):
            errors = scale * np.concatenate([np.empty(0), *chunks])
            mean = lambda x: float(x.mean()) if len(x) else float("nan")
            values[f"{unit}_ate"] = mean(errors)
            values |= {f"{unit}_{limit}": 100 * mean(errors <= limit) for limit in limits}
        return values | {"pairs": self.pairs}

    def by_group(self, metrics: Sequence[str]) -> dict[str, list[float | None]]:
        """Returns metrics of every group, in the order in which `add` was called.

        Args:
          metrics: some of the keys of `values`, such as "px_ate" and "cm_5".

        Returns:
          Lists by metric; None where a group has no pair. And the numbers of pairs that the metrics average
          over, which weigh groups: `pairs`, and `cm_pairs` for metrics in centimetres.
        """
        result: dict[str, list[float | None]] = {}
        for name in metrics:
            unit, _, limit = name.partition("_")
            chunks, scale = (self._pixels, 1.0) if unit == "px" else (self._metres, 100.0)
            result["pairs" if unit == "px" else "cm_pairs"] = [len(chunk) for chunk in chunks]
            errors = [scale * chunk for chunk in chunks]
            if limit != "ate":
                errors = [100.0 * (chunk <= int(limit)) for chunk in errors]
            result[name] = [float(chunk.mean()) if len(chunk) else None for chunk in errors]
        return result
