"""Predicts where points of one view lie in the other views, from the activations of a network.

Letters in shapes: B groups, V views, N points, P predictors, R refined predictors, M predictions of one
layer, K angles; L = h x w patches of a view, d channels.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, Int, UInt8

from muskie_jax.correspondence.orientation import angles, orientation_weights, turn_image, turn_points
from muskie_jax.correspondence.predictors import attention_predictor, feature_predictor, symmetric_maps
from muskie_jax.correspondence.refinement import (
    best_positions,
    feature_maps,
    is_cycle_consistent,
    match_scores,
)
from muskie_jax.evaluators.eval_models import STILL, Activations, EvalNetwork
from muskie_jax.models.muskie import to_float

ALL = "all"
ATTENTION, FEATURE, REFINED = "attention", "feature", "+refined"


class Predictor(NamedTuple):
    """How a prediction was made; also the labels of its results.

    Attributes:
      predictor: "attention", "feature", or one of them with the suffix "+refined"; "still".
      layer: layer, counted from 1; "all" for attention averaged over all layers.
      protocol: "targets" or "published", see `muskie_jax.correspondence.scores`.
    """

    predictor: str
    layer: str | int
    protocol: str


@struct.dataclass
class Predictions:
    """Predicted positions of one group's points, by every predictor.

    Attributes:
      predictors: the predictors, in the order of the axis P.
      tracks: predicted columns and rows, pixels.
      consistent: whether a prediction is cycle consistent.
      concentration: how distinct the refined prediction of the same layer is, see `best_positions`; 0
        under other protocols than "targets".
      scores: scores of the refined predictions (R), see `match_scores`; None if there are none, and in what
        `predict` returns.
    """

    predictors: tuple[Predictor, ...] = struct.field(pytree_node=False)
    tracks: Float[Array, "P N V 2"]
    consistent: Bool[Array, "P N V"]
    concentration: Float[Array, "P N V"]
    scores: Float[Array, "R V N rows columns"] | None = None


class Search(NamedTuple):
    """What is searched for in the activations of one group.

    Attributes:
      points: points of the first view, (column, row) in pixels.
      reference: see `match_scores`.
      size: height and width of the views.
      grid: h and w.
      protocols: see `Predictor`.
    """

    points: Float[Array, "N 2"]
    reference: Float[Array, "N 2"]
    size: tuple[int, int]
    grid: tuple[int, int]
    protocols: tuple[str, ...]


class LayerMatches(NamedTuple):
    """Predictions from one layer: one per protocol (axis M), and the refined one; see `Predictions`."""

    tracks: Float[Array, "M N V 2"]
    consistent: Bool[Array, "M N V"]
    concentration: Float[Array, "M N V"]
    scores: Float[Array, "V N rows columns"] | None


class GroupOutput(NamedTuple):
    """Results of one group; `predict` adds an axis of groups in front of every array.

    Attributes:
      predictions: see `Predictions`.
      features: patch features of each measured layer.
      finite: whether all activations are finite. A nearest neighbour exists even among NaNs.
    """

    predictions: Predictions
    features: list[Float[Array, "V h w d"]]
    finite: Bool[Array, ""]


@functools.partial(
    jax.jit,
    static_argnames=("network", "size", "layers", "protocols", "enlarge", "orientations", "mesh"),
)
def predict(
    params: Any,
    images: UInt8[Array, "B V H W 3"],
    points: Int[Array, "B N 2"],
    *,
    network: EvalNetwork,
    size: tuple[int, int],
    layers: tuple[int, ...],
    protocols: tuple[str, ...],
    enlarge: int,
    orientations: int,
    mesh: Mesh,
) -> GroupOutput:
    """Predicts the points of a batch of groups with all predictors of a network.

    Args:
      params: parameters of the network.
      images: one group per device of the mesh.
      points: columns and rows of the points in the first view.
      network: equal networks share one compiled program.
      size: height and width of the views.
      layers: layers to measure, from 1; empty for all.
      protocols: see `Predictor`.
      enlarge: factor by which the network's views are enlarged; `size` stays that of `images`.
      orientations: number of angles at which refined predictors search; see `_average_orientations`.
      mesh: groups are split over its axis `data`.
    """

    def one_group(params, images, points):
        views, positions = _enlarged(to_float(images), enlarge), points[0].astype(jnp.float32)

        def find(views, positions, reference=None):
            batched = network.activations(params, views)
            activations = Activations(*(tuple(x[0] for x in part) for part in batched))
            predictions = predict_from_activations(
                activations, positions, size, len(images[0]), layers, protocols, reference
            )
            features = [activations.features[layer - 1] for layer in measured_layers(activations, layers)]
            finite = jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(activations)], bool).all()
            return GroupOutput(predictions, features, finite)

        def find_turned(angle):
            turned, inside = turn_points(positions, angle, size)
            views_turned = views.at[0, 0].set(turn_image(views[0, 0], angle))
            return find(views_turned, turned, positions), inside

        if orientations == 1:
            output = find(views, positions)
            predictions = output.predictions
        else:
            outputs, inside = jax.lax.map(find_turned, angles(orientations))
            output = jax.tree.map(lambda x: x[0], outputs)  # upright
            predictions = _average_orientations(outputs.predictions, inside, positions, size)
            output = output._replace(finite=outputs.finite.all())
        output = output._replace(predictions=dataclasses.replace(predictions, scores=None))
        return jax.tree.map(lambda x: x[None], output)

    if mesh.size == 1:
        return one_group(params, images, points)
    # Each device computes its own group. Custom kernels do not declare over which mesh axes their results
    # vary, which check_vma would require.
    return jax.shard_map(
        one_group, mesh=mesh, in_specs=(P(), P("data"), P("data")), out_specs=P("data"), check_vma=False
    )(params, images, points)


def _enlarged(images: Float[Array, "B V H W 3"], factor: int) -> Float[Array, "B V rows columns 3"]:
    if factor == 1:
        return images
    batch, views, height, width, channels = images.shape
    return jax.image.resize(images, (batch, views, factor * height, factor * width, channels), "cubic")


def _average_orientations(
    predictions: Predictions, inside: Bool[Array, "K N"], points: Float[Array, "N 2"], size: tuple[int, int]
) -> Predictions:
    """Returns refined predictions from scores averaged over angles of the first view, and others upright.

    A refined prediction is consistent if it is so at angles that have more than half of the weight.

    Args:
      predictions: predictions at every angle, with a leading axis K.
      inside: whether each point was in the frame of the turned view.
      points: the points, in the upright view.
      size: height and width of the views.
    """
    upright = jax.tree.map(lambda x: x[0], predictions)
    tracks, consistent, concentration = upright.tracks, upright.consistent, upright.concentration
    numbers = [i for i, each in enumerate(predictions.predictors) if each.predictor.endswith(REFINED)]
    if predictions.scores is None:
        return upright
    for refined, number in enumerate(numbers):
        weights = orientation_weights(predictions.concentration[:, number], inside)
        scores = jnp.einsum("knv,kvnhw->vnhw", weights, predictions.scores[:, refined])
        found, distinct = best_positions(scores, points, size)
        tracks = tracks.at[number].set(found.at[:, 0].set(points))  # view 0 is where the points are given
        consistent = consistent.at[number].set((weights * predictions.consistent[:, number]).sum(0) > 0.5)
        concentration = concentration.at[number].set(distinct)
    return dataclasses.replace(upright, tracks=tracks, consistent=consistent, concentration=concentration)


def measured_layers(activations: Activations, layers: Sequence[int]) -> list[int]:
    """Returns the layers to measure, from 1: `layers` that the network has, or all its layers if empty.

    Features without layers, such as raw patches, are measured in any case.
    """
    count = len(activations.features)
    return [n for n in range(1, count + 1) if not layers or n in layers or count == 1]


def predict_from_activations(
    activations: Activations,
    points: Float[Array, "N 2"],
    size: tuple[int, int],
    views: int,
    layers: tuple[int, ...],
    protocols: tuple[str, ...],
    reference: Float[Array, "N 2"] | None = None,
) -> Predictions:
    """Returns all predictions for one group; the activations have no axis of groups.

    A network without features predicts that nothing moves. Otherwise features are matched in every measured
    layer. If the network attends across views, its attention is matched too: in every measured layer, and
    averaged over all layers. `reference` is that of `match_scores`. For other arguments see `predict`.
    """
    if not activations.features:
        return _predict_no_motion(points, views, protocols)
    layers_measured = measured_layers(activations, layers)
    if not layers_measured:
        empty = jnp.zeros((0, len(points), views))
        return Predictions((), jnp.zeros((*empty.shape, 2)), empty.astype(bool), empty)
    rows, columns = activations.features[0].shape[1:3]
    search = Search(points, points if reference is None else reference, size, (rows, columns), protocols)
    parts = []
    if activations.to_others:
        maps = [symmetric_maps(*pair) for pair in zip(activations.to_others, activations.to_first)]
        stacked = jnp.stack([sum(maps) / len(maps), *(maps[layer - 1] for layer in layers_measured)])
        match = functools.partial(_match_attention, search=search)
        parts.append(_predict_layers(ATTENTION, [ALL, *layers_measured], stacked, match, protocols))
    stacked = jnp.stack([activations.features[layer - 1] for layer in layers_measured])
    match = functools.partial(_match_features, search=search)
    parts.append(_predict_layers(FEATURE, layers_measured, stacked, match, protocols))
    return Predictions(
        tuple(predictor for part in parts for predictor in part.predictors),
        jnp.concatenate([part.tracks for part in parts]),
        jnp.concatenate([part.consistent for part in parts]),
        jnp.concatenate([part.concentration for part in parts]),
        jnp.concatenate([part.scores for part in parts]) if "targets" in protocols else None,
    )


def _predict_no_motion(points: Array, views: int, protocols: tuple[str, ...]) -> Predictions:
    tracks = jnp.broadcast_to(points[:, None], (len(protocols), len(points), views, 2))
    predictors = tuple(Predictor(STILL, ALL, protocol) for protocol in protocols)
    shape = tracks.shape[:-1]
    return Predictions(predictors, tracks, jnp.ones(shape, bool), jnp.ones(shape))


def _variants(protocols: Sequence[str]) -> list[tuple[str, str]]:
    """Returns (suffix, protocol) for each prediction of one layer, in their order."""
    variants = [("", protocol) for protocol in protocols]
    return [*variants, (REFINED, "targets")] if "targets" in protocols else variants


def _predict_layers(
    predictor: str,
    layers: Sequence[str | int],
    stacked: Array,
    match: Callable[[Array], LayerMatches],
    protocols: Sequence[str],
) -> Predictions:
    """Applies `match` to each layer of `stacked`."""
    # A loop on the device: the program of `match` is compiled once rather than once per layer.
    found = jax.lax.map(match, stacked)
    names = [
        Predictor(predictor + suffix, layer, protocol)
        for layer in layers
        for suffix, protocol in _variants(protocols)
    ]
    flat = lambda x: x.reshape(-1, *x.shape[2:])
    return Predictions(
        tuple(names), flat(found.tracks), flat(found.consistent), flat(found.concentration), found.scores
    )


def _match_attention(maps: Array, search: Search) -> LayerMatches:
    """Matches one layer by its attention maps (V, L, L)."""
    plain = [
        attention_predictor(maps, search.points, search.size, search.grid, protocol)
        for protocol in search.protocols
    ]
    return _refine_and_check(plain, maps, search)


def _match_features(features: Array, search: Search) -> LayerMatches:
    """Matches one layer by its features (V, h, w, d)."""
    plain = [
        feature_predictor(features, search.points, search.size, protocol) for protocol in search.protocols
    ]
    return _refine_and_check(plain, feature_maps(features, mutual=True), search)


def _refine_and_check(plain: list[Array], maps: Array, search: Search) -> LayerMatches:
    """Adds the refined prediction to the plain ones, one per protocol, and checks all for consistency."""
    points, size, grid = search.points, search.size, search.grid
    tracks, concentration, scores = plain, jnp.zeros(plain[0].shape[:-1]), None
    if "targets" in search.protocols:
        scores = match_scores(maps, points, size, grid, search.reference)
        refined, concentration = best_positions(scores, search.reference, size)
        tracks = [*plain, refined]
    tracks = [x.at[:, 0].set(points) for x in tracks]  # view 0 is where the points are given
    consistent = [is_cycle_consistent(maps, points, x, size, grid) for x in tracks]
    concentrations = jnp.stack([concentration] * len(tracks))
    return LayerMatches(jnp.stack(tracks), jnp.stack(consistent), concentrations, scores)
