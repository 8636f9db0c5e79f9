"""Reconstruction error of masked patches on held-out scenes, with the error of a trivial baseline."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from muskie_jax.data.mixture import Mixture
from muskie_jax.evaluators.held_out import HeldOutEvaluator
from muskie_jax.losses import normalize_patches, total_loss
from muskie_jax.metrics import Mean
from muskie_jax.models.muskie import CHANNELS, patchify, unpatchify
from muskie_jax.train_step import Pretraining, reconstruct
from muskie_jax.viz.reconstruction import reconstruction_sheet


def visible_mean_error(
    images: Float[Array, "B V H W 3"], mask: Bool[Array, "B V L"], patch: int
) -> Float[Array, "B V L"]:
    """Returns the mean squared error of filling each hidden patch with its view's visible mean colour.

    A view without visible patches is filled with the visible mean of its group. A group without visible
    patches is filled with mid-grey.

    Args:
      images: pixels in [-1, 1].
      mask: True = hidden.
      patch: side of a patch, pixels.

    Returns:
      Errors, float32; zero for visible patches.
    """
    patches = patchify(images, patch).reshape(*mask.shape, CHANNELS, patch**2)
    visible = (~mask).astype(jnp.float32)[..., None]
    sums = (patches.mean(-1) * visible).sum(2)  # (B, V, C)
    counts = visible.sum(2)  # (B, V, 1)
    group = sums.sum(1, keepdims=True) / jnp.maximum(counts.sum(1, keepdims=True), 1.0)
    fill = jnp.where(counts > 0, sums / jnp.maximum(counts, 1.0), group)
    errors = jnp.square(patches - fill[:, :, None, :, None]).mean((-1, -2))
    return errors * mask


class SheetParts(NamedTuple):
    """Arrays of a batch's first groups, for `reconstruction_sheet`."""

    images: Float[Array, "B V H W 3"]
    mask: Bool[Array, "B V L"]
    pred: Float[Array, "B V H W 3"]
    conf: Float[Array, "B V H W 3"]


def sheet_parts(
    images: Float[Array, "B V H W 3"],
    mask: Bool[Array, "B V L"],
    pred: Float[Array, "B V L d"],
    conf: Float[Array, "B V L d"],
    grid: tuple[int, int],
    patch: int,
    groups: int,
) -> SheetParts:
    """Selects the first groups and turns their patches into pixels."""
    pixels = lambda patches: unpatchify(patches[:groups], grid, patch)
    return SheetParts(images[:groups], mask[:groups], pixels(pred), pixels(conf))


class ReconstructionEvaluator(HeldOutEvaluator):
    """Reconstructs masked patches of held-out scenes, with masks drawn as in training.

    The figures are `loss`; `mse` of masked patches; and `baseline_mse`, the error of filling them with the
    visible mean. With normalised targets, both are errors of normalised patches. The baseline then predicts
    zeros, so it knows the mean of each hidden patch.

    Args:
      config: config of the run.
      task: the network and its loss.
      mixture, mesh: see `HeldOutEvaluator`.

    Attributes:
      baseline: description of the baseline whose error is `baseline_mse`.
    """

    measures = ("loss", "mse", "baseline_mse")
    error = "mse"
    by_source = ("mse", "baseline_mse")

    def __init__(self, config: ConfigDict, task: Pretraining, mixture: Mixture, mesh: Mesh):
        self.task, self.pictures = task, config.evaluation.pictures
        normalized = task.loss.normalize_targets
        self.baseline = "predicting each patch's mean" if normalized else "filling with the visible mean"
        self.figure_parts: SheetParts | None = None
        super().__init__(config, mixture, mesh)

    def _measure_batch(self, params, batch) -> tuple[dict[str, Mean], SheetParts]:
        """Returns a batch's metrics, and the first groups' arrays for a figure."""
        images, output, losses = reconstruct(self.task, params, batch)
        mask, num_hidden = batch["mask"], losses.hidden.sum()
        patch = self.task.model.patch
        target = patchify(images, patch)
        if self.task.loss.normalize_targets:
            baseline = mask * jnp.square(normalize_patches(target)).mean(-1)
        else:
            baseline = visible_mean_error(images, mask, patch)
        metrics = {
            "loss": Mean.of(total_loss(losses, self.task.loss.pooling)),
            "mse": Mean(losses.squared.sum(), num_hidden),
            "baseline_mse": Mean(baseline.sum(), num_hidden),
        }
        pred = output.pred
        if self.task.loss.normalize_targets:
            pred = pred * target.std(-1, keepdims=True) + target.mean(-1, keepdims=True)
        grid = (images.shape[2] // patch, images.shape[3] // patch)
        return metrics, sheet_parts(images, mask, pred, output.conf, grid, patch, self.pictures)

    def _keep(self, parts: SheetParts) -> None:
        self.figure_parts = parts

    def describe(self, values: Mapping[str, float]) -> str:
        """Returns a description of the masked error, relative to the baseline."""
        if not values["baseline_mse"]:
            same = f"each view has one colour, so {self.baseline} is exact"
            return f"masked error {values['mse']:.4f}; {same}"
        gain = 1 - values["mse"] / values["baseline_mse"]
        return (
            f"masked error {values['mse']:.4f}, {abs(gain):.0%} {'below' if gain >= 0 else 'ABOVE'} "
            f"{self.baseline} ({values['baseline_mse']:.4f})"
        )

    def figures(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the figure `reconstruction` of the latest run: masked input, prediction and truth."""
        if self.pictures and self.figure_parts:
            images, mask, pred, conf = jax.device_get(self.figure_parts)
            sheet = reconstruction_sheet(images, mask, pred, conf, self.task.model.patch)
            yield "reconstruction", sheet
