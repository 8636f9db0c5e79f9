"""How well hidden patches of held-out scenes are reconstructed, beside a baseline that sees no scene."""

import functools
import itertools
import math
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
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

    Every source gets the same number of groups, whatever its weight in training. The groups depend on
    `config.evaluation`, `config.batch.groups` and the masks, and on nothing else of a run.

    Args:
      config: of the run.
      task: the network and its loss.
      mixture: the sources; the groups come from their held-out scenes.
      mesh: the devices.
    """

    def __init__(self, config: ConfigDict, task: Task, mixture: Mixture, mesh: Mesh):
        self.task, self.pictures = task, config.evaluation.pictures
        self.names = mixture.names
        plain = not task.loss.normalize_targets
        self.baseline = "filling with the visible mean" if plain else "predicting each patch's mean"
        groups = min(config.batch.groups, config.evaluation.groups)
        samplers = [evaluation_sampler(config, alone) for alone in mixture.held_out_by_source()]
        self.num_batches = math.ceil(config.evaluation.groups / groups / len(samplers))
        self.place = BatchPlacer(groups, mixture.worlds, mixture.photos, mesh)
        self.pipelines = [
            Pipeline(sampler, self.place.rows, threads=config.data.threads) for sampler in samplers
        ]
        views, patch = config.evaluation.views, config.model.patch
        self.bucket = Bucket(*config.evaluation.size, views)
        self._shapes = batch_shapes(self.bucket, groups, views, patch, mesh)
        self._batches: list[dict[str, np.ndarray]] | None = None
        self._measure = jax.jit(self._measure_batch, out_shardings=NamedSharding(mesh, P()))
        self.figure_parts = None

    def load(self) -> list[dict[str, np.ndarray]]:
        """Returns this host's batches, source by source; loads them on the first call and keeps them."""
        if self._batches is None:
            updates = [itertools.islice(p.updates(), self.num_batches) for p in self.pipelines]
            self._batches = [update[0][1] for update in itertools.chain.from_iterable(updates)]
        return self._batches

    def to_compile(self, params) -> dict[str, Callable[[], jax.stages.Lowered]]:
        """What an evaluation runs, by name, given the parameters' shapes; see `Programs`."""
        name = f"evaluation {self.bucket}"
        lower = {name: functools.partial(self._measure.lower, params, dict(self._shapes))}
        return self.place.to_compile([self.bucket], self.bucket.views) | lower

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
        """Yields `loss`; `mse` of masked patches; `baseline_mse` of visible-mean filling; and, if
        there are several sources, the errors of each: `mse/<source>`, `baseline_mse/<source>`.

        With normalised targets, errors are of normalised patches, and the baseline knows each hidden
        patch's own mean: its error is that of predicting zeros.
        """
        measured, self.figure_parts = [], None
        for batch in self.load():
            metrics, parts = self._measure(params, self.place(self.bucket, batch))
            source = self.names[int(batch["source"][0])]
            by_source = {f"{name}/{source}": metrics[name] for name in ("mse", "baseline_mse")}
            measured.append(metrics | (by_source if len(self.pipelines) > 1 else {}))
            self.figure_parts = self.figure_parts or parts
        merged = merge_all(jax.device_get(measured))
        yield from ((name, float(mean.compute())) for name, mean in merged.items())

    def figures(self) -> Iterator[tuple[str, np.ndarray]]:
        """Yields `reconstruction`, of some groups of the latest run: what was seen, said, and true."""
        if self.pictures and self.figure_parts:
            parts = jax.device_get(self.figure_parts)
            yield "reconstruction", reconstruction_sheet(*parts, self.task.model.patch)
