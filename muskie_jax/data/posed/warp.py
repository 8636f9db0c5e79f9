"""Warps points of one view into another, and measures how well depth and colours agree there.

Letters in shapes: V views of H x W pixels, P pairs of views, N points per pair.
"""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

from muskie_jax.data.posed.views import PosedViews

FEW_PAIRS = 60  # so few pairs are warped in both orders
GRID = (15, 20)  # rows and columns of the points that are warped
MAX_DEPTH_ERROR = 0.15  # of the logarithm of a depth; larger errors, as of hidden points, count as this
AGREEING_DEPTH = 0.05  # relative error up to which a depth agrees
MIN_VISIBLE = 0.1  # fraction of a view's points that the other view must see to measure their agreement


class Pairs(NamedTuple):
    """Points of the first view of each pair, and the second view.

    Attributes:
      points: points in the first camera's frame.
      valid: whether the first view has depth there.
      grey: brightness of the first view there.
      first, second: indices of the two views.
      second_grey, second_depth, second_intrinsics: brightness, depth and intrinsics of all views.
    """

    points: Float[np.ndarray, "P N 3"]
    valid: Bool[np.ndarray, "P N"]
    grey: Float[np.ndarray, "P N"]
    first: Int[np.ndarray, " P"]
    second: Int[np.ndarray, " P"]
    second_grey: Float[np.ndarray, "V H W"]
    second_depth: Float[np.ndarray, "V H W"]
    second_intrinsics: Float[np.ndarray, "V 3 3"]


class Agreement(NamedTuple):
    """How well the second view of each pair agrees with the warped points of the first; NaN if unseen.

    Attributes:
      visible: fraction of the points with depth that land on a pixel with depth.
      depth: 1 minus the mean error of depth, relative to MAX_DEPTH_ERROR.
      agreeing: fraction of points whose depth is within AGREEING_DEPTH.
      floating: fraction of points that float in front of the surface there. They contradict the geometry,
        whereas points behind the surface may just be occluded.
      colour: correlation of brightness, -1 to 1.
      difference: mean absolute difference of brightness, in grey levels of 255.
    """

    visible: Float[np.ndarray, " P"]
    depth: Float[np.ndarray, " P"]
    agreeing: Float[np.ndarray, " P"]
    floating: Float[np.ndarray, " P"]
    colour: Float[np.ndarray, " P"]
    difference: Float[np.ndarray, " P"]


def relative_poses(
    world_to_camera: Float[np.ndarray, "V 4 4"], first: Int[np.ndarray, " P"], second: Int[np.ndarray, " P"]
) -> Float[np.ndarray, "P 4 4"]:
    """Returns the pose that maps the first camera's frame to the second's, for each pair."""
    return world_to_camera[second] @ np.linalg.inv(world_to_camera[first])


def make_pairs(views: PosedViews, groups: Iterable[Iterable[int]]) -> Pairs:
    """Returns all pairs of the views in each group of indices, in both orders if there are few."""
    ordered = sorted({pair for group in groups for pair in itertools.combinations(group, 2)})
    one, other = np.array(ordered, int).reshape(-1, 2).T
    if len(ordered) <= FEW_PAIRS:
        first, second = np.concatenate([one, other]), np.concatenate([other, one])
    else:
        backwards = np.arange(len(one)) % 2 == 1
        first, second = np.where(backwards, other, one), np.where(backwards, one, other)
    height, width = views.depth.shape[1:]
    rows, columns = (
        ((np.arange(n) + 0.5) * side / n).astype(int) for n, side in zip(GRID, (height, width))
    )
    row, column = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    grey = views.images.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    points = _back_project(column, row, views.depth, views.intrinsics)
    return Pairs(
        points[first],
        views.depth[:, row, column][first] > 0,
        grey[:, row, column][first],
        first,
        second,
        grey,
        views.depth,
        views.intrinsics,
    )


