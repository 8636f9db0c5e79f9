"""Ground-truth tracks: the positions, in all views, of points of the first view, from depth and cameras.

Axes: N points, V views, H x W pixels. All computation is in numpy, float64.

A *point* is a pixel, (column, row), of the first view. With protocol "targets" (see `scores`), pixel
(u, v) has its centre at (u + 0.5, v + 0.5) throughout. Positions in arguments and results are (u, v),
without the half pixel, in both protocols.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from muskie_jax.data.posed.views import PosedViews

OCCLUSION_SLACK = 0.05  # metres by which a visible point may lie behind the view's depth map


def draw_points(
    rng: np.random.Generator, valid: Bool[np.ndarray, "H W"], count: int
) -> Int[np.ndarray, "N 2"]:
    """Draws at most `count` distinct pixels where `valid` is True."""
    rows, columns = np.nonzero(valid)
    chosen = rng.permutation(len(rows))[:count]
    return np.stack([columns[chosen], rows[chosen]], -1)


def true_tracks(
    points: Int[np.ndarray, "N 2"], views: PosedViews
) -> tuple[Float[np.ndarray, "N V 2"], Bool[np.ndarray, "N V"]]:
    """Reprojects points of the first view into every view.

    A visible point is in front of the view's camera, inside its image, and at most 5 cm behind its depth
    map. A hole in the depth map does not occlude. A point that is visible in no other view does not count
    as visible in the first view either, where its position is the point itself.

    Args:
      points: pixels of the first view with known depth.
      views: the views, with depth and cameras.

    Returns:
      The position of each point in each view, and whether the point is visible in the view.
    """
    depth, intrinsics = views.depth, views.intrinsics
    columns, rows = points.T
    poses = views.world_to_camera @ np.linalg.inv(views.world_to_camera[0])  # from the first view's frame
    in_first = back_project(points + 0.5, depth[0, rows, columns], intrinsics[0])
    in_view = np.einsum("vij,nj->nvi", poses[:, :3, :3], in_first) + poses[:, :3, 3]
    distance = in_view[..., 2]
    ahead = distance > 0
    projected = np.einsum("vij,nvj->nvi", intrinsics, in_view)[..., :2]
    tracks = projected / np.where(ahead, distance, 1)[..., None] - 0.5
    # Rounding on the way through the camera would put points of column or row 0 outside the first view.
    tracks[:, 0] = points

    height, width = depth.shape[1:]
    nearest = np.round(np.clip(tracks, -1, (width, height))).astype(int)
    inside = ahead & (tracks >= 0).all(-1) & (tracks < (width, height)).all(-1)
    inside &= (nearest < (width, height)).all(-1)
    column, row = np.moveaxis(np.where(inside[..., None], nearest, 0), -1, 0)
    surface = depth[np.arange(len(depth)), row, column]
    visible = inside & ((surface <= 0) | (distance <= surface + OCCLUSION_SLACK))
    visible[:, 0] &= visible[:, 1:].any(1)
    return tracks, visible


def back_project(
    positions: Float[np.ndarray, "*batch 2"],
    depth: Float[np.ndarray, "*batch"],
    intrinsics: Float[np.ndarray, "*#batch 3 3"],
) -> Float[np.ndarray, "*batch 3"]:
    """Returns points in the camera frame, from pixel positions and z-depth."""
    rays = np.concatenate([positions, np.ones_like(positions[..., :1])], -1)
    return np.einsum("...ij,...j->...i", np.linalg.inv(intrinsics), rays) * depth[..., None]


def surface_points(
    tracks: Float[np.ndarray, "*batch N V 2"], views: PosedViews, protocol: str
) -> tuple[Float[np.ndarray, "*batch N V 3"], Bool[np.ndarray, "*batch N V"]]:
    """Back-projects positions with the bilinearly sampled depth map of their view.

    "published" uses depth zero outside the image and in holes, and back-projects without the half pixel.
    "targets" excludes holes from the interpolation, and extends the image by repeating its border.

    Returns:
      3-D points, in metres, in each view's camera frame; and whether depth is known at the position. If
      not, the point is the camera's centre.
    """
    published = protocol == "published"
    height, width = views.depth.shape[1:]
    limit = np.array([width - 1, height - 1])
    # Clips far positions to just outside the image, so that they fit into an integer. Results are the same.
    inner = np.clip(tracks, -2, limit + 2.0) if published else np.clip(tracks, 0, limit)
    x, y = np.moveaxis(inner, -1, 0)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    view, total, total_weight = np.arange(len(views.depth)), 0.0, 0.0
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        depth = views.depth[view, np.where(inside, row, 0), np.where(inside, column, 0)]
        weight = (1 - np.abs(x - column)) * (1 - np.abs(y - row)) * (inside & (depth > 0))
        total, total_weight = total + weight * depth, total_weight + weight
    if published:
        depth = total
    else:
        depth = np.where(total_weight > 0, total / np.where(total_weight > 0, total_weight, 1), 0)
    return back_project(tracks + (0 if published else 0.5), depth, views.intrinsics), depth > 0
