"""Predicts where points of one view lie in the other views, from the activations of a network.

Letters in shapes: B groups, V views, N points, P predictors, K variants of a predictor; L = h x w patches
of a view, d channels.
"""

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

from muskie_jax.correspondence.orientation import angles, choose_orientations, turn_image, turn_points
from muskie_jax.correspondence.predictors import attention_predictor, feature_predictor, symmetric_maps
from muskie_jax.correspondence.refinement import feature_maps, is_cycle_consistent, refined_matches
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
      concentration: how distinct the refined prediction of the same layer is, see `refined_matches`; 0
        under other protocols than "targets".
    """

    predictors: tuple[Predictor, ...] = struct.field(pytree_node=False)
    tracks: Float[Array, "P N V 2"]
    consistent: Bool[Array, "P N V"]
    concentration: Float[Array, "P N V"]


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
      orientations: number of angles at which refined predictors search; see `_best_orientations`.
      mesh: groups are split over its axis `data`.
    """

    def one_group(params, images, points):
        views, positions = _enlarged(to_float(images), enlarge), points[0].astype(jnp.float32)

        def find(views, positions):
            batched = network.activations(params, views)
            activations = Activations(*(tuple(x[0] for x in part) for part in batched))
            predictions = predict_from_activations(
                activations, positions, size, len(images[0]), layers, protocols
            )
            features = [activations.features[layer - 1] for layer in measured_layers(activations, layers)]
            finite = jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(activations)], bool).all()
            return GroupOutput(predictions, features, finite)

        def find_turned(angle):
            turned, inside = turn_points(positions, angle, size)
            return find(views.at[0, 0].set(turn_image(views[0, 0], angle)), turned), inside

        if orientations == 1:
            output = find(views, positions)
        else:
            outputs, inside = jax.lax.map(find_turned, angles(orientations))
            output = jax.tree.map(lambda x: x[0], outputs)  # upright
            predictions = _best_orientations(outputs.predictions, inside, positions)
            output = output._replace(predictions=predictions, finite=outputs.finite.all())
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


def _best_orientations(
    predictions: Predictions, inside: Bool[Array, "K N"], points: Float[Array, "N 2"]
) -> Predictions:
    """Returns refined predictions at the best of several angles of the first view, and others at the first.

    Args:
      predictions: predictions at every angle, with a leading axis K.
      inside: whether each point was in the frame of the turned view.
      points: the points, in the upright view.
    """

    def choose(number: int, name: Predictor) -> tuple[Array, Array, Array]:
        at_angles = predictions.tracks, predictions.consistent, predictions.concentration
        tracks, consistent, concentration = (x[:, number] for x in at_angles)
        if not name.predictor.endswith(REFINED):
            return tracks[0], consistent[0], concentration[0]
        chosen = choose_orientations(concentration, inside)[None]
        pick = lambda x: jnp.take_along_axis(x, chosen, 0)[0]
        tracks = jnp.stack([pick(tracks[..., axis]) for axis in (0, 1)], -1)
        # View 0 is where the points are given.
        return tracks.at[:, 0].set(points), pick(consistent), pick(concentration)

    if not predictions.predictors:
        return jax.tree.map(lambda x: x[0], predictions)
    chosen = [choose(*each) for each in enumerate(predictions.predictors)]
    return Predictions(predictions.predictors, *(jnp.stack(part) for part in zip(*chosen)))


def measured_layers(activations: Activations, layers: Sequence[int]) -> list[int]:
    """Returns the layers to measure, from 1: `layers` that the network has, or all its layers if empty."""
    return [n for n in range(1, len(activations.features) + 1) if not layers or n in layers]


