"""Errors of predicted points after alignment: accuracy, completeness, normal consistency and L1.

As in the evaluation of pi^3 (arXiv 2507.13347): a similarity aligns corresponding points, ICP may refine
it, and distances are to the nearest point of the other cloud. Axes: N points.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.spatial import KDTree

NEIGHBOURS = 30  # points that define a normal
ICP_DISTANCE = 0.1  # metres: pairs of points farther apart than this do not count in ICP
ICP_ITERATIONS = 30
ICP_TOLERANCE = 1e-6  # relative change of the mean squared distance below which ICP stops
CHUNK = 2**16  # points whose neighbours are in memory at once
MIN_POINTS = 3  # points that determine a similarity


class Similarity(NamedTuple):
    """The map x -> scale * rotation x + translation."""

    scale: float
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, " 3"]

    def apply(self, points: Float[np.ndarray, "*batch 3"]) -> Float[np.ndarray, "*batch 3"]:
        return self.scale * (points @ self.rotation.T) + self.translation


def umeyama(
    source: Float[np.ndarray, "N 3"], target: Float[np.ndarray, "N 3"], with_scale: bool = True
) -> Similarity:
    """Returns the similarity that minimises the sum of squared distances |target - S(source)|^2.

    Source: Umeyama 1991, equations 40 to 43. If all source points are equal, the scale is 1.

    Args:
      source, target: corresponding points.
      with_scale: whether the scale is free. Otherwise it is 1.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    source_mean, target_mean = source.mean(0), target.mean(0)
    centred = source - source_mean
    left, singular, right = np.linalg.svd((target - target_mean).T @ centred / len(source))
    signs = np.array([1, 1, -1 if np.linalg.det(left) * np.linalg.det(right) < 0 else 1])
    rotation = (left * signs) @ right
    variance = np.square(centred).sum(1).mean()
    scale = float((singular * signs).sum() / variance) if with_scale and variance > 0 else 1.0
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)


def icp(
    source: Float[np.ndarray, "N 3"], target: Float[np.ndarray, "M 3"], distance: float = ICP_DISTANCE
) -> Similarity:
    """Returns the rigid transform that moves points onto another cloud, by iterated closest points.

    Point to point, without scale (Besl and McKay 1992). It starts at the identity, and pairs every source
    point with the nearest target point. If no pair is close enough, it stays there.

    Args:
      source, target: point clouds, already nearly aligned.
      distance: pairs farther apart than this do not count.
    """
    tree, moved = KDTree(target), np.asarray(source, np.float64)
    best = Similarity(1.0, np.eye(3), np.zeros(3))
    before = distance**2  # of points without a close pair
    for _ in range(ICP_ITERATIONS):
        nearest, index = _nearest(tree, moved)
        close = nearest <= distance
        error = float(np.square(np.minimum(nearest, distance)).mean())
        if close.sum() < MIN_POINTS or before - error <= ICP_TOLERANCE * before:
            break
        before = error
        best = umeyama(source[close], target[index[close]], with_scale=False)
        moved = best.apply(source)
    return best


def _nearest(tree: KDTree, points: np.ndarray, count: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Returns distances and indices of the nearest points of a tree; without their axis if `count` is 1."""
    distances, index = tree.query(points, k=count, workers=-1)
    return np.asarray(distances), np.asarray(index)


def normals(points: Float[np.ndarray, "N 3"], neighbours: int = NEIGHBOURS) -> Float[np.ndarray, "N 3"]:
    """Returns the unit normal of the plane through each point's nearest neighbours; its sign is arbitrary.

    It is the direction of least variance. The neighbours include the point itself.
    """
    points = np.asarray(points, np.float64)
    tree, result = KDTree(points), np.empty_like(points)
    for start in range(0, len(points), CHUNK):
        part = slice(start, start + CHUNK)
        _, index = _nearest(tree, points[part], min(neighbours, len(points)))
        near = points[index.reshape(len(index), -1)]
        offset = near - near.mean(1, keepdims=True)
        _, directions = np.linalg.eigh(np.einsum("nki,nkj->nij", offset, offset))
        result[part] = directions[:, :, 0]
    return result


def align(
    predicted: Float[np.ndarray, "N 3"], true: Float[np.ndarray, "N 3"], refine: bool = False
) -> Float[np.ndarray, "N 3"]:
    """Returns the predicted points, moved onto the true ones by a similarity.

    Args:
      predicted, true: corresponding points, at least MIN_POINTS.
      refine: whether ICP follows. It ignores which points correspond.
    """
    moved = umeyama(predicted, true).apply(predicted)
    return icp(moved, true).apply(moved) if refine else moved


def point_metrics(aligned: Float[np.ndarray, "N 3"], true: Float[np.ndarray, "N 3"]) -> dict[str, float]:
    """Returns the metrics of aligned points, in their unit; normal consistency has none.

    - `accuracy`: distance of a predicted point from the nearest true point;
    - `completeness`: distance of a true point from the nearest predicted point;
    - `normals`: |cosine| of the angle between the normals of such nearest points, of which 1 is best. It is
      the mean of both directions;
    - `l1`: absolute difference of corresponding points, mean over their three coordinates.

    Each has `_mean` and `_median` over points.

    Args:
      aligned, true: corresponding points, at least MIN_POINTS.
    """
    accuracy, to_true = _nearest(KDTree(true), aligned)
    completeness, to_aligned = _nearest(KDTree(aligned), true)
    aligned_normals, true_normals = normals(aligned), normals(true)
    consistency = [
        np.abs((aligned_normals * true_normals[to_true]).sum(1)),
        np.abs((true_normals * aligned_normals[to_aligned]).sum(1)),
    ]
    l1 = np.abs(aligned - true).mean(1)
    metrics = {}
    for name, reduce in (("mean", np.mean), ("median", np.median)):
        metrics[f"accuracy_{name}"] = float(reduce(accuracy))
        metrics[f"completeness_{name}"] = float(reduce(completeness))
        metrics[f"normals_{name}"] = float(np.mean([reduce(each) for each in consistency]))
        metrics[f"l1_{name}"] = float(reduce(l1))
    return metrics
