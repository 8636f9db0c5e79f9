"""How well hidden patches of held-out scenes are reconstructed, beside a baseline that sees no scene."""

import functools
import itertools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from muskie_jax.data.mixture import Mixture, evaluation_sampler
from muskie_jax.data.pipeline import Pipeline
from muskie_jax.losses import normalize_patches, total_loss
from muskie_jax.metrics import Mean, merge_all
from muskie_jax.models.muskie import CHANNELS, patchify, unpatchify
from muskie_jax.rendering import BatchPlacer
from muskie_jax.train_step import Task, reconstruct
from muskie_jax.viz.reconstruction import reconstruction_sheet


def visible_mean_error(images: Array, mask: Array, patch: int) -> Array:
    """Squared error of filling hidden patches with the mean colour of their view's visible pixels.

    A view without a visible patch is filled with the mean of the group's visible pixels, a group
    without any with mid-grey.

    Args:
      images: float (B, V, H, W, 3) in [-1, 1].
      mask: bool (B, V, L), True = hidden.

    Returns:
      float32 (B, V, L), zero where the patch is visible.
    """
    patches = patchify(images, patch).reshape(*mask.shape, CHANNELS, patch**2)
    visible = (~mask).astype(jnp.float32)[..., None]
    sums = (patches.mean(-1) * visible).sum(2)  # (B, V, C)
    counts = visible.sum(2)  # (B, V, 1)
    group = sums.sum(1, keepdims=True) / jnp.maximum(counts.sum(1, keepdims=True), 1.0)
    fill = jnp.where(counts > 0, sums / jnp.maximum(counts, 1.0), group)
    errors = jnp.square(patches - fill[:, :, None, :, None]).mean((-1, -2))
    return errors * mask


class ReconstructionEvaluator:
    """Reconstruction of masked patches, with the masks of training, on held-out scenes.

    Args:
      config: of the run.
      task: the network and its loss.
      mixture: the sources; the groups come from their held-out scenes and are always the same.
      mesh: the devices.
    """

    def __init__(self, config: ConfigDict, task: Task, mixture: Mixture, mesh: Mesh):
        self.task, self.pictures = task, config.evaluation.pictures
        groups = min(config.batch.groups, config.evaluation.groups)
        self.num_batches = math.ceil(config.evaluation.groups / groups)
        self.sampler = evaluation_sampler(config, mixture)
        self.place = BatchPlacer(groups, mixture.worlds, mixture.photos, mesh)
        self.threads = config.data.threads
        everywhere = NamedSharding(mesh, P())
        self._measure = jax.jit(self._measure_batch, out_shardings=everywhere)
        self.figure_parts = None

    @functools.cached_property
    def _batches(self) -> list:
        """The batches on the host. They are few, and the same each time."""
        pipeline = Pipeline(self.sampler, self.place.rows, threads=self.threads)
        updates = itertools.islice(pipeline.updates(), self.num_batches)
        return [update[0] for update in updates]

    def _measure_batch(self, params, batch) -> tuple[dict[str, Mean], tuple[Array, ...]]:
        """Metrics of a batch; and of its first groups images, mask, prediction and confidence."""
        images, output, losses = reconstruct(self.task, params, batch)
        mask, hidden = batch["mask"], losses.hidden.sum()
        patch = self.task.model.patch
        target = patchify(images, patch)
        if self.task.loss.normalize_targets:
            baseline = mask * jnp.square(normalize_patches(target)).mean(-1)
        else:
            baseline = visible_mean_error(images, mask, patch)
        metrics = {
            "loss": Mean.of(total_loss(losses)),
            "mse": Mean(losses.squared.sum(), hidden),
            "baseline_mse": Mean(baseline.sum(), hidden),
        }
        pred = output.pred
        if self.task.loss.normalize_targets:
            pred = pred * target.std(-1, keepdims=True) + target.mean(-1, keepdims=True)
        grid = (images.shape[2] // patch, images.shape[3] // patch)
        pixels = lambda patches: unpatchify(patches[: self.pictures], grid, patch)
        parts = (images[: self.pictures], mask[: self.pictures], pixels(pred), pixels(output.conf))
        return metrics, parts

    def run(self, params) -> Iterator[tuple[str, float]]:
        """Yields `loss`; `mse` of masked patches; and `baseline_mse` of visible-mean filling.

        With normalised targets, errors are of normalised patches, and the baseline knows each hidden
        patch's own mean: its error is that of predicting zeros.
        """
        measured = []
        for number, (bucket, batch) in enumerate(self._batches):
            metrics, parts = self._measure(params, self.place(bucket, batch))
            measured.append(metrics)
            if number == 0:
                self.figure_parts = parts
        merged = merge_all(jax.device_get(measured))
        yield from ((name, float(mean.compute())) for name, mean in merged.items())

    def figures(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields `reconstruction`, of some groups of the latest run: what was seen, said, and true."""
        if self.pictures and self.figure_parts:
            parts = jax.device_get(self.figure_parts)
            yield "reconstruction", reconstruction_sheet(*parts, self.task.model.patch)