def predict_from_activations(
    activations: Activations,
    points: Float[Array, "N 2"],
    size: tuple[int, int],
    views: int,
    layers: tuple[int, ...],
    protocols: tuple[str, ...],
) -> Predictions:
    """Returns all predictions for one group; the activations have no axis of groups.

    A network without features predicts that nothing moves. Otherwise features are matched in every measured
    layer. If the network attends across views, its attention is matched too: in every measured layer, and
    averaged over all layers. For other arguments see `predict`.
    """
    if not activations.features:
        return _predict_no_motion(points, views, protocols)
    layers_measured = measured_layers(activations, layers)
    if not layers_measured:
        empty = jnp.zeros((0, len(points), views))
        return Predictions((), jnp.zeros((*empty.shape, 2)), empty.astype(bool), empty)
    rows, columns = activations.features[0].shape[1:3]
    grid = (rows, columns)
    parts = []
    if activations.to_others:
        maps = [symmetric_maps(*pair) for pair in zip(activations.to_others, activations.to_first)]
        stacked = jnp.stack([sum(maps) / len(maps), *(maps[layer - 1] for layer in layers_measured)])
        match = functools.partial(
            _match_attention, points=points, size=size, grid=grid, protocols=protocols
        )
        parts.append(_predict_layers(ATTENTION, [ALL, *layers_measured], stacked, match, protocols))
    stacked = jnp.stack([activations.features[layer - 1] for layer in layers_measured])
    match = functools.partial(_match_features, points=points, size=size, grid=grid, protocols=protocols)
    parts.append(_predict_layers(FEATURE, layers_measured, stacked, match, protocols))
    return Predictions(
        tuple(predictor for part in parts for predictor in part.predictors),
        jnp.concatenate([part.tracks for part in parts]),
        jnp.concatenate([part.consistent for part in parts]),
        jnp.concatenate([part.concentration for part in parts]),
    )


def _predict_no_motion(points: Array, views: int, protocols: tuple[str, ...]) -> Predictions:
    tracks = jnp.broadcast_to(points[:, None], (len(protocols), len(points), views, 2))
    predictors = tuple(Predictor(STILL, ALL, protocol) for protocol in protocols)
    shape = tracks.shape[:-1]
    return Predictions(predictors, tracks, jnp.ones(shape, bool), jnp.ones(shape))


def _variants(protocols: Sequence[str]) -> list[tuple[str, str]]:
    """Returns (suffix, protocol) for each prediction of one layer, in the order of the axis K."""
    variants = [("", protocol) for protocol in protocols]
    return [*variants, (REFINED, "targets")] if "targets" in protocols else variants


def _predict_layers(
    predictor: str,
    layers: Sequence[str | int],
    stacked: Array,
    match: Callable[[Array], tuple[Array, Array, Array]],
    protocols: Sequence[str],
) -> Predictions:
    """Applies `match` to each layer; it returns what `_refine_and_check` does."""
    # A loop on the device: the program of `match` is compiled once rather than once per layer.
    tracks, consistent, concentration = jax.lax.map(match, stacked)
    names = [
        Predictor(predictor + suffix, layer, protocol)
        for layer in layers
        for suffix, protocol in _variants(protocols)
    ]
    return Predictions(
        tuple(names),
        tracks.reshape(-1, *tracks.shape[2:]),
        consistent.reshape(-1, *consistent.shape[2:]),
        concentration.reshape(-1, *concentration.shape[2:]),
    )


def _match_attention(
    maps: Array, *, points: Array, size: tuple[int, int], grid: tuple[int, int], protocols: Sequence[str]
) -> tuple[Array, Array, Array]:
    """Matches one layer by its attention maps (V, L, L); see `_refine_and_check`."""
    plain = [attention_predictor(maps, points, size, grid, protocol) for protocol in protocols]
    return _refine_and_check(plain, maps, points, size, grid, protocols)


def _match_features(
    features: Array,
    *,
    points: Array,
    size: tuple[int, int],
    grid: tuple[int, int],
    protocols: Sequence[str],
) -> tuple[Array, Array, Array]:
    """Matches one layer by its features (V, h, w, d); see `_refine_and_check`."""
    plain = [feature_predictor(features, points, size, protocol) for protocol in protocols]
    return _refine_and_check(plain, feature_maps(features), points, size, grid, protocols)


def _refine_and_check(
    plain: list[Array],
    maps: Array,
    points: Array,
    size: tuple[int, int],
    grid: tuple[int, int],
    protocols: Sequence[str],
) -> tuple[Array, Array, Array]:
    """Adds the refined prediction to the plain ones, one per protocol, and checks all for consistency.

    Returns:
      Tracks (variants, N, V, 2), their consistency and their concentration, both (variants, N, V).
    """
    tracks, concentration = plain, jnp.zeros(plain[0].shape[:-1])
    if "targets" in protocols:
        refined, concentration = refined_matches(maps, points, size, grid)
        tracks = [*plain, refined]
    tracks = [x.at[:, 0].set(points) for x in tracks]  # view 0 is where the points are given
    consistent = [is_cycle_consistent(maps, points, x, size, grid) for x in tracks]
    return jnp.stack(tracks), jnp.stack(consistent), jnp.stack([concentration] * len(tracks))
