"""Finds a point of one view in the other views of its group, by the features of one block.

Axes: V views, h x w patches of a view, L = h*w, d channels.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float

from muskie_jax.correspondence.refinement import feature_maps, is_cycle_consistent, refined_predictor

MIN_CONFIDENCE = 0.2  # a point that is found with less counts as not visible


class FoundPoint(NamedTuple):
    """Where a point is in every view of a group.

    Attributes:
      positions: x and y in each view, in pixels; (0, 0) is the top left corner.
      confidence: fraction of the point's similarity to all patches of a view that lies in the 3 x 3 patches
        around its position there, from 0 to 1. It is not a probability.
      visible: whether the confidence is at least MIN_CONFIDENCE, and the position, searched for in the
        point's view, leads back to the point. In the point's own view: True.
    """

    positions: Float[np.ndarray, "V 2"]
    confidence: Float[np.ndarray, " V"]
    visible: Bool[np.ndarray, " V"]


def find_point(
    features: Float[np.ndarray, "V h w d"],
    view: int,
    point: Float[np.ndarray, "2"],
    size: tuple[int, int],
) -> FoundPoint:
    """Finds a point of a view in all views.

    Args:
      features: patch features of all views.
      view: index of the point's view.
      point: x and y in that view, in pixels.
      size: height and width of the views, in pixels.
    """
    order = [view, *(other for other in range(len(features)) if other != view)]
    found = _search(features[np.array(order)], np.asarray(point, np.float32)[None], size=size)
    back = np.argsort(order)
    positions, confidence, consistent = (np.asarray(array)[0][back] for array in found)
    visible = consistent & (confidence >= MIN_CONFIDENCE)
    positions, visible = positions.copy(), visible.copy()
    positions[view], visible[view] = point, True
    return FoundPoint(positions, confidence, visible)


@functools.partial(jax.jit, static_argnames="size")
def _search(
    features: Float[Array, "V h w d"], points: Float[Array, "N 2"], *, size: tuple[int, int]
) -> tuple[Float[Array, "N V 2"], Float[Array, "N V"], Bool[Array, "N V"]]:
    """Returns positions, confidence and cycle consistency of points of view 0; (0, 0) is a corner."""
    views, rows, columns, _ = features.shape
    grid = (rows, columns)
    maps = feature_maps(features)
    pixels = points - 0.5  # the predictors' (0, 0) is the centre of the first pixel
    tracks = refined_predictor(maps, pixels, size, grid)
    consistent = is_cycle_consistent(maps, pixels, tracks, size, grid)
    scale = jnp.array([size[1] / columns, size[0] / rows])
    last = jnp.array([columns - 1, rows - 1])
    column, row = jnp.moveaxis(jnp.clip(jnp.floor(points / scale), 0, last).astype(int), -1, 0)
    similarity = maps[:, row * columns + column].reshape(views, -1, rows, columns)
    near = jnp.clip(jnp.floor((tracks + 0.5) / scale), 0, last)  # (N, V, 2)
    x, y = jnp.arange(columns), jnp.arange(rows)
    inside_x = jnp.abs(x - near[..., :1]) <= 1  # (N, V, columns)
    inside_y = jnp.abs(y - near[..., 1:]) <= 1
    confidence = jnp.einsum("vnyx,nvy,nvx->nv", similarity, inside_y * 1.0, inside_x * 1.0)
    return tracks + 0.5, confidence, consistent
