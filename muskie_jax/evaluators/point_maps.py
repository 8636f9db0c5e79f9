"""Cameras and point maps: how well a network with a decoder reconstructs the scenes of posed views."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jax import Array
from jaxtyping import Float, UInt8
from ml_collections import ConfigDict

from muskie_jax.checks import nearest_size
from muskie_jax.correspondence.tracks import back_project
from muskie_jax.data.posed.views import PosedSet, PosedViews
from muskie_jax.errors import UserError
from muskie_jax.evaluators.eval_models import MUSKIE, STILL, EvalModel, NoMotion, PointMapNetwork
from muskie_jax.evaluators.geometry_page import geometry_page
from muskie_jax.evaluators.posed_evaluator import Computed, PosedEvaluator, labels_of, require_finite
from muskie_jax.evaluators.results import Figure, Labels, ResultRow, Setting
from muskie_jax.models.muskie import to_float
from muskie_jax.models.reconstruction import ReconstructionOutput
from muskie_jax.reconstruction.even_choice import choose_evenly
from muskie_jax.reconstruction.point_metrics import MIN_POINTS, align, icp, point_metrics
from muskie_jax.reconstruction.pose_metrics import (
    PoseErrors,
    pose_metrics,
    pose_metrics_by_group,
    relative_pose_errors,
)
from muskie_jax.viz.depth import depth_sheet

ICP_PREFIX = "icp_"  # of the names of metrics after ICP


class GroupErrors(NamedTuple):
    """Errors of one group.

    Attributes:
      poses: errors of all pairs of views.
      points: see `point_metrics`; those after ICP have ICP_PREFIX. Empty if too few pixels have depth.
    """

    poses: PoseErrors
    points: dict[str, float]


class PointMapEvaluator(PosedEvaluator):
    """Compares predicted cameras and points with true ones.

    The values of a row are those of `pose_metrics`, over the pairs of views of all groups, and the means
    over groups of `point_metrics`, in metres. `view_pairs` and `point_groups` count what they are over.
    Sets without depth have cameras only. The trivial baseline is `NoMotion`.

    Args:
      sets, sizes: see `PosedEvaluator`. Views have the nearest size that is divisible into patches.
      points: maximum number of points of a group that are compared, at equal steps over the pixels with
        depth of all views; 0: all.
      icp: whether to measure points after ICP too.
      pictures: number of groups per set to draw.
    """

    name = "geometry"

    def __init__(
        self,
        sets: Mapping[int, Sequence[PosedSet]],
        sizes: Sequence[tuple[int, int]],
        points: int,
        icp: bool,
        pictures: int = 1,
    ):
        super().__init__(sets, sizes, {"points": points, "icp": icp, "pictures": pictures})
        self._points, self._icp, self._pictures = points, icp, pictures

    @classmethod
    def of(cls, evaluate: ConfigDict, sets: Mapping[int, Sequence[PosedSet]]) -> "PointMapEvaluator":
        """Returns the evaluator that `config.evaluate` specifies."""
        return cls(sets, evaluate.sizes, pictures=evaluate.pictures, **evaluate.geometry)

    def accepts(self, kind: str) -> bool:
        return kind in (MUSKIE, STILL)

    def evaluate(self, model: EvalModel, setting: Setting) -> Iterator[ResultRow | Figure]:
        """Yields one row, then the figures.

        Raises:
          UserError: if the network has no decoder, or predicts numbers that are not finite.
        """
        network = model.network
        if not isinstance(network, PointMapNetwork | NoMotion):
            raise UserError(
                f"{model.info.name} is a backbone without a decoder of cameras and point maps, which "
                "'geometry' evaluates: see docs/reconstruction.md, or leave 'geometry' out of "
                "config.evaluate.evaluators"
            )
        labels = labels_of(setting)
        pictures = 0 if model.info.kind == STILL else self._pictures
        size = nearest_size((setting["height"], setting["width"]), network.patch)
        compute = functools.partial(_reconstruct, network=network)
        errors: list[GroupErrors] = []
        figures: list[Figure] = []
        for computed in self.run(compute, model.params, setting, size, lambda views: (views.images,)):
            predicted = computed.output.points, computed.output.camera_to_world
            finite = all(np.isfinite(x).all() for x in predicted)
            require_finite(finite, model, computed.group.label, "points")
            errors.append(self._errors(computed.output, computed.views))
            if len(figures) < pictures and computed.views.valid.any():
                figures.append(_figure(model.info.name, labels, computed))
        yield _row(labels, errors)
        yield from figures

    def _errors(self, output: ReconstructionOutput, views: PosedViews) -> GroupErrors:
        camera_to_world = np.linalg.inv(views.world_to_camera)
        poses = relative_pose_errors(np.asarray(output.camera_to_world), camera_to_world)
        chosen = choose_evenly(views.valid & (views.depth > 0), self._points)
        if chosen.sum() < MIN_POINTS:
            return GroupErrors(poses, {})
        predicted = np.asarray(output.points)[chosen].astype(np.float64)
        true = true_points(views)[chosen]
        aligned = align(predicted, true)
        metrics = point_metrics(aligned, true)
        if self._icp:
            refined = point_metrics(icp(aligned, true).apply(aligned), true)
            metrics |= {ICP_PREFIX + name: value for name, value in refined.items()}
        return GroupErrors(poses, metrics)


def _reconstruct(
    params: Any, images: UInt8[Array, "B V H W 3"], *, network: PointMapNetwork | NoMotion
) -> ReconstructionOutput:
    return network.reconstruct(params, to_float(images))


def true_points(views: PosedViews) -> Float[np.ndarray, "V H W 3"]:
    """Returns the point that each pixel shows in the world frame; the camera's centre without depth."""
    height, width = views.depth.shape[1:]
    rows, columns = np.indices((height, width)) + 0.5
    positions = np.broadcast_to(np.stack([columns, rows], -1), (*views.depth.shape, 2))
    local = back_project(positions, views.depth.astype(np.float64), views.intrinsics[:, None, None])
    to_world = np.linalg.inv(views.world_to_camera)
    return np.einsum("vij,vhwj->vhwi", to_world[:, :3, :3], local) + to_world[:, None, None, :3, 3]


def _row(labels: Labels, errors: Sequence[GroupErrors]) -> ResultRow:
    pairs = PoseErrors(*(np.concatenate(angles) for angles in zip(*(each.poses for each in errors))))
    values = pose_metrics(pairs) | {"view_pairs": float(len(pairs.rotation))}
    with_points = [each.points for each in errors if each.points]
    names = list(with_points[0]) if with_points else []
    values |= {name: float(np.mean([each[name] for each in with_points])) for name in names}
    values["point_groups"] = float(len(with_points))
    by_group: dict[str, Sequence[float | None]] = dict(
        pose_metrics_by_group([each.poses for each in errors])
    )
    by_group |= {name: [each.points.get(name) for each in errors] for name in names}
    return ResultRow(labels, values, by_group)


def _figure(name: str, labels: Labels, computed: Computed) -> Figure:
    """Draws the views with their predicted and true depth, in one range of colours.

    Its page has the points in 3D.
    """
    views, label = computed.views, computed.group.label
    predicted = np.asarray(computed.output.local_points)[..., 2]
    known = views.valid & (views.depth > 0)
    return Figure(
        "geometry",
        labels | {"group": label},
        f"{name}: depth of each view, predicted and true ({labels['dataset']}, {label})",
        depth_sheet(views.images[None], predicted[None], views.depth[None], known[None]),
        geometry_page(f"{name}: {labels['dataset']}, {label}", computed, true_points(views)),
    )