def agreement(pairs: Pairs, relative: Float[np.ndarray, "P 4 4"]) -> Agreement:
    """Measures how well each pair agrees if `relative` maps the first camera's frame to the second's."""
    size = pairs.second_depth.shape[1:]
    column, row, distance = _project(pairs.points, relative, pairs.second_intrinsics[pairs.second], size)
    inside = pairs.valid & (column >= 0)
    surface = pairs.second_depth[pairs.second[:, None], row, column]
    seen = inside & (surface > 0)
    ratio = np.where(seen, distance, 1) / np.where(seen, surface, 1)
    error = np.minimum(np.abs(np.log(ratio)), MAX_DEPTH_ERROR)
    grey = pairs.second_grey[pairs.second[:, None], row, column]

    count = seen.sum(1)
    visible = count / np.maximum(pairs.valid.sum(1), 1)
    enough = visible >= MIN_VISIBLE
    mean = lambda x: np.where(enough, (x * seen).sum(1) / np.maximum(count, 1), np.nan)
    a, b = (np.where(enough[:, None], x - mean(x)[:, None], 0) for x in (pairs.grey, grey))
    spread = np.sqrt(np.maximum(mean(a * a) * mean(b * b), 1e-6))
    return Agreement(
        visible=visible,
        depth=1 - mean(error) / MAX_DEPTH_ERROR,
        agreeing=mean(np.abs(ratio - 1) <= AGREEING_DEPTH),
        floating=mean(np.log(ratio) < -MAX_DEPTH_ERROR),
        colour=mean(a * b) / spread,
        difference=mean(np.abs(pairs.grey - grey)),
    )


def warp_view(
    views: PosedViews, first: int, second: int
) -> tuple[UInt8[np.ndarray, "H W 3"], Bool[np.ndarray, "H W"]]:
    """Returns the second view warped into the first by the first view's depth, and which pixels it sees."""
    size = views.depth.shape[1:]
    row, column = (axis.ravel() for axis in np.indices(size))
    points = _back_project(column, row, views.depth[[first]], views.intrinsics[[first]])
    relative = relative_poses(views.world_to_camera, np.array([first]), np.array([second]))
    (x,), (y,), _ = _project(points, relative, views.intrinsics[[second]], size)
    seen = (x >= 0) & (views.depth[first].ravel() > 0)
    return views.images[second, y, x].reshape(*size, 3), seen.reshape(size)


def chance_depth(pairs: Pairs) -> Float[np.ndarray, " P"]:
    """Returns the agreement of depth between random points of the two views of each pair.

    Pairs whose views do not see each other get this score.
    """
    height, width = pairs.second_depth.shape[1:]
    pixels = np.random.default_rng(0).integers(height * width, size=pairs.points.shape[1])
    surface = pairs.second_depth.reshape(-1, height * width)[:, pixels][pairs.second]
    known = pairs.valid & (surface > 0)
    ratio = np.where(known, pairs.points[..., 2], 1) / np.where(known, surface, 1)
    error = np.minimum(np.abs(np.log(ratio)), MAX_DEPTH_ERROR) * known
    return 1 - error.sum(1) / np.maximum(known.sum(1), 1) / MAX_DEPTH_ERROR


def _back_project(
    column: Int[np.ndarray, " N"],
    row: Int[np.ndarray, " N"],
    depth: Float[np.ndarray, "V H W"],
    intrinsics: Float[np.ndarray, "V 3 3"],
) -> Float[np.ndarray, "V N 3"]:
    """Returns the points at the centres of pixels of each view, in the view's camera frame."""
    pixels = np.stack([column + 0.5, row + 0.5, np.ones(len(row))], -1)
    rays = np.einsum("vij,nj->vni", np.linalg.inv(intrinsics), pixels)
    return rays * depth[:, row, column][..., None]


def _project(
    points: Float[np.ndarray, "P N 3"],
    relative: Float[np.ndarray, "P 4 4"],
    intrinsics: Float[np.ndarray, "P 3 3"],
    size: tuple[int, ...],
) -> tuple[Int[np.ndarray, "P N"], Int[np.ndarray, "P N"], Float[np.ndarray, "P N"]]:
    """Returns the columns, rows and depth of points after the motion `relative`.

    Columns and rows are -1 outside an image of `size`, (height, width).
    """
    height, width = size
    moved = points @ relative[:, :3, :3].swapaxes(1, 2) + relative[:, None, :3, 3]
    distance = moved[..., 2]
    ahead = distance > 1e-9
    projected = moved @ intrinsics.swapaxes(1, 2)
    position = projected[..., :2] / np.where(ahead, distance, 1)[..., None]
    inside = ahead & (position >= 0).all(-1) & (position < (width, height)).all(-1)
    column, row = np.moveaxis(np.where(inside[..., None], position, -1).astype(int), -1, 0)
    return column, row, distance
