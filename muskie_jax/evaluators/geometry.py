"""Losses of point maps and cameras on held-out scenes, during training of the task "reconstruct"."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Bool, Float32, UInt8
from ml_collections import ConfigDict

from muskie_jax.data.mixture import Mixture
from muskie_jax.evaluators.held_out import HeldOutEvaluator
from muskie_jax.metrics import Mean
from muskie_jax.reconstruction.losses import reconstruction_losses
from muskie_jax.reconstruction.task import TERMS, ReconstructTask
from muskie_jax.viz.depth import depth_sheet


class DepthParts(NamedTuple):
    """Arrays of a batch's first groups, for `depth_sheet`."""

    images: UInt8[Array, "G V H W 3"]
    predicted: Float32[Array, "G V H W"]
    true: Float32[Array, "G V H W"]
    valid: Bool[Array, "G V H W"]


class GeometryEvaluator(HeldOutEvaluator):
    """Predicts point maps and cameras of held-out scenes.

    Args:
      config: config of the run.
      task: the network and its loss.
      mixture, mesh: see `HeldOutEvaluator`.
    """

    measures = ("loss", *TERMS)
    error = "loss"
    by_source = ("loss", "points", "translation", "rotation")

    def __init__(self, config: ConfigDict, task: ReconstructTask, mixture: Mixture, mesh: Mesh):
        self.task, self.pictures = task, config.evaluation.pictures
        self._parts: DepthParts | None = None
        super().__init__(config, mixture, mesh)

    def _measure_batch(self, params: Any, batch: dict[str, Array]) -> tuple[dict[str, Mean], DepthParts]:
        output, targets = self.task.predict(params, batch)
        losses = reconstruction_losses(output, targets)
        metrics = self.task.metrics(losses.total, (losses, targets.valid.sum()), batch)
        first = slice(self.pictures)
        parts = DepthParts(
            batch["images"][first],
            output.local_points[first, ..., 2],
            targets.local_points[first, ..., 2],
            targets.valid[first],
        )
        return metrics, parts

    def _keep(self, parts: DepthParts) -> None:
        self._parts = parts

    def describe(self, values: Mapping[str, float]) -> str:
        """Returns the losses as text."""
        degrees = math.degrees(values["rotation"])
        return (
            f"loss {values['loss']:.4f}, points {values['points']:.4f}, "
            f"translation {values['translation']:.4f}, rotation {degrees:.1f} degrees"
        )

    def figures(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the figure `depth` of the latest run: views, their predicted and their true depth."""
        if self.pictures and self._parts:
            yield "depth", depth_sheet(*jax.device_get(self._parts))
