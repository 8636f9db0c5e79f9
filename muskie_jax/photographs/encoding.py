"""Runs a network over a few photographs once, and then finds any points of one in the others.

    encoding = encode(open_network("small"), ["1.jpg", "2.jpg", "3.jpg"])
    found = find_points(encoding, 0, np.array([[812.0, 430.0]]))  # pixels of 1.jpg
    found.positions[0, 2], found.confidence[0, 2]  # in 3.jpg

Axes: V views, N points, h x w patches of a view, L = h*w, d channels.
"""

import functools
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Float64, Int

from muskie_jax.checks import one_of, require
from muskie_jax.correspondence.predictors import symmetric_maps
from muskie_jax.correspondence.refinement import (
    feature_cosines,
    feature_maps,
    is_cycle_consistent,
    refined_matches,
)
from muskie_jax.data.load_images import FilePath
from muskie_jax.models.muskie import Muskie
from muskie_jax.photographs.opening import SIZE, Network, Views, open_views
from muskie_jax.writers import log

FEATURES, ATTENTION = "features", "attention"
PREDICTORS = (FEATURES, ATTENTION)
# Features rather than attention: a network that has learnt little attends to the same position in every
# view, which is consistent, and so looks like a result. Its features match nothing.
PREDICTOR = FEATURES
DEPTH = 5 / 6  # of the network, at which features are taken
GROUP = 8  # photographs that are encoded together; networks are trained on groups of at most this many
# Minimum confidence of a visible point, by predictor. `muskie_jax.perf.match_scores` measures what
# photographs of different scenes reach. The value for attention is provisional.
MIN_CONFIDENCE = {FEATURES: 0.4, ATTENTION: 0.2}
REFERENCE_PATCHES = 14 * 14  # of a square view of 224 pixels, to which confidence refers
POINTS = 64  # numbers of points are padded to multiples of it, so that few programs are compiled


class Encoding(NamedTuple):
    """Features or attention of a group of photographs, by which points of one view are found in all others.

    Attributes:
      views: the photographs.
      features: features of the patches of one block; None for predictor "attention".
      attention: attention of every patch to every other, mean over blocks and heads; None for "features".
    """

    views: Views
    features: Float[Array, "V h w d"] | None
    attention: Float[Array, "V L V L"] | None

    @property
    def predictor(self) -> str:
        """What points are found by, one of PREDICTORS."""
        return ATTENTION if self.features is None else FEATURES


class Found(NamedTuple):
    """Where points of one photograph are in all photographs of its group.

    Attributes:
      positions: x and y, in pixels of each upright photograph.
      confidence: how distinct the position is, from 0 to 1, see `distinctness`. It is not a probability.
      visible: whether the confidence is at least `min_confidence`, and the position, searched for in the
        photograph of the points, leads back to the point. In that photograph itself: True.
    """

    positions: Float64[np.ndarray, "N V 2"]
    confidence: Float[np.ndarray, "N V"]
    visible: Bool[np.ndarray, "N V"]


def encode(
    network: Network,
    photographs: FilePath | Sequence[FilePath] | Views,
    size: int = SIZE,
    predictor: str = PREDICTOR,
) -> Encoding:
    """Runs the network once over all photographs, as one group.

    Args:
      network: the network.
      photographs: files and folders; or views, whose size is kept. Memory grows with the square of their
        number.
      size: shorter side of a view, see `open_views`.
      predictor: what points will be found by, "features" or "attention".

    Raises:
      UserError: for another predictor, or if a photograph cannot be read.
    """
    one_of(predictor, PREDICTORS, "predictor")
    if isinstance(photographs, Views):
        views = photographs
    else:
        views = open_views(photographs, size, network.model.patch)
    program = _features if predictor == FEATURES else _attention
    result = program(network.params, views.images, views.padding, model=network.model)
    return Encoding(views, *((result, None) if predictor == FEATURES else (None, result)))


def encode_in_groups(
    network: Network,
    first: pathlib.Path,
    others: Sequence[pathlib.Path],
    size: int,
    predictor: str = PREDICTOR,
    turned: bool = False,
) -> Iterator[list[Encoding]]:
    """Yields encodings of groups that consist of the first photograph and at most GROUP - 1 of the others.

    For each group this is a list of one encoding, or of four, with the first photograph turned by 0, 1, 2
    and 3 quarters.

    Args:
      network: the network.
      first: the photograph that is in every group.
      others: the other photographs; groups follow their order.
      size: see `open_views`.
      predictor: see `encode`.
      turned: whether to turn the first photograph.
    """
    count = math.ceil(len(others) / (GROUP - 1))
    for number, chunk in enumerate(np.array_split(np.arange(len(others)), count), 1):
        if count > 1:
            log(f"Group {number} of {count}: photographs {chunk[0] + 1} to {chunk[-1] + 1}")
        paths = [first, *(others[index] for index in chunk)]
        views = (open_views(paths, size, network.model.patch, turns) for turns in range(4 if turned else 1))
        yield [encode(network, each, predictor=predictor) for each in views]


def compared_block(depth: int) -> int:
    """Returns the block, from 1, whose features are compared, of a network of `depth` blocks."""
    return round(DEPTH * depth)


