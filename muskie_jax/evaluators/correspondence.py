"""Correspondence: how well a network finds points of one view in the other views of a posed scene."""

import functools
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float, Int

from muskie_jax.correspondence.scores import Scores, compute_errors, compute_truth
from muskie_jax.correspondence.tracks import draw_points
from muskie_jax.data.posed.views import PosedSet, PosedViews
from muskie_jax.errors import UserError
from muskie_jax.evaluators.eval_models import STILL, EvalModel
from muskie_jax.evaluators.loading import load_in_order
from muskie_jax.evaluators.posed_evaluator import (
    PosedEvaluator,
    labels_of,
    require_finite,
    require_layers,
)
from muskie_jax.evaluators.predictions import (
    ALL,
    ATTENTION,
    FEATURE,
    REFINED,
    Predictions,
    Predictor,
    predict,
)
from muskie_jax.evaluators.results import Figure, Labels, ResultRow, Setting
from muskie_jax.viz.features import pca_colours
from muskie_jax.viz.tracks import track_picture
from muskie_jax.viz.view_sheet import view_sheet

# Metrics that are also reported per group: of all pairs, and of parts of them.
GROUP_METRICS = ("px_ate", "px_5", "px_10", "cm_ate", "cm_2", "cm_5")
PART_METRICS = ("px_ate", "px_10")
ANGLE_EDGES = (0, 10, 20, 30, 45, 60, 90, 180)  # degrees of rotation between two views
# Groups are kept in memory, since every model is evaluated on the same ones: 2 GB at 8 views of 512 x 512.
CACHED_GROUPS = 128


class QueryGroup(NamedTuple):
    """A group of views, the points to find, and what is known of their positions under each protocol.

    That is a `Truth`, or an `EpipolarTruth` without depth.
    """

    label: str
    views: PosedViews
    points: Int[np.ndarray, "N 2"]
    truths: Mapping[str, Any]


class PairErrors(NamedTuple):
    """Errors of one predictor on the pairs of N points and V views of a group.

    Attributes:
      predictor: the predictor that made the errors.
      pixels: distances in the image.
      metres: distances between surface points; NaN where the truth has no depth.
      consistent: whether the prediction is cycle consistent.
    """

    predictor: Predictor
    pixels: Float[np.ndarray, "N V"]
    metres: Float[np.ndarray, "N V"]
    consistent: Bool[np.ndarray, "N V"]


class DataSlice(NamedTuple):
    """A subset of the pairs of points and views, as the labels of its row."""

    angle: str
    points: str


Values = Mapping[Predictor, Mapping[DataSlice, Mapping[str, float]]]


class GroupPredictions(NamedTuple):
    """A group, a model's predictions for it (numpy), and the features of its measured layers."""

    group: QueryGroup
    predictions: Predictions
    features: list[Any]


