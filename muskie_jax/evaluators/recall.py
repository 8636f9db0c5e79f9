"""Recall of correspondence from frozen features, comparable with published figures of other backbones."""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int, UInt8
from ml_collections import ConfigDict

from muskie_jax.correspondence.recall import (
    PROTOCOLS,
    Errors,
    grid_points,
    grid_size,
    known_points,
    match_errors,
    match_grids,
    recall_metrics,
)
from muskie_jax.correspondence.scores import rotation_angles
from muskie_jax.data.posed.views import PosedSet
from muskie_jax.errors import UserError
from muskie_jax.evaluators.eval_models import EvalModel, EvalNetwork
from muskie_jax.evaluators.posed_evaluator import (
    FeatureEvaluator,
    labels_of,
    require_finite,
    require_layers,
)
from muskie_jax.evaluators.predictions import ALL, measured_layers
from muskie_jax.evaluators.results import Labels, ResultRow, Setting
from muskie_jax.models.muskie import to_float

Pair = tuple[float, Errors]  # angle between two views, degrees, and the errors of their matches


class RecallEvaluator(FeatureEvaluator):
    """Matches features of the first view of every group to those of its other views.

    `muskie_jax.correspondence.recall` describes the protocol. The labels of a row are those of the setting,
    `layer` and `angle`, "all" or a range in degrees. Its values are those of `recall_metrics`, means over
    pairs of views, and `view_pairs`, the number of pairs.

    Args:
      sets: posed datasets with depth, by number of views per group.
      sizes: (height, width) of views, pixels.
      layers: layers to measure, from 1; empty for all.
      protocol: a key of PROTOCOLS.
    """

    name = "recall"

    def __init__(
        self,
        sets: Mapping[int, Sequence[PosedSet]],
        sizes: Sequence[tuple[int, int]],
        layers: Sequence[int] = (),
        protocol: str = "navi",
    ):
        super().__init__(sets, sizes, layers, {"protocol": protocol})
        self.protocol = protocol

    @classmethod
    def of(cls, evaluate: ConfigDict, sets: Mapping[int, Sequence[PosedSet]]) -> "RecallEvaluator":
        """Returns the evaluator that `config.evaluate` specifies, on sets with depth.

        Raises:
          UserError: if no set has depth.
        """
        with_depth = {views: [each for each in some if each.has_depth] for views, some in sets.items()}
        if not any(with_depth.values()):
            names = ", ".join(dict.fromkeys(each.name for some in sets.values() for each in some))
            raise UserError(f"'recall' needs views with depth, and config.posed has none: {names}")
        return cls(with_depth, evaluate.sizes, evaluate.layers, evaluate.recall.protocol)

    def evaluate(self, model: EvalModel, setting: Setting) -> Iterator[ResultRow]:
        """Yields a row per layer and range of angles.

        Raises:
          UserError: if no measured layer exists, features are not finite, or no point has a match.
        """
        labels = labels_of(setting)
        size = setting["height"], setting["width"]
        compute = functools.partial(
            _matches,
            network=model.network,
            layers=self.layers,
            grid=grid_size(size),
            protocol=self.protocol,
        )
        inputs = lambda views: (views.images, known_points(views))
        by_layer: dict[int, list[list[Pair]]] = {}  # pairs of every group
        for computed in self.run(compute, model.params, setting, size, inputs):
            views, points = computed.views, grid_points(computed.views, self.protocol)
            angles = rotation_angles(views.world_to_camera)
            for layer, index, clear, finite in computed.output:
                require_finite(finite, model, computed.group.label)
                pairs: list[Pair] = []
                for other in range(1, len(views.images)):
                    errors = match_errors(index[other - 1], clear[other - 1], points, views, other)
                    if len(errors.metres):
                        pairs.append((float(angles[other]), errors))
                by_layer.setdefault(int(layer), []).append(pairs)
        require_layers(by_layer, self.layers, model)
        for layer, groups in by_layer.items():
            if not any(groups):
                raise UserError(
                    f"config.posed.{setting['dataset']}: no two views of a group have depth on the grid "
                    "of points: use larger config.evaluate.sizes"
                )
            for low, high in [(0, 360), *itertools.pairwise(PROTOCOLS[self.protocol].angles)]:
                angle = ALL if high == 360 else f"{low}-{high}"
                within = [[errors for at, errors in pairs if low <= at < high] for pairs in groups]
                if any(within):
                    yield _row(labels | {"layer": layer, "angle": angle}, within)


def _matches(
    params: Any,
    images: UInt8[Array, "B V H W 3"],
    known: Bool[Array, "B V N"],
    *,
    network: EvalNetwork,
    layers: tuple[int, ...],
    grid: tuple[int, int],
    protocol: str,
) -> list[tuple[Int[Array, " B"], Int[Array, "B V-1 N"], Float[Array, "B V-1 N"], Bool[Array, " B"]]]:
    """Returns, for each measured layer, its number, its matches, and whether its features are finite."""
    activations = network.activations(params, to_float(images))
    results = []
    for layer in measured_layers(activations, layers):
        features = activations.features[layer - 1]
        # One group per device, see `PosedEvaluator.run`.
        index, clear = match_grids(features[0], known[0], grid, protocol)
        results.append((jnp.array([layer]), index[None], clear[None], jnp.isfinite(features).all()[None]))
    return results


def _row(labels: Labels, groups: Sequence[Sequence[Errors]]) -> ResultRow:
    """Averages over pairs of views, each of which has the same weight, as published."""
    by_pair = [[recall_metrics(errors) for errors in pairs] for pairs in groups]
    flat = [metrics for pairs in by_pair for metrics in pairs]
    values = {name: float(np.mean([each[name] for each in flat])) for name in flat[0]}
    by_group: dict[str, Sequence[float | None]] = {
        name: [float(np.mean([each[name] for each in pairs])) if pairs else None for pairs in by_pair]
        for name in values
    }
    counts = [float(len(pairs)) for pairs in by_pair]
    by_group |= {"pairs": counts, "cm_pairs": counts}
    return ResultRow(labels, values | {"view_pairs": float(len(flat))}, by_group)
