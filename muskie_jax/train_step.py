"""The pure functions that training is made of: no loop, no files, no global state.

An update runs `accumulate_gradients` once per batch and then `apply_gradients` once; or, if it has but
one batch, `update_at_once`.
"""

import dataclasses
import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from muskie_jax.errors import UserError
from muskie_jax.losses import TokenLosses, token_losses, total_loss
from muskie_jax.metrics import Mean
from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import Muskie, MuskieOutput, build_model, patchify
from muskie_jax.sharding import state_sharding

Batch = dict[str, Array]
Params = dict[str, Any]


@flax.struct.dataclass
class TrainState:
    """All that training changes: the number of updates done, parameters, optimizer state."""

    step: Array
    params: Params
    opt_state: optax.OptState


@dataclasses.dataclass(frozen=True)
class LossOptions:
    """The fields of `config.loss`, see `token_losses`."""

    error: str = "l2"
    confidence: bool = True
    normalize_targets: bool = False


@dataclasses.dataclass(frozen=True)
class Task:
    """What an update computes: the model, its loss, and from how many sources groups come."""

    model: Muskie
    loss: LossOptions
    num_sources: int


def make_task(config: ConfigDict, mesh: Mesh, num_sources: int) -> Task:
    """The task of a config, for arrays that are split over a mesh.

    Raises:
      UserError: for a kind of attention that the mesh's devices do not have.
    """
    try:
        model = build_model(**config.model, mesh=mesh)
    except ValueError as error:
        raise UserError(f"config.model.{error}") from error
    return Task(model, LossOptions(**config.loss), num_sources)


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
    images = batch["images"].astype(jnp.float32) / 127.5 - 1.0
    output = task.model.apply({"params": params}, images, batch["mask"])
    target = patchify(images, task.model.patch)
    losses = token_losses(output.pred, output.conf, target, batch["mask"], **dataclasses.asdict(task.loss))
    return images, output, losses


def accumulate_gradients(
    params: Params,
    gradients: Params | None,
    batch: Batch,
    *,
    task: Task,
    share: float,
) -> tuple[Params, dict[str, Mean]]:
    """Adds `share` of a batch's gradients to those of the update; None for its first batch.

    Returns:
      The gradients so far, and `loss`, `mse` (masked tokens), `conf_reg`, and `source_loss`, the loss
      per source without the regulariser: a mean over its groups, (number of sources,).
    """

    def objective(params):
        _, _, losses = reconstruct(task, params, batch)
        return total_loss(losses), losses

    (loss, losses), new = jax.value_and_grad(objective, has_aux=True)(params)
    new = jax.tree.map(lambda g: share * g, new)
    gradients = new if gradients is None else jax.tree.map(jnp.add, gradients, new)
    hidden = losses.hidden.sum((1, 2))
    per_group = losses.weighted.sum((1, 2)) / jnp.maximum(hidden, 1.0)
    by_source = functools.partial(
        jax.ops.segment_sum, segment_ids=batch["source"], num_segments=task.num_sources
    )
    metrics = {
        "loss": Mean.of(loss),
        "mse": Mean(losses.squared.sum(), losses.hidden.sum()),
        "conf_reg": Mean.of(losses.log_confidence.mean()),
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
    gradients, measured = accumulate_gradients(state.params, None, batch, task=task, share=1.0)
    state, norm = apply_gradients(state, gradients, optimizer=optimizer)
    return state, measured | norm