class CorrespondenceEvaluator(PosedEvaluator):
    """Finds points of the first view of every group in the other views.

    Attention is used where a network attends across views; features are matched by nearest neighbour in
    every layer. Under protocol "targets" both are also refined (see `muskie_jax.correspondence`).

    Args:
      sets: posed datasets with depth, by number of views per group.
      sizes: (height, width) of views, pixels.
      points: maximum number of points per group; they depend only on the group.
      layers: layers to measure, from 1; empty for all.
      protocols: see `muskie_jax.correspondence.scores`.
      pictures: number of groups per set to draw.
      enlarge: factor by which views are enlarged for the network.
      orientations: number of angles of the first view at which refined predictors search.
    """

    name = "correspondence"
    reporting_keys: tuple[str, ...] = ("layers", "protocols", "pictures")

    def __init__(
        self,
        sets: Mapping[int, Sequence[PosedSet]],
        sizes: Sequence[tuple[int, int]],
        points: int = 100,
        layers: Sequence[int] = (),
        protocols: Sequence[str] = ("targets", "published"),
        pictures: int = 1,
        enlarge: int = 1,
        orientations: int = 1,
    ):
        self.points, self.layers = points, tuple(layers)
        self.protocols, self.pictures = tuple(protocols), pictures
        self.view_options = {"enlarge": enlarge, "orientations": orientations}
        options = {
            "points": points,
            "layers": list(layers),
            "protocols": list(protocols),
            "pictures": pictures,
            **{name: value for name, value in self.view_options.items() if value != 1},
        }
        super().__init__(sets, sizes, options)
        self._load_group = functools.lru_cache(CACHED_GROUPS)(self._load_uncached)

    def accepts(self, kind: str) -> bool:
        del kind
        return True

    def evaluate(self, model: EvalModel, setting: Setting) -> Iterator[ResultRow | Figure]:
        """Yields a row per predictor and slice of the data, then the figures.

        Slices are all pairs of a point and a view, pairs within a range of rotation between the views, and
        pairs whose prediction is cycle consistent.

        Raises:
          UserError: if no measured layer exists, an activation is not finite, or a group has no depth.
        """
        labels = labels_of(setting)
        scores: dict[Predictor, dict[DataSlice, Scores]] = {}
        drawn: list[GroupPredictions] = []
        for predicted in self._predict_groups(model, setting):
            for errors in pair_errors(predicted.predictions, predicted.group):
                truth = predicted.group.truths[errors.predictor.protocol]
                by_slice = scores.setdefault(errors.predictor, {})
                for part, chosen in slices(truth, errors.consistent, errors.predictor.protocol):
                    by_slice.setdefault(part, Scores()).add(errors.pixels[chosen], errors.metres[chosen])
            if len(drawn) < self.pictures:
                drawn.append(predicted._replace(features=[np.asarray(x) for x in predicted.features]))
        require_layers(scores, self.layers, model)
        values = {
            predictor: {part: each.values() for part, each in by_slice.items() if each.pairs}
            for predictor, by_slice in scores.items()
        }
        for predictor, by_slice in values.items():
            for part, metrics in by_slice.items():
                names = GROUP_METRICS if part == DataSlice(ALL, ALL) else PART_METRICS
                by_group = scores[predictor][part].by_group(names)
                yield ResultRow(labels | predictor._asdict() | part._asdict(), metrics, by_group)
        for predicted in drawn:
            yield from _figures(model.info.name, labels, predicted, values)

    def _predict_groups(self, model: EvalModel, setting: Setting) -> Iterator[GroupPredictions]:
        """Yields a model's predictions group by group; runs one group per device at a time."""
        name, views, size = setting["dataset"], setting["views"], (setting["height"], setting["width"])
        each, batch = self.sets[views, name], self.mesh.size
        params = jax.device_put(model.params, jax.NamedSharding(self.mesh, P()))
        load = functools.partial(self._load_group, name, views, size)
        groups = load_in_order(load, range(len(each.groups)), each.parallel, ahead=batch)
        while loaded := list(itertools.islice(groups, batch)):
            padded = loaded + loaded[:1] * (batch - len(loaded))
            output = predict(
                params,
                np.stack([group.views.images for group in padded]),
                np.stack([_pad(group.points, self.points) for group in padded]),
                network=model.network,
                size=size,
                layers=self.layers,
                protocols=self.protocols,
                **self.view_options,
                mesh=self.mesh,
            )
            predictions, finite = jax.device_get((output.predictions, output.finite))
            for number, group in enumerate(loaded):
                require_finite(finite[number], model, group.label)
                known = len(group.points)
                mine = predictions.replace(
                    tracks=predictions.tracks[number, :, :known].astype(np.float64),
                    consistent=predictions.consistent[number, :, :known],
                )
                yield GroupPredictions(group, mine, [x[number] for x in output.features])

    def _load_uncached(self, name: str, views: int, size: tuple[int, int], number: int) -> QueryGroup:
        each = self.sets[views, name]
        group, loaded = each.groups[number], each.load(number, size)
        label = group.label
        seed = hashlib.sha256((group.seed or f"{name}/{label}").encode()).digest()[:8]
        rng = np.random.default_rng(int.from_bytes(seed, "little"))
        points = self._draw_points(rng, loaded)
        if not len(points):
            raise UserError(f"config.posed.{name}: the first view of {label} has no depth")
        truths = {protocol: self._compute_truth(points, loaded, protocol) for protocol in self.protocols}
        return QueryGroup(label, loaded, points, truths)

    # What differs where depth is unknown, see `EpipolarEvaluator`.

    def _draw_points(self, rng: np.random.Generator, views: PosedViews) -> Int[np.ndarray, "N 2"]:
        return draw_points(rng, views.valid[0], self.points)

    def _compute_truth(self, points: Int[np.ndarray, "N 2"], views: PosedViews, protocol: str) -> Any:
        return compute_truth(points, views, protocol)


