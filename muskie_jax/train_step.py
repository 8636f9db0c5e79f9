"""The pure functions of a training step: no loop, no files, no global state.

An update of several batches starts from gradients of zeros. It runs `accumulate_gradients` once per batch,
and then `apply_gradients` once. An update of one batch runs `single_batch_update` instead.
"""

import dataclasses
import functools
from typing import Any, Protocol, cast

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax import Array
from jax.sharding import Mesh
from ml_collections import ConfigDict

from muskie_jax.errors import UserError
from muskie_jax.losses import LossOptions, TokenLosses, token_losses, total_loss
from muskie_jax.metrics import Mean
from muskie_jax.models.initial_params import draw_params, fast_random_draws
from muskie_jax.models.muskie import Muskie, MuskieOutput, build_model, patchify, to_float
from muskie_jax.models.reconstruction import Reconstruction
from muskie_jax.optim import global_norm, was_skipped
from muskie_jax.reconstruction.settings import has_geometry
from muskie_jax.reconstruction.task import ReconstructTask
from muskie_jax.sharding import state_sharding

Batch = dict[str, Array]
Params = dict[str, Any]


@struct.dataclass
class TrainState:
    """Everything that training changes: optimiser-step count, parameters and optimizer state."""

    step: Array
    params: Params
    opt_state: optax.OptState


class Task(Protocol):
    """What a run trains: a network, and the loss of a batch. See `config.task`."""

    @property
    def model(self) -> Muskie | Reconstruction:
        """The network."""
        ...

    @property
    def backbone(self) -> Muskie:
        """The network itself, or the part of it that is a Muskie."""
        ...

    @property
    def shown(self) -> tuple[str, ...]:
        """Names of the metrics in progress lines, beside the loss."""
        ...

    def objective(self, params: Params, batch: Batch) -> tuple[Array, Any]:
        """Returns the loss to minimise, and what `metrics` computes metrics from."""
        ...

    def metrics(self, loss: Array, terms: Any, batch: Batch) -> dict[str, Mean]:
        """Returns the metrics of a batch, among them `loss`, given the results of `objective`."""
        ...


@dataclasses.dataclass(frozen=True)
class Pretraining:
    """The `Task` of reconstructing masked patches.

    Attributes:
      model: the network.
      loss: options of the loss.
      num_sources: number of data sources; the loss is also reported for each source.
    """

    model: Muskie
    loss: LossOptions
    num_sources: int
    shown = ("mse",)

    @property
    def backbone(self) -> Muskie:
        return self.model

    def objective(self, params: Params, batch: Batch) -> tuple[Array, TokenLosses]:
        """Returns the loss of a batch, and the losses of all tokens."""
        losses = reconstruct(self, params, batch)[2]
        return total_loss(losses, self.loss.pooling), losses

    def metrics(self, loss: Array, terms: TokenLosses, batch: Batch) -> dict[str, Mean]:
        """Returns `loss`, `mse` (of masked tokens), `conf_reg`, and `source_loss`.

        The latter is each source's loss without the regulariser, averaged over its groups, (number of
        sources,).
        """
        hidden, weighted = (x.sum((1, 2)) for x in (terms.hidden, terms.weighted))
        per_group = weighted / jnp.maximum(hidden, 1.0)
        by_source = functools.partial(
            jax.ops.segment_sum, segment_ids=batch["source"], num_segments=self.num_sources
        )
        return {
            "loss": Mean.of(loss),
            "mse": Mean(terms.squared.sum(), terms.hidden.sum()),
            "conf_reg": Mean.of(terms.log_confidence.mean()),
            "source_loss": Mean(by_source(per_group), by_source((hidden > 0).astype(jnp.float32))),
        }


def make_task(config: ConfigDict, mesh: Mesh, num_sources: int) -> Task:
    """Returns the task of a config, for arrays sharded over a mesh.

    Raises:
      UserError: if the mesh's devices do not support `config.model.attention`, or if another model setting
        is invalid.
    """
    try:
        backbone = build_model(**config.model, mesh=mesh, deterministic=config.deterministic)
    except ValueError as error:
        raise UserError(f"config.model.{error}") from error
    if not has_geometry(config):
        return Pretraining(backbone, LossOptions(**config.loss), num_sources)
    settings = config.reconstruct
    return ReconstructTask(Reconstruction(backbone, settings.decoder_depth, settings.freeze_backbone))


