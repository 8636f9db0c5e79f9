"""Estimates the overlap of views without depth, from the triangulated points of a COLMAP model."""

import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float32, Int64

from muskie_jax.data.posed.frames import Sequence

MIN_SHARED = 10  # points that two images must share; images of two rooms share none


def overlap_from_points(
    models: Mapping[str, tuple[Any, Mapping[pathlib.Path, Any]]],
) -> Callable[[Sequence, int], Float32[np.ndarray, " frames"]]:
    """Returns a function that estimates the overlap of frames; see `RGBDDataset.overlap`.

    The overlap of a frame with another is the fraction of its points that project into the other's image,
    or 0 if the two share fewer than MIN_SHARED points. Occlusion is ignored.

    Args:
      models: for the name of each sequence, pycolmap's `Reconstruction`, and its images by path.
    """

    @functools.cache
    def points_of(name: str, path: pathlib.Path) -> Int64[np.ndarray, " points"]:
        """Returns the sorted numbers of the points that an image observes."""
        _, images = models[name]
        return np.unique([p.point3D_id for p in images[path].points2D if p.has_point3D()]).astype(np.int64)

    def overlap(sequence: Sequence, number: int) -> Float32[np.ndarray, " frames"]:
        reconstruction, _ = models[sequence.name]
        observed = points_of(sequence.name, sequence.frames[number].image)
        fractions = np.zeros(len(sequence.frames), np.float32)
        if not len(observed):
            return fractions
        points = np.stack([reconstruction.points3D[int(point)].xyz for point in observed], 1)
        for other, frame in enumerate(sequence.frames):
            shared = np.isin(observed, points_of(sequence.name, frame.image), assume_unique=True)
            if shared.sum() < MIN_SHARED:
                continue
            assert frame.size  # known from the camera
            height, width = frame.size
            local = frame.world_to_camera[:3, :3] @ points + frame.world_to_camera[:3, 3:]
            x, y, z = frame.intrinsics @ local
            inside = (z > 0) & (x >= 0) & (y >= 0) & (x < width * z) & (y < height * z)
            fractions[other] = inside.mean()
        return fractions

    return overlap
