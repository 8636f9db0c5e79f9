"""Where a view shows what another view shows, from exact depth and cameras."""

import numpy as np

from muskie_jax.data.synthetic.scenes import Cameras

# A point is hidden if it is further away than what its pixel shows by more than this: depth is
# known at pixels' centres only, and changes within a pixel where a surface is seen at an angle.
SLACK_SHARE, SLACK_METRES = 0.03, 0.03


def find_in_view(
    points: np.ndarray, depth: np.ndarray, cameras: Cameras, first: int, second: int
) -> tuple[np.ndarray, np.ndarray]:
    """Where the second view has the surface that the first has at some points.

    Args:
      points: float (N, 2), x and y in pixels of the first view, inside of it.
      depth: float (V, H, W), z-depth at the pixels' centres, metres.
      cameras: V cameras.
      first, second: numbers of views.

    Returns:
      Float (N, 2), x and y in pixels of the second view; and bool (N,), whether the surface is visible
      there: neither outside the image or behind the camera, nor hidden by something nearer.
    """
    intrinsics, poses = np.asarray(cameras.intrinsics), np.asarray(cameras.world_to_camera)
    ahead = np.append(points, np.ones((len(points), 1)), axis=1) @ np.linalg.inv(intrinsics[first]).T
    local = ahead * _at(depth[first], points)[:, None]
    world = (local - poses[first, :3, 3]) @ poses[first, :3, :3]  # a rotation's inverse is its transpose
    x, y, distance = (world @ poses[second, :3, :3].T + poses[second, :3, 3]).T

    height, width = depth.shape[1:]
    in_front = distance > 1e-6
    safe = np.where(in_front, distance, 1.0)
    found = (np.stack([x / safe, y / safe, np.ones_like(x)], -1) @ intrinsics[second].T)[:, :2]
    inside = in_front & (found >= 0).all(-1) & (found < (width, height)).all(-1)
    in_sight = distance <= (1 + SLACK_SHARE) * _at(depth[second], found) + SLACK_METRES
    return found, inside & in_sight


def _at(depth: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Depth (H, W) of the pixels that points (N, 2) lie in, or else of the nearest."""
    height, width = depth.shape
    column, row = np.clip(np.floor(points), 0, (width - 1, height - 1)).astype(int).T
    return depth[row, column]
