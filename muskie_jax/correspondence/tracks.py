"""Points of the first view and where the others show them, from depth and cameras.

Letters in shapes: N points, V views, H x W pixels. All is numpy in float64: it is little, and exact.

A *point* is a pixel, (column, row), of the first view. There are two protocols (see `scores`); with
"targets", a pixel (u, v) is where its centre is, (u + 0.5, v + 0.5), throughout. Positions given and
returned are (u, v), without the half, in both.
"""

import numpy as np

from muskie_jax.data.posed.views import PosedViews

OCCLUSION_SLACK = 0.05  # metres that a visible point may lie behind the surface there


def draw_points(rng: np.random.Generator, valid: np.ndarray, count: int) -> np.ndarray:
    """Pixels where `valid` (H, W) holds: int (at most count, 2), columns and rows, no two the same."""
    rows, columns = np.nonzero(valid)
    chosen = rng.permutation(len(rows))[:count]
    return np.stack([columns[chosen], rows[chosen]], -1)


def true_tracks(points: np.ndarray, views: PosedViews) -> tuple[np.ndarray, np.ndarray]:
    """Where every view has the points of the first.

    A point is visible in a view if it is before its camera, inside its image, and not more than 5 cm
    behind the surface that the view has there; a hole in the depth map hides nothing. A point that no
    other view sees is not visible in the first either.

    Args:
      points: int (N, 2), pixels of the first view where its depth is known.

    Returns:
      float (N, V, 2), and bool (N, V), whether it is visible there.
    """
    depth, intrinsics = views.depth, views.intrinsics
    columns, rows = points.T
    poses = views.world_to_camera @ np.linalg.inv(views.world_to_camera[0])  # from the first view's frame
    local = back_project(points + 0.5, depth[0, rows, columns], intrinsics[0])
    seen = np.einsum("vij,nj->nvi", poses[:, :3, :3], local) + poses[:, :3, 3]
    distance = seen[..., 2]
    ahead = distance > 0
    projected = np.einsum("vij,nvj->nvi", intrinsics, seen)[..., :2]
    tracks = projected / np.where(ahead, distance, 1)[..., None] - 0.5

    height, width = depth.shape[1:]
    nearest = np.round(np.clip(tracks, -1, (width, height))).astype(int)
    inside = ahead & (tracks >= 0).all(-1) & (tracks < (width, height)).all(-1)
    inside &= (nearest < (width, height)).all(-1)
    column, row = np.moveaxis(np.where(inside[..., None], nearest, 0), -1, 0)
    surface = depth[np.arange(len(depth)), row, column]
    visible = inside & ((surface <= 0) | (distance <= surface + OCCLUSION_SLACK))
    visible[:, 0] &= visible[:, 1:].any(1)
    return tracks, visible


def back_project(positions: np.ndarray, depth: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Points (..., 3) in the camera's frame of pixels x and y (..., 2), z-depth (...) and K (..., 3, 3)."""
    ahead = np.concatenate([positions, np.ones_like(positions[..., :1])], -1)
    return np.einsum("...ij,...j->...i", np.linalg.inv(intrinsics), ahead) * depth[..., None]


def surface_points(tracks: np.ndarray, views: PosedViews, protocol: str) -> tuple[np.ndarray, np.ndarray]:
    """What each view's depth map has at a position of it.

    Depth is interpolated between the four pixels around. "published" takes it as zero outside the image
    and in holes, and back-projects without the half pixel. "targets" leaves holes out, and takes the
    image's border for what is outside.

    Args:
      tracks: float (..., N, V, 2).

    Returns:
      float (..., N, V, 3), metres in each view's camera frame, and bool (..., N, V), whether there is
      depth; where not, the point is the camera's centre.
    """
    published = protocol == "published"
    height, width = views.depth.shape[1:]
    limit = np.array([width - 1, height - 1])
    # Far outside is as good as just outside, and fits into an integer.
    inner = np.clip(tracks, -2, limit + 2.0) if published else np.clip(tracks, 0, limit)
    x, y = np.moveaxis(inner, -1, 0)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    view, total, weight = np.arange(len(views.depth)), 0.0, 0.0
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        depth = views.depth[view, np.where(inside, row, 0), np.where(inside, column, 0)]
        share = (1 - np.abs(x - column)) * (1 - np.abs(y - row)) * (inside & (depth > 0))
        total, weight = total + share * depth, weight + share
    depth = total if published else np.where(weight > 0, total / np.where(weight > 0, weight, 1), 0)
    return back_project(tracks + (0 if published else 0.5), depth, views.intrinsics), depth > 0