@functools.partial(jax.jit, static_argnames="model")
def _features(params: Any, images: Array, padding: Array, *, model: Muskie) -> Array:
    tokens: Any = model.apply({"params": params}, images[None], _mask(padding), method="features")
    return tokens[compared_block(len(tokens)) - 1][0].reshape(*padding.shape, -1)


@functools.partial(jax.jit, static_argnames="model")
def _attention(params: Any, images: Array, padding: Array, *, model: Muskie) -> Array:
    output: Any = model.apply({"params": params}, images[None], _mask(padding), method="activations")
    _, attention = output
    return functools.reduce(jnp.add, [weights[0] for weights in attention]) / len(attention)


def _mask(padding: Array) -> Array:
    return padding.reshape(1, len(padding), -1)


def find_points(
    encoding: Encoding,
    view: int,
    points: Float[np.ndarray, "N 2"],
    min_confidence: float | None = None,
) -> Found:
    """Finds points of one photograph in all photographs of the group.

    Args:
      encoding: the photographs, from `encode`.
      view: the photograph of the points.
      points: x and y, in its pixels.
      min_confidence: minimum confidence of a visible point; None: see MIN_CONFIDENCE.

    Raises:
      UserError: if a point is outside the photograph.
    """
    views = encoding.views
    points = np.asarray(points, np.float64).reshape(-1, 2)
    check_inside(points, views.sizes[view].tolist(), views.paths[view])
    count = -(-max(1, len(points)) // POINTS) * POINTS
    padded = np.zeros((count, 2), np.float32)
    padded[: len(points)] = views.from_photograph(view, points) - 0.5
    size = views.images.shape[1:3]
    outputs = search_views(encoding.features, encoding.attention, views.padding, view, padded, size=size)
    in_views, confidence, consistent = (np.array(each[: len(points)]) for each in outputs)
    if min_confidence is None:
        min_confidence = MIN_CONFIDENCE[encoding.predictor]
    visible = consistent & (confidence >= min_confidence)
    confidence[:, view], visible[:, view] = 1, True
    positions = np.empty((len(points), len(views.paths), 2))
    for each, photograph_size in enumerate(views.sizes):
        position = views.to_photograph(each, in_views[:, each] + 0.5)
        positions[:, each] = np.clip(position, 0, photograph_size[::-1])
    positions[:, view] = points
    return Found(positions, confidence, visible)


def check_inside(points: Float[np.ndarray, "N 2"], size: tuple[int, int], path: pathlib.Path) -> None:
    """Raises UserError if a point is outside its photograph, of (height, width) pixels."""
    height, width = size
    for x, y in points.tolist():
        require(
            0 <= x <= width and 0 <= y <= height,
            f"point {x:g},{y:g} is outside {path}: x must be from 0 to {width}, y from 0 to {height}",
        )


@functools.partial(jax.jit, static_argnames="size")
def search_views(
    features: Float[Array, "V h w d"] | None,
    attention: Float[Array, "V L V L"] | None,
    padding: Bool[Array, "V h w"],
    view: int,
    points: Float[Array, "N 2"],
    *,
    size: tuple[int, int],
) -> tuple[Float[Array, "N V 2"], Float[Array, "N V"], Bool[Array, "N V"]]:
    """Finds points of a view in all views; positions are in pixels of views, from the first pixel's centre.

    Args:
      features, attention, padding: see `Encoding` and `Views`.
      view: the view of the points.
      points: x and y in that view.
      size: (height, width) of the views.

    Returns:
      Positions, their confidence, and whether they lead back to the points; see `Found`.
    """
    valid = ~padding
    present = valid.reshape(len(valid), -1)
    if features is not None:
        query_first = lambda x: jnp.concatenate([x[view][None], x])
        maps = feature_maps(query_first(features), query_first(valid))[1:]
        # Back by cosines: a softmax over the other view makes them incomparable between cells of this one.
        # They are at least -1, so cells that are not valid come last.
        cosines = feature_cosines(query_first(features), query_first(valid))[1:]
        maps_back = jnp.where(present[view][:, None] & present[:, None], cosines, -2)
    else:
        assert attention is not None
        maps = symmetric_maps(attention[view], attention[:, :, view])
        maps = maps_back = maps * present[view][:, None] * present[:, None]
    grid = (valid.shape[1], valid.shape[2])
    positions, concentration = refined_matches(maps, points, size, grid)
    confidence = distinctness(concentration, present.sum(1))
    return positions, confidence, is_cycle_consistent(maps_back, points, positions, size, grid)


def distinctness(concentration: Float[Array, "N V"], patches: Int[Array, " V"]) -> Float[Array, "N V"]:
    """Returns the concentration that a search would have in a view of REFERENCE_PATCHES patches.

    The concentration, the fraction of all scores in the 3 x 3 patches around a match, falls as the number
    of patches grows, since more of them share the rest. Here, the rest counts as if it were
    REFERENCE_PATCHES patches with its mean score. One minimum then suits all sizes of views.

    Args:
      concentration: see `muskie_jax.correspondence.refinement.best_positions`.
      patches: number of patches of each view that may match.
    """
    found = concentration * patches
    rest = (1 - concentration) * REFERENCE_PATCHES
    return found / jnp.maximum(found + rest, 1e-9)
