"""Correspondence in recordings without depth: how near predictions are to epipolar lines."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from muskie_jax.correspondence.epipolar import (
    DISTANCES,
    draw_pixels,
    epipolar_distances,
    fundamental_matrices,
    has_baseline,
)
from muskie_jax.correspondence.scores import rotation_angles
from muskie_jax.data.posed.views import PosedViews
from muskie_jax.errors import UserError
from muskie_jax.evaluators.correspondence import (
    CorrespondenceEvaluator,
    DataSlice,
    GroupPredictions,
    features_figure,
    slices,
)
from muskie_jax.evaluators.eval_models import STILL, EvalModel
from muskie_jax.evaluators.posed_evaluator import labels_of, require_layers
from muskie_jax.evaluators.predictions import ALL, ATTENTION, FEATURE, REFINED, Predictor
from muskie_jax.evaluators.results import Figure, Labels, ResultRow, Setting
from muskie_jax.viz.epipolar import epipolar_picture

PROTOCOL = "targets"  # the conventions of predictions; the paper has no measure without depth


@dataclasses.dataclass(frozen=True)
class EpipolarTruth:
    """What is known of the points of a group without depth.

    Attributes:
      fundamental: see `fundamental_matrices`.
      counted: whether a (point, view) pair is scored. Visibility is unknown, so every point counts.
      angle: rotation of each view relative to the first view, in degrees.
      random: epipolar distances of random positions, pixels.
    """

    fundamental: Float[np.ndarray, "V 3 3"]
    counted: Bool[np.ndarray, "N V"]
    angle: Float[np.ndarray, " V"]
    random: Float[np.ndarray, "N V"]


class EpipolarEvaluator(CorrespondenceEvaluator):
    """Finds points of the first view in the other views, and measures their distance from epipolar lines.

    Points are drawn uniformly from the first view. Views taken from the first view's position are left out.
    Predictions are those of `CorrespondenceEvaluator`; its arguments are documented there. The values of a
    row are, in pixels or percent,

    - `epipolar_mean`: mean symmetric epipolar distance, see `epipolar_distances`;
    - `epipolar_1` to `epipolar_50`: percentages of pairs within 1 to 50 pixels of the line;
    - `random_mean` and `random_1` to `random_50`: the same for random positions in the image;
    - `pairs`: number of (point, view) pairs;
    - `left_out`: number of pairs whose view has the position of the first view.

    Args:
      sets: posed datasets without depth, by number of views per group.
      sizes, points, layers, pictures, **view_options: see `CorrespondenceEvaluator`.
    """

    name = "epipolar"

    def __init__(self, sets, sizes, points: int = 100, layers=(), pictures: int = 1, **view_options: int):
        super().__init__(sets, sizes, points, layers, (PROTOCOL,), pictures, **view_options)

    def evaluate(self, model: EvalModel, setting: Setting) -> Iterator[ResultRow | Figure]:
        """Yields a row per predictor and slice of the data, then the figures.

        Raises:
          UserError: if no measured layer exists, an activation is not finite, or all cameras of each group
            are at the same position.
        """
        labels = labels_of(setting)
        distances: dict[Predictor, dict[DataSlice, list[np.ndarray]]] = {}
        drawn: list[GroupPredictions] = []
        left_out, total = 0, 0
        for predicted in self._predict_groups(model, setting):
            group, predictions = predicted.group, predicted.predictions
            truth = group.truths[PROTOCOL]
            total += truth.counted.sum()
            left_out += (~truth.counted[:, 1:]).sum()
            measured = epipolar_distances(group.points, np.asarray(predictions.tracks), truth.fundamental)
            for predictor, each, consistent in zip(
                predictions.predictors, measured, np.asarray(predictions.consistent)
            ):
                by_slice = distances.setdefault(predictor, {})
                for part, chosen in slices(truth, consistent, PROTOCOL):
                    pairs = np.stack([each[chosen], truth.random[chosen]])
                    by_slice.setdefault(part, []).append(pairs)
            if len(drawn) < self.pictures:
                drawn.append(predicted._replace(features=[np.asarray(x) for x in predicted.features]))
        if not total:
            raise UserError(
                f"config.posed.{setting['dataset']}: all cameras of each group are at the same position, "
                "so there are no epipolar lines: use another select, or add depth"
            )
        require_layers(distances, self.layers, model)
        values = {
            predictor: {
                part: _values(np.concatenate(chunks, 1)) | {"left_out": float(left_out)}
                for part, chunks in by_slice.items()
                if sum(chunk.shape[1] for chunk in chunks)
            }
            for predictor, by_slice in distances.items()
        }
        for predictor, by_slice in values.items():
            for part, metrics in by_slice.items():
                yield ResultRow(labels | predictor._asdict() | part._asdict(), metrics)
        for predicted in drawn:
            yield from _figures(model.info.name, labels, predicted, values)

    def _draw_points(self, rng: np.random.Generator, views: PosedViews) -> Int[np.ndarray, "N 2"]:
        return draw_pixels(rng, views.images.shape[1:3], self.points)

    def _compute_truth(self, points: np.ndarray, views: PosedViews, protocol: str) -> EpipolarTruth:
        del protocol
        fundamental = fundamental_matrices(views)
        height, width = views.images.shape[1:3]
        shape = len(points), len(views.images)
        random = np.random.default_rng(0).uniform(-0.5, (width - 0.5, height - 0.5), (*shape, 2))
        return EpipolarTruth(
            fundamental,
            np.broadcast_to(has_baseline(views.world_to_camera), shape),
            rotation_angles(views.world_to_camera),
            epipolar_distances(points, random, fundamental),
        )


def _values(distances: Float[np.ndarray, "2 pairs"]) -> dict[str, float]:
    """Averages the distances of predictions and of random positions."""
    values = {}
    for name, each in zip(("epipolar", "random"), distances):
        values[f"{name}_mean"] = float(each.mean())
        values |= {f"{name}_{limit}": 100 * float((each <= limit).mean()) for limit in DISTANCES}
    return values | {"pairs": float(distances.shape[1])}


def _figures(
    name: str,
    labels: Labels,
    predicted: GroupPredictions,
    values: Mapping[Predictor, Mapping[DataSlice, Mapping[str, float]]],
) -> Iterator[Figure]:
    """Yields predictions of the predictor shown in tables, and features of the layer that matches best."""
    group, predictions, features = predicted
    plain = [p for p in predictions.predictors if not p.predictor.endswith(REFINED)]
    mean = lambda predictor: values[predictor][DataSlice(ALL, ALL)]["epipolar_mean"]
    by_feature = [p for p in plain if p.predictor == FEATURE]
    best_feature = min(by_feature, key=mean, default=None)
    attention = next((p for p in plain if p.predictor == ATTENTION and p.layer == ALL), None)
    shown = attention or best_feature or plain[0]
    truth = group.truths[PROTOCOL]
    tracks = np.asarray(predictions.tracks[predictions.predictors.index(shown)])
    picture = epipolar_picture(group.views.images, group.points, tracks, truth.fundamental, truth.counted)
    layer = "" if shown.layer == ALL else f" of layer {shown.layer}"
    where = (
        "if nothing moved" if shown.predictor == STILL else f"where its {shown.predictor}{layer} finds them"
    )
    caption = (
        f"{name}: epipolar lines of points of the first view, and the points {where} "
        f"({labels['dataset']}, {group.label})"
    )
    yield Figure("epipolar", labels | {"group": group.label} | shown._asdict(), caption, picture)
    if best_feature is not None:
        layers: list[Any] = [p.layer for p in by_feature]
        layer_features = features[layers.index(best_feature.layer)]
        yield features_figure(name, labels, group, best_feature.layer, layer_features)
