"""The training task "reconstruct": point maps and cameras from images, all of whose patches are visible."""

import dataclasses
from typing import Any, cast

import jax.numpy as jnp
from jax import Array

from muskie_jax.metrics import Mean
from muskie_jax.models.muskie import Muskie, to_float
from muskie_jax.models.reconstruction import Reconstruction, ReconstructionOutput
from muskie_jax.reconstruction.losses import ReconstructionLosses, reconstruction_losses
from muskie_jax.reconstruction.targets import ReconstructionTargets, reconstruction_targets

Batch = dict[str, Array]
TERMS = ("points", "normals", "translation", "rotation")  # of the loss, in metrics


@dataclasses.dataclass(frozen=True)
class ReconstructTask:
    """The `Task` of predicting point maps and cameras, see `muskie_jax.train_step.Task`.

    Attributes:
      model: the network.
    """

    model: Reconstruction
    shown = ("points", "translation", "rotation")

    @property
    def backbone(self) -> Muskie:
        return self.model.backbone

    def predict(
        self, params: dict[str, Any], batch: Batch
    ) -> tuple[ReconstructionOutput, ReconstructionTargets]:
        """Returns the network's output for a batch, and the truth."""
        output = self.model.apply({"params": params}, to_float(batch["images"]))
        targets = reconstruction_targets(batch["depth"], batch["intrinsics"], batch["world_to_camera"])
        return cast(ReconstructionOutput, output), targets

    def objective(
        self, params: dict[str, Any], batch: Batch
    ) -> tuple[Array, tuple[ReconstructionLosses, Array]]:
        """Returns the loss of a batch; and all losses, with the number of pixels whose point is known."""
        output, targets = self.predict(params, batch)
        losses = reconstruction_losses(output, targets)
        return losses.total, (losses, targets.valid.sum())

    def metrics(
        self, loss: Array, terms: tuple[ReconstructionLosses, Array], batch: Batch
    ) -> dict[str, Mean]:
        """Returns `loss` and its TERMS, see `ReconstructionLosses`; `rotation` is in radians.

        Each pixel with a known point has the same weight in `points`, over all batches.
        """
        del batch
        losses, known = terms
        count = known.astype(jnp.float32)
        means = {name: Mean.of(getattr(losses, name)) for name in TERMS}
        return means | {"loss": Mean.of(loss), "points": Mean(losses.points * count, count)}
