"""The pure functions that training is made of: no loop, no files, no global state.

An update runs `accumulate_gradients` once per batch and then `apply_gradients` once; or, if it has but
one batch, `update_at_once`.
"""

import dataclasses
import functools
import math
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from muskie_jax.buckets import Bucket
from muskie_jax.errors import UserError
from muskie_jax.losses import LossOptions, TokenLosses, token_losses, total_loss
from muskie_jax.masking import MaskOptions, most_hidden
from muskie_jax.metrics import Mean
from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import Muskie, MuskieOutput, build_model, patchify, to_float
from muskie_jax.models.picking import take
from muskie_jax.sharding import state_sharding

Batch = dict[str, Array]
Params = dict[str, Any]

SLOTS_MULTIPLE = 64  # slots for hidden patches: cuDNN does not take any number of queries


@flax.struct.dataclass
class TrainState:
    """All that training changes: the number of updates done, parameters, optimizer state."""

    step: Array
    params: Params
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class Task:
    """What an update computes.

    Attributes:
      model, loss: the network, and what it is to make small.
      num_sources: that groups come from.
      masks: how masks are drawn; None if nothing is known of them.
    """

    model: Muskie
    loss: LossOptions
    num_sources: int
    masks: MaskOptions | None = None

    def slots(self, bucket: Bucket) -> int | None:
        """The number of patches of a group, K, that the last layer and the head compute.

        Hidden patches are all that the loss looks at, so K is the most that masks can hide, rounded up.
        None where all patches are computed: if K is no less; with scanned blocks, which are all alike; and
        where devices weight the views of a group, some of which are whole.
        """
        if self.masks is None or self.model.scan_blocks or self.model.attention.shards[1] > 1:
            return None
        rows, columns = grid = bucket.grid(self.model.patch)
        hidden = most_hidden(bucket.views, grid, self.masks)
        slots = math.ceil(hidden / SLOTS_MULTIPLE) * SLOTS_MULTIPLE
        return slots if slots < bucket.views * rows * columns else None


def make_task(config: ConfigDict, mesh: Mesh, num_sources: int) -> Task:
    """The task of a config, for arrays that are split over a mesh.

    Raises:
      UserError: for a kind of attention that the mesh's devices do not have.
    """
    try:
        model = build_model(**config.model, mesh=mesh)
    except ValueError as error:
        raise UserError(f"config.model.{error}") from error
    return Task(model, LossOptions(**config.loss), num_sources, MaskOptions.of(config.mask))


def _make_state(model: Muskie, optimizer: optax.GradientTransformation, key: Array) -> TrainState:
    image = jnp.zeros((1, 1, model.patch, model.patch, 3))
    model = model.clone(attention=Attention("xla"))  # one image cannot be split over a mesh
    params = model.init(key, image, jnp.ones((1, 1, 1), bool))["params"]
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def abstract_state(model: Muskie, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Shapes, types and shardings of a state: `jax.ShapeDtypeStruct` leaves."""
    make = functools.partial(_make_state, model, optimizer)
    shapes = jax.eval_shape(make, jax.random.key(0))
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_sharding(shapes, mesh),
    )


def init_state(model: Muskie, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh) -> TrainState:
    """A fresh state, made where it will live: no device ever holds more than its part."""
    shapes = abstract_state(model, optimizer, mesh)
    make = functools.partial(_make_state, model, optimizer)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    return jax.jit(make, out_shardings=shardings)(jax.random.key(seed))


def reconstruct(task: Task, params: Params, batch: Batch) -> tuple[Array, MuskieOutput, TokenLosses]:
    """Views of a batch, float32 in [-1, 1]; the network's output; every token's losses."""
    images = to_float(batch["images"])
    output = task.model.apply({"params": params}, images, batch["mask"])
    target = patchify(images, task.model.patch)
    losses = token_losses(output.pred, output.conf, target, batch["mask"], task.loss)
    return images, output, losses


def hidden_losses(task: Task, params: Params, batch: Batch) -> TokenLosses:
    """Losses of a batch's hidden patches: (B, K), see `Task.slots`, or where that is None (B, V, L).

    NaN, and with them the batch's loss, for a group that has more hidden patches than slots: its masks
    were not drawn as the task says.
    """
    groups, views, height, width, _ = batch["images"].shape
    slots = task.slots(Bucket(height, width, views))
    if slots is None:
        return reconstruct(task, params, batch)[2]
    images, mask = to_float(batch["images"]), batch["mask"]
    pred, conf, picked = task.model.apply(
        {"params": params}, images, mask, slots, method=Muskie.predict_hidden
    )
    patches = patchify(images, task.model.patch)
    target = take(patches.reshape(groups, -1, patches.shape[-1]), picked)
    losses = token_losses(pred, conf, target, picked.is_filled, task.loss)
    too_many = jnp.count_nonzero(mask, axis=(1, 2))[:, None] > slots
    return jax.tree.map(lambda x: jnp.where(too_many, jnp.nan, x), losses)


def accumulate_gradients(
    params: Params,
    gradients: Params | None,
    batch: Batch,
    *,
    task: Task,
    weight: float,
) -> tuple[Params, dict[str, Mean]]:
    """Adds `weight` times a batch's gradients to those of the update; None for its first batch.

    Returns:
      The gradients so far, and `loss`, `mse` (masked tokens), `conf_reg`, and `source_loss`, the loss
      per source without the regulariser: a mean over its groups, (number of sources,).
    """

    def objective(params):
        losses = hidden_losses(task, params, batch)
        return total_loss(losses, batch["mask"].size), losses

    (loss, losses), new = jax.value_and_grad(objective, has_aux=True)(params)
    new = jax.tree.map(lambda g: weight * g, new)
    gradients = new if gradients is None else jax.tree.map(jnp.add, gradients, new)
    hidden, weighted = (x.reshape(len(x), -1).sum(1) for x in (losses.hidden, losses.weighted))
    per_group = weighted / jnp.maximum(hidden, 1.0)
    by_source = functools.partial(
        jax.ops.segment_sum, segment_ids=batch["source"], num_segments=task.num_sources
    )
    metrics = {
        "loss": Mean.of(loss),
        "mse": Mean(losses.squared.sum(), losses.hidden.sum()),
        "conf_reg": Mean.of(losses.log_confidence.sum() / batch["mask"].size),
        "source_loss": Mean(by_source(per_group), by_source((hidden > 0).astype(jnp.float32))),
    }
    return gradients, metrics


def apply_gradients(
    state: TrainState, gradients: Params, *, optimizer: optax.GradientTransformation
) -> tuple[TrainState, dict[str, Mean]]:
    """One optimizer update. Returns the new state, and `grad_norm`."""
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    metrics = {"grad_norm": Mean.of(optax.global_norm(gradients))}
    return TrainState(state.step + 1, params, opt_state), metrics


def update_at_once(
    state: TrainState, batch: Batch, *, task: Task, optimizer: optax.GradientTransformation
) -> tuple[TrainState, dict[str, Mean]]:
    """A whole update whose only batch this is: its gradients are never stored in float32."""
    gradients, measured = accumulate_gradients(state.params, None, batch, task=task, weight=1.0)
    state, norm = apply_gradients(state, gradients, optimizer=optimizer)
    return state, measured | norm
