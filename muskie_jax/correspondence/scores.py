"""How far predicted positions are from true ones, in pixels and in centimetres.

There are two protocols. "published" is that of the paper's tables, down to its conventions: the first
view, where every point is where it is, counts as one of the views, and some maps are read half a pixel
beside where they were written. "targets", ours, leaves the first view out and is exact.
"""

import dataclasses

import numpy as np

from muskie_jax.correspondence.tracks import surface_points, true_tracks
from muskie_jax.data.posed.views import PosedViews

PIXELS = (1, 2, 5, 10, 25, 50)
CENTIMETRES = (1, 2, 5, 10)


@dataclasses.dataclass(frozen=True)
class Truth:
    """The answers of a group of V views, N points.

    Attributes:
      tracks: float (N, V, 2), columns and rows.
      counted: bool (N, V), pairs of a point and a view that count.
      surface: float (N, V, 3), what each view's depth map has there, metres in its camera frame.
      has_surface: bool (N, V), whether there is depth.
      angle: float (V,), degrees that each view is rotated against the first.
    """

    tracks: np.ndarray
    counted: np.ndarray
    surface: np.ndarray
    has_surface: np.ndarray
    angle: np.ndarray


def truth_of(points: np.ndarray, views: PosedViews, protocol: str) -> Truth:
    """The answers for points (N, 2) of the first view."""
    tracks, counted = true_tracks(points, views)
    if protocol == "targets":
        counted[:, 0] = False
    surface, has_surface = surface_points(tracks, views, protocol)
    if protocol == "published":
        has_surface = np.ones_like(has_surface)
    return Truth(tracks, counted, surface, has_surface, rotation_angles(views.world_to_camera))


def rotation_angles(world_to_camera: np.ndarray) -> np.ndarray:
    """Degrees by which each view's camera (V, 4, 4) is rotated against the first's."""
    relative = world_to_camera[:, :3, :3] @ world_to_camera[0, :3, :3].T
    cosine = (np.trace(relative, axis1=1, axis2=2) - 1) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


def errors_of(
    predicted: np.ndarray, truth: Truth, views: PosedViews, protocol: str
) -> tuple[np.ndarray, np.ndarray]:
    """Distances from the truth.

    A prediction where the view has no depth is taken to be at the camera's centre: it is wrong.

    Args:
      predicted: float (..., N, V, 2), columns and rows.

    Returns:
      Pixels and metres, float (..., N, V) each; metres are nan where the truth has no depth.
    """
    pixels = np.linalg.norm(predicted - truth.tracks, axis=-1)
    surface, _ = surface_points(predicted, views, protocol)
    metres = np.linalg.norm(surface - truth.surface, axis=-1)
    return pixels, np.where(truth.has_surface, metres, np.nan)


class Scores:
    """Errors of any number of groups, pooled: every pair of a point and a view counts alike."""

    def __init__(self):
        self._pixels: list[np.ndarray] = []
        self._metres: list[np.ndarray] = []

    def add(self, pixels: np.ndarray, metres: np.ndarray) -> None:
        """Errors of pairs, in any shape; metres may be nan where they are not known."""
        self._pixels.append(np.ravel(pixels))
        self._metres.append(np.ravel(metres)[~np.isnan(np.ravel(metres))])

    @property
    def pairs(self) -> int:
        return sum(map(len, self._pixels))

    def values(self) -> dict[str, float]:
        """`px_ate`, the mean distance, and `px_1` to `px_50`, the percentage of pairs at most so far off;
        the same in centimetres; and `pairs`, how many there were. nan without any."""
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
