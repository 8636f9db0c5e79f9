"""Matches by SIFT, for comparison: OpenCV's, with Lowe's ratio test.

Source: D. G. Lowe, Distinctive Image Features from Scale-Invariant Keypoints, 2004, section 7.1.
"""

import pathlib
from typing import Any

import numpy as np

from muskie_jax.correspondence.sift import import_opencv
from muskie_jax.photographs.matching import Matches
from muskie_jax.photographs.opening import thumbnail

RATIO = 0.8  # largest ratio of the distances to the nearest and second nearest descriptor; Lowe's
NEEDING = "--baseline sift"
UNIT = "keypoints"  # what is searched for
LONGEST = 1600  # pixels; larger photographs are shrunk, which costs few matches and saves much time


def sift_matches(first: pathlib.Path, second: pathlib.Path) -> Matches:
    """Returns SIFT matches that pass the ratio test, at most one per position in the second photograph.

    The score is 1 minus the ratio.

    Raises:
      UserError: if OpenCV is not installed, or a photograph cannot be read.
    """
    cv2 = import_opencv(NEEDING)
    keypoints, descriptors = zip(*(_describe(cv2, path) for path in (first, second)))
    searched = len(keypoints[0])
    if min(map(len, keypoints)) < 2:
        return Matches(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0), searched, unit=UNIT)
    # A position may have several keypoints of different orientations. Position in the second photograph ->
    # score, and the keypoints in both.
    best: dict[tuple[float, float], tuple[float, int, int]] = {}
    for nearest, other in cv2.BFMatcher().knnMatch(*descriptors, k=2):
        score = 1 - nearest.distance / max(other.distance, 1e-9)
        x, y = keypoints[1][nearest.trainIdx].tolist()
        if score > max(1 - RATIO, best.get((x, y), (0.0,))[0]):
            best[x, y] = (score, nearest.queryIdx, nearest.trainIdx)
    ranked = sorted(best.values(), reverse=True)
    indices = np.array([pair[1:] for pair in ranked], int).reshape(-1, 2)
    score = np.array([pair[0] for pair in ranked], float)
    return Matches(keypoints[0][indices[:, 0]], keypoints[1][indices[:, 1]], score, searched, unit=UNIT)


def _describe(cv2: Any, path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns positions (N, 2) of keypoints in pixels of the upright photograph, and descriptors."""
    pixels, scale = thumbnail(path, LONGEST)
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    keypoints, descriptors = cv2.SIFT_create().detectAndCompute(grey, None)
    # OpenCV puts (0, 0) at the centre of the first pixel.
    positions = np.array([keypoint.pt for keypoint in keypoints], float).reshape(-1, 2) + 0.5
    return positions / scale, np.zeros((0, 128), np.float32) if descriptors is None else descriptors
