"""Relative pose from frozen features: a linear function of the features of two views is fitted to it.

The features of each layer are averaged over CELLS x CELLS cells of a view. A ridge regression maps those of
the first view and of another view of its group to the pose of the other in the frame of the first: a
rotation matrix, which is projected to the closest rotation, and the direction of translation. It is fitted
to the groups of some scenes, and measured on the groups of the others. A network that attends across views
sees all views of a group.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt8
from ml_collections import ConfigDict

from muskie_jax.data.posed.views import Group, PosedSet, PosedViews
from muskie_jax.errors import UserError
from muskie_jax.evaluators.eval_models import EvalModel, EvalNetwork
from muskie_jax.evaluators.linear_probe import LinearProbe, fit_linear_probe
from muskie_jax.evaluators.posed_evaluator import (
    FeatureEvaluator,
    labels_of,
    require_finite,
    require_layers,
)
from muskie_jax.evaluators.predictions import measured_layers
from muskie_jax.evaluators.results import Labels, ResultRow, Setting
from muskie_jax.models.muskie import to_float
from muskie_jax.reconstruction.pose_metrics import (
    PoseErrors,
    pose_metrics,
    pose_metrics_by_group,
    relative_pose_errors,
)

CELLS = 4
MIN_PAIRS = 8  # to fit, and to measure
CONSTANT_PREFIX = "constant_"  # of the metrics of predicting the mean pose of the fitted pairs


class _Pairs(NamedTuple):
    """Pairs of the first and another view, of some groups.

    Attributes:
      features: cell means of both views, one row per pair.
      poses: pose of the other camera in the frame of the first.
      group: index of the group of each pair.
    """

    features: Float[np.ndarray, "N D"]
    poses: Float[np.ndarray, "N 4 4"]
    group: Int[np.ndarray, " N"]


class PoseProbeEvaluator(FeatureEvaluator):
    """Fits and measures the probe of every layer.

    The labels of a row are those of the setting, and `layer`. Its values are those of `pose_metrics`; the
    same with CONSTANT_PREFIX for the mean pose of the fitted pairs; `fit_error`, the mean squared error of
    fitted pairs when their group is left out, by which a layer can be chosen; and the counts `view_pairs`
    and `fitted_pairs`.

    Args:
      sets: posed datasets, by number of views per group.
      sizes: (height, width) of views, pixels.
      layers: layers to measure, from 1; empty for all.
    """

    name = "pose_probe"

    @classmethod
    def of(cls, evaluate: ConfigDict, sets: Mapping[int, Sequence[PosedSet]]) -> "PoseProbeEvaluator":
        """Returns the evaluator that `config.evaluate` specifies."""
        return cls(sets, evaluate.sizes, evaluate.layers)

    def evaluate(self, model: EvalModel, setting: Setting) -> Iterator[ResultRow]:
        """Yields a row per layer.

        Raises:
          UserError: if no measured layer exists, features are not finite, or there are too few pairs.
        """
        labels = labels_of(setting)
        each = self.sets[setting["views"], setting["dataset"]]
        fitted = fitted_groups(each.groups)
        pairs_of = lambda chosen: int(chosen.sum()) * (setting["views"] - 1)
        if min(pairs_of(fitted), pairs_of(~fitted)) < MIN_PAIRS:
            raise UserError(
                f"config.posed.{setting['dataset']} has {len(fitted)} groups of {setting['views']} views, "
                f"{pairs_of(fitted)} pairs to fit the pose probe and {pairs_of(~fitted)} to measure it: "
                f"use at least {MIN_PAIRS} each (config.posed.{setting['dataset']}.groups)"
            )
        compute = functools.partial(_pooled, network=model.network, layers=self.layers)
        size = setting["height"], setting["width"]
        pooled: dict[int, list[np.ndarray]] = {}
        poses = []
        for computed in self.run(compute, model.params, setting, size, lambda views: (views.images,)):
            poses.append(_relative_to_first(computed.views))
            for layer, features in computed.output:
                require_finite(np.isfinite(features).all(), model, computed.group.label)
                pooled.setdefault(int(layer), []).append(features)
        require_layers(pooled, self.layers, model)
        for layer, features in pooled.items():
            fit, measured = (_pairs(features, poses, chosen) for chosen in (fitted, ~fitted))
            yield _row(labels | {"layer": layer}, fit, measured)


def fitted_groups(groups: Sequence[Group]) -> Bool[np.ndarray, " groups"]:
    """Returns which groups the probe is fitted to: those of every other scene.

    The scene is the label without its last part, or all of a label without parts. If there is only one,
    the first half of its groups is fitted; both halves may then show the same places.
    """
    scenes = [group.label.rpartition("/")[0] or group.label for group in groups]
    order = list(dict.fromkeys(scenes))
    if len(order) == 1:
        return np.arange(len(groups)) < len(groups) // 2
    return np.array([order.index(scene) % 2 == 0 for scene in scenes])


def _pooled(
    params: Any, images: UInt8[Array, "B V H W 3"], *, network: EvalNetwork, layers: tuple[int, ...]
) -> list[tuple[Array, Float[Array, "B V D"]]]:
    """Returns the number and the cell means of each measured layer."""
    activations = network.activations(params, to_float(images))
    results = []
    for layer in measured_layers(activations, layers):
        x = activations.features[layer - 1].astype(jnp.float32)
        rows, columns = (_cell_means(side) for side in x.shape[2:4])
        cells = jnp.einsum("rh,cw,bvhwd->bvrcd", rows, columns, x, precision="highest")
        results.append((jnp.full(len(x), layer), cells.reshape(*x.shape[:2], -1)))
    return results


def _cell_means(side: int) -> Float[np.ndarray, "cells side"]:
    """Returns weights that average `side` patches over CELLS equal cells; patches may count in part."""
    edges = np.linspace(0, side, CELLS + 1)
    start, patch = edges[:-1, None], np.arange(side)
    covered = np.clip(np.minimum(edges[1:, None], patch + 1) - np.maximum(start, patch), 0, None)
    return (covered / covered.sum(1, keepdims=True)).astype(np.float32)


def _relative_to_first(views: PosedViews) -> Float[np.ndarray, "V-1 4 4"]:
    """Returns the poses of the other cameras in the frame of the first."""
    return views.world_to_camera[0] @ np.linalg.inv(views.world_to_camera[1:])


def _pairs(
    features: Sequence[Float[np.ndarray, "V D"]],
    poses: Sequence[Float[np.ndarray, "V-1 4 4"]],
    chosen: Bool[np.ndarray, " groups"],
) -> _Pairs:
    """Returns the pairs of the chosen groups, given cell means and poses of every group."""
    groups = np.flatnonzero(chosen).tolist()
    both = [
        np.concatenate([np.broadcast_to(features[i][:1], features[i][1:].shape), features[i][1:]], -1)
        for i in groups
    ]
    group = np.repeat(np.arange(len(groups)), [len(poses[i]) for i in groups])
    return _Pairs(np.concatenate(both), np.concatenate([poses[i] for i in groups]), group)


def _row(labels: Labels, fit: _Pairs, measured: _Pairs) -> ResultRow:
    probe: LinearProbe = fit_linear_probe(fit.features, _targets(fit.poses), fit.group)
    errors = _errors(probe(measured.features), measured.poses)
    constant = _errors(np.broadcast_to(probe.offset, (len(measured.poses), 12)), measured.poses)
    values = pose_metrics(errors)
    values |= {CONSTANT_PREFIX + name: value for name, value in pose_metrics(constant).items()}
    counts = {"view_pairs": float(len(measured.poses)), "fitted_pairs": float(len(fit.poses))}
    of_group = [measured.group == number for number in range(measured.group[-1] + 1)]
    by_group = pose_metrics_by_group([PoseErrors(*(x[chosen] for x in errors)) for chosen in of_group])
    return ResultRow(labels, values | {"fit_error": probe.error} | counts, by_group)


def _targets(poses: Float[np.ndarray, "N 4 4"]) -> Float[np.ndarray, "N 12"]:
    """Returns rotation matrices and directions of translation, the outputs of the probe."""
    offset = poses[:, :3, 3]
    length = np.linalg.norm(offset, axis=1, keepdims=True)
    direction = offset / np.where(length > 0, length, 1)
    return np.concatenate([poses[:, :3, :3].reshape(-1, 9), direction], 1)


def _errors(outputs: Float[np.ndarray, "N 12"], true: Float[np.ndarray, "N 4 4"]) -> PoseErrors:
    """Returns the errors of predicted outputs, pair by pair."""
    left, _, right = np.linalg.svd(outputs[:, :9].reshape(-1, 3, 3))
    signs = np.ones((len(outputs), 3))
    signs[:, 2] = np.sign(np.linalg.det(left @ right))
    predicted = np.tile(np.eye(4), (len(outputs), 1, 1))
    predicted[:, :3, :3] = (left * signs[:, None]) @ right
    predicted[:, :3, 3] = outputs[:, 9:]
    first = np.eye(4)[None]
    errors = [
        relative_pose_errors(np.concatenate([first, p[None]]), np.concatenate([first, t[None]]))
        for p, t in zip(predicted, true)
    ]
    return PoseErrors(*(np.concatenate(angles) for angles in zip(*errors)))