def _initial_state(model: nn.Module, optimizer: optax.GradientTransformation, key: Array) -> TrainState:
    params = draw_params(model, key)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))


def abstract_state(model: nn.Module, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """Returns the shapes, dtypes and shardings of a state, as `jax.ShapeDtypeStruct` leaves."""
    return StateInitializer(model, optimizer, mesh).shapes


class StateInitializer:
    """Makes new states, in their sharding: no device allocates more than its shards of the state.

    Args:
      model: the network.
      optimizer: the optimizer.
      mesh: the devices, which this machine need not have if only `shapes` is used.

    Attributes:
      shapes: shapes, dtypes and shardings of a state, as `jax.ShapeDtypeStruct` leaves.
    """

    def __init__(self, model: nn.Module, optimizer: optax.GradientTransformation, mesh: Mesh):
        initial_state = functools.partial(_initial_state, model, optimizer)
        with fast_random_draws():  # as in `lower`, so that JAX traces the function once
            shapes = jax.eval_shape(initial_state, jax.random.key(0))
        shardings = state_sharding(shapes, mesh)
        self.shapes = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            shapes,
            shardings,
        )
        self._jitted = jax.jit(initial_state, out_shardings=shardings)

    def lower(self, key: Array) -> jax.stages.Lowered:
        """Traces and lowers the program that makes a state from a random key."""
        with fast_random_draws():
            return self._jitted.lower(key)

    def __call__(self, key: Array) -> TrainState:
        with fast_random_draws():
            return self._jitted(key)


def init_state(
    model: nn.Module, optimizer: optax.GradientTransformation, seed: int, mesh: Mesh
) -> TrainState:
    """Returns a new state, see `StateInitializer`."""
    return StateInitializer(model, optimizer, mesh)(jax.random.key(seed))


def reconstruct(task: Pretraining, params: Params, batch: Batch) -> tuple[Array, MuskieOutput, TokenLosses]:
    """Returns a batch's views (float32 in [-1, 1]), the network's output, and the losses of all tokens."""
    images = to_float(batch["images"])
    output = cast(MuskieOutput, task.model.apply({"params": params}, images, batch["mask"]))
    target = patchify(images, task.model.patch)
    losses = token_losses(output.pred, output.conf, target, batch["mask"], task.loss)
    return images, output, losses


def batch_gradients(params: Params, batch: Batch, *, task: Task) -> tuple[Params, dict[str, Mean]]:
    """Returns the gradients of a batch's loss, and its metrics."""
    objective = lambda params: task.objective(params, batch)
    (loss, terms), gradients = jax.value_and_grad(objective, has_aux=True)(params)
    return gradients, task.metrics(loss, terms, batch)


def accumulate_gradients(
    params: Params, gradients: Params, batch: Batch, *, task: Task, weight: float
) -> tuple[Params, dict[str, Mean]]:
    """Adds `weight` times a batch's gradients to `gradients`; returns the sum and the batch's metrics."""
    added, metrics = batch_gradients(params, batch, task=task)
    return jax.tree.map(lambda total, g: total + weight * g, gradients, added), metrics


def apply_gradients(
    state: TrainState, gradients: Params, *, optimizer: optax.GradientTransformation
) -> tuple[TrainState, dict[str, Mean]]:
    """Runs one optimizer step; returns the new state and the metrics `grad_norm` and `skipped`.

    The latter is 1 for an update that the optimizer skipped: only `step` has then changed.
    """
    updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = cast(Params, optax.apply_updates(state.params, updates))
    norm = global_norm(gradients)
    skipped = was_skipped(norm, opt_state).astype(jnp.float32)
    metrics = {"grad_norm": Mean.of(norm), "skipped": Mean.of(skipped)}
    return TrainState(state.step + 1, params, opt_state), metrics


def single_batch_update(
    state: TrainState, batch: Batch, *, task: Task, optimizer: optax.GradientTransformation
) -> tuple[TrainState, dict[str, Mean]]:
    """Runs an update of one batch in one program, so that XLA need not store gradients in float32."""
    gradients, metrics = batch_gradients(state.params, batch, task=task)
    state, norm = apply_gradients(state, gradients, optimizer=optimizer)
    return state, metrics | norm
