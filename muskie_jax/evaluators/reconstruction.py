"""Reconstruction error of masked patches on held-out scenes, with the error of a trivial baseline."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Bool, Float
from ml_collections import ConfigDict

from muskie_jax.buckets import Bucket
from muskie_jax.data.mixture import Mixture, evaluation_sampler
from muskie_jax.data.pipeline import Pipeline
from muskie_jax.losses import normalize_patches, total_loss
from muskie_jax.metrics import Mean, merge_all
from muskie_jax.models.muskie import CHANNELS, patchify, unpatchify
from muskie_jax.programs import batch_shapes
from muskie_jax.rendering import BatchPlacer
from muskie_jax.train_step import Task, reconstruct
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


class ReconstructionEvaluator:
    """Reconstructs masked patches of held-out scenes, with masks drawn as in training.

    Every source contributes the same number of groups, whatever its weight in training. The groups depend
    only on `config.evaluation`, `config.batch.groups` and the masks, so runs are comparable.

    Args:
      config: config of the run.
      task: the network and its loss.
      mixture: the sources; groups come from their held-out scenes.
      mesh: the devices.

    Attributes:
      baseline: description of the baseline whose error is `baseline_mse`.
      bucket: height, width and number of views of all groups.
    """

    def __init__(self, config: ConfigDict, task: Task, mixture: Mixture, mesh: Mesh):
        self.task, self.pictures = task, config.evaluation.pictures
        self.names = mixture.names
        normalized = task.loss.normalize_targets
        self.baseline = "predicting each patch's mean" if normalized else "filling with the visible mean"
        groups = min(config.batch.groups, config.evaluation.groups)
        samplers = [evaluation_sampler(config, source) for source in mixture.held_out_by_source()]
        self.num_batches = math.ceil(config.evaluation.groups / groups / len(samplers))
        self.placer = BatchPlacer(groups, mixture.worlds, mixture.photos, mesh)
        self.pipelines = [
            Pipeline(sampler, self.placer.rows, threads=config.data.threads) for sampler in samplers
        ]
        views, patch = config.evaluation.views, config.model.patch
        height, width = config.evaluation.size
        self.bucket = Bucket(height, width, views)
        self._shapes = batch_shapes(self.bucket, groups, views, patch, mesh)
        self._batches: list[dict[str, np.ndarray]] | None = None
        self._measure = jax.jit(self._measure_batch, out_shardings=NamedSharding(mesh, P()))
        self.figure_parts: SheetParts | None = None

    @property
    def total_batches(self) -> int:
        """The number of batches of all sources."""
        return self.num_batches * len(self.pipelines)

    def load(self) -> list[dict[str, np.ndarray]]:
        """Returns this host's batches, source by source; loads them on the first call only."""
        if self._batches is None:
            updates = [itertools.islice(p.updates(), self.num_batches) for p in self.pipelines]
            self._batches = [update[0][1] for update in itertools.chain.from_iterable(updates)]
        return self._batches

    def to_compile(self, params) -> dict[str, Callable[[], jax.stages.Lowered]]:
        """Returns the programs of an evaluation by name, given the parameters' shapes; see `Programs`."""
        name = f"evaluation {self.bucket}"
        lower = {name: functools.partial(self._measure.lower, params, dict(self._shapes))}
        return self.placer.to_compile([self.bucket], self.bucket.views) | lower

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

    def run(self, params) -> Iterator[tuple[str, float]]:
        """Yields the metrics of the parameters, by name.

        They are `loss`; `mse` of masked patches; and `baseline_mse`, the error of filling them with the
        visible mean. With several sources, `mse/<source>` and `baseline_mse/<source>` are the errors per
        source.

        With normalised targets, both are errors of normalised patches. The baseline then predicts zeros, so
        it knows the mean of each hidden patch.
        """
        measured, self.figure_parts = [], None
        for batch in self.load():
            metrics, parts = self._measure(params, self.placer(self.bucket, batch))
            source = self.names[int(batch["source"][0])]
            by_source = {f"{name}/{source}": metrics[name] for name in ("mse", "baseline_mse")}
            measured.append(metrics | (by_source if len(self.pipelines) > 1 else {}))
            self.figure_parts = self.figure_parts or parts
        merged = merge_all(jax.device_get(measured))
        yield from ((name, float(mean.compute())) for name, mean in merged.items())

    def figures(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields the figure `reconstruction` of the latest run: masked input, prediction and truth."""
        if self.pictures and self.figure_parts:
            images, mask, pred, conf = jax.device_get(self.figure_parts)
            sheet = reconstruction_sheet(images, mask, pred, conf, self.task.model.patch)
            yield "reconstruction", sheet
