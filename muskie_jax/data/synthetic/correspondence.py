"""Ground-truth correspondence between rendered views, from exact depth and cameras."""

import numpy as np
from jaxtyping import Bool, Float

from muskie_jax.data.synthetic.scenes import Cameras

# A point is occluded if its depth exceeds its pixel's depth by more than this. The slack is needed because
# depth is known only at pixel centres, and varies within a pixel on slanted surfaces.
RELATIVE_SLACK, SLACK_METRES = 0.03, 0.03


def find_in_view(
    points: Float[np.ndarray, "N 2"],
    depth: Float[np.ndarray, "V H W"],
    cameras: Cameras,
    first: int,
    second: int,
) -> tuple[Float[np.ndarray, "N 2"], Bool[np.ndarray, " N"]]:
    """Projects surface points of one view into another view.

    Args:
      points: (x, y) in pixels, inside the first view.
      depth: z-depth at pixel centres, metres.
      cameras: the V views' cameras.
      first, second: indices of the views.

    Returns:
      (x, y) in pixels of the second view; and whether the point is visible there, that is, in front of the
      camera, inside the image and not occluded.
    """
    intrinsics, poses = np.asarray(cameras.intrinsics), np.asarray(cameras.world_to_camera)
    world = surface_points(points, depth[first], intrinsics[first], poses[first])
    x, y, distance = (world @ poses[second, :3, :3].T + poses[second, :3, 3]).T

    height, width = depth.shape[1:]
    in_front = distance > 1e-6
    safe = np.where(in_front, distance, 1.0)
    projected = (np.stack([x / safe, y / safe, np.ones_like(x)], -1) @ intrinsics[second].T)[:, :2]
    if first == second:  # rounding on the way through the camera would put points of the border outside
        projected = np.array(points, np.float64)
    inside = in_front & (projected >= 0).all(-1) & (projected < (width, height)).all(-1)
    surface = _nearest_depth(depth[second], projected)
    unoccluded = distance <= (1 + RELATIVE_SLACK) * surface + SLACK_METRES
    return projected, inside & unoccluded


def surface_points(
    points: Float[np.ndarray, "N 2"],
    depth: Float[np.ndarray, "H W"],
    intrinsics: Float[np.ndarray, "3 3"],
    world_to_camera: Float[np.ndarray, "4 4"],
) -> Float[np.ndarray, "N 3"]:
    """Returns the surface points that a view shows at pixels (x, y), in metres, in the world.

    Each point takes the depth at the centre of its pixel.
    """
    rays = np.append(points, np.ones((len(points), 1)), axis=1) @ np.linalg.inv(intrinsics).T
    local = rays * _nearest_depth(depth, points)[:, None]
    return (local - world_to_camera[:3, 3]) @ world_to_camera[
        :3, :3
    ]  # a rotation's inverse is its transpose


def _nearest_depth(depth: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Reads depth (H, W) at the pixels that contain points (N, 2), clipped to the image."""
    height, width = depth.shape
    column, row = np.clip(np.floor(points), 0, (width - 1, height - 1)).astype(int).T
    return depth[row, column]