def pair_errors(predictions: Predictions, group: QueryGroup) -> Iterator[PairErrors]:
    """Yields the errors of every predictor (numpy arrays); see `compute_errors`."""
    for protocol, truth in group.truths.items():
        chosen = [i for i, each in enumerate(predictions.predictors) if each.protocol == protocol]
        if not chosen:
            continue
        tracks = np.asarray(predictions.tracks)[chosen]
        errors = zip(chosen, *compute_errors(tracks, truth, group.views, protocol))
        for number, pixels, metres in errors:
            consistent = np.asarray(predictions.consistent[number])
            yield PairErrors(predictions.predictors[number], pixels, metres, consistent)


def _pad(points: np.ndarray, count: int) -> np.ndarray:
    """Repeats points (n, 2) to (count, 2)."""
    return np.resize(points, (count, 2))


def slices(truth: Any, consistent: np.ndarray, protocol: str) -> Iterator[tuple[DataSlice, np.ndarray]]:
    """Yields slices of the counted pairs, bool (N, V), given a truth with `counted` and `angle`."""
    yield DataSlice(ALL, ALL), truth.counted
    if protocol == "published":
        return
    yield DataSlice(ALL, "cycle"), truth.counted & consistent
    for low, high in itertools.pairwise(ANGLE_EDGES):
        within = (truth.angle >= low) & ((truth.angle < high) | (high == ANGLE_EDGES[-1]))
        yield DataSlice(f"{low}-{high}", ALL), truth.counted & within


def _figures(name: str, labels: Labels, predicted: GroupPredictions, values: Values) -> Iterator[Figure]:
    """Yields tracks of the predictor shown in tables, and features of the layer that matches best."""
    group, predictions, features = predicted
    protocol = "targets" if any(p.protocol == "targets" for p in predictions.predictors) else "published"
    plain = [
        p for p in predictions.predictors if p.protocol == protocol and not p.predictor.endswith(REFINED)
    ]

    def mean_error(predictor: Predictor) -> float:
        """Infinite if no group has a visible point."""
        return values[predictor].get(DataSlice(ALL, ALL), {}).get("px_ate", np.inf)

    by_feature = [p for p in plain if p.predictor == FEATURE]
    best_feature = min(by_feature, key=mean_error, default=None)
    attention = next((p for p in plain if p.predictor == ATTENTION and p.layer == ALL), None)
    shown = attention or best_feature or plain[0]
    yield _tracks_figure(name, labels, group, shown, predictions)
    if best_feature is not None:
        layers = [p.layer for p in by_feature]
        layer_features = features[layers.index(best_feature.layer)]
        yield features_figure(name, labels, group, best_feature.layer, layer_features)


def _tracks_figure(
    name: str, labels: Labels, group: QueryGroup, shown: Predictor, predictions: Predictions
) -> Figure:
    truth = group.truths[shown.protocol]
    tracks = np.asarray(predictions.tracks[predictions.predictors.index(shown)])
    picture = track_picture(group.views.images, group.points, truth.tracks, tracks, truth.counted)
    layer = "" if shown.layer == ALL else f" of layer {shown.layer}"
    positions = f"where its {shown.predictor}{layer} finds them"
    if shown.predictor == STILL:
        positions = "where they would be if nothing moved"
    caption = f"{name}: points of the first view and {positions} ({labels['dataset']}, {group.label})"
    return Figure("tracks", labels | {"group": group.label} | shown._asdict(), caption, picture)


def features_figure(
    name: str, labels: Labels, group: QueryGroup, layer: str | int, features: np.ndarray
) -> Figure:
    views, *grid, channels = features.shape
    colours = pca_colours(features.reshape(views, -1, channels), tuple(grid), 1)
    images = group.views.images
    rows, columns = (np.arange(side) * count // side for side, count in zip(images.shape[1:3], grid))
    sheet = view_sheet({"views": images[None], "features": colours[None][:, :, rows][:, :, :, columns]})
    caption = (
        f"{name}: features of layer {layer}, one palette for all views ({labels['dataset']}, {group.label})"
    )
    return Figure("features", labels | {"group": group.label, "layer": layer}, caption, sheet)
