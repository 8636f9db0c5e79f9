"""The optimizers, AdamW as published or Muon, and the schedule of their learning rate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Bool, Float32
from ml_collections import ConfigDict
from optax import contrib

from muskie_jax.config import peak_learning_rate, total_steps, warmup_steps
from muskie_jax.reconstruction.settings import has_geometry

ADAMW_SIZE = 0.2  # typical root mean square of AdamW's updates, before the learning rate
LARGEST_SMALL = 2**16  # `global_norm` joins arrays of up to this many numbers
SPIKE_WINDOW = 100  # number of updates whose norms a spike is compared with
NO_NORM = -1.0  # in place of a norm; NaN would make the state one that is not saved


def learning_rate_schedule(config: ConfigDict) -> optax.Schedule:
    """Returns the learning rate of each update: linear from 0 to the peak, then down to the minimum.

    It falls as `config.optim.schedule` says. Updates count from 0. The rate reaches its minimum one update
    after the end of the run.
    """
    warmup, peak, lowest = warmup_steps(config), peak_learning_rate(config), config.optim.min_learning_rate
    end = max(total_steps(config), warmup + 1)  # optax rejects decay_steps <= warmup_steps
    if config.optim.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, end, lowest)
    cooldown = config.optim.cooldown * (end - warmup)

    def rate(update) -> Array:
        rise = jnp.minimum(update / warmup, 1.0) if warmup else 1.0
        remaining = jnp.clip((end - update) / cooldown, 0.0, 1.0)
        return rise * (lowest + (peak - lowest) * remaining)

    return rate


def is_matrix(params: Any) -> Any:
    """Returns a tree of booleans: True for kernels, False for biases, norms and learned tokens."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def global_norm(tree: Any) -> Array:
    """Returns the norm over all numbers of a tree of arrays.

    Small arrays (biases and norms) are joined first: a GPU would run a kernel or two for each of them.
    """
    leaves = jax.tree.leaves(tree)
    small = [leaf.ravel() for leaf in leaves if leaf.size <= LARGEST_SMALL]
    large = [leaf for leaf in leaves if leaf.size > LARGEST_SMALL]
    joined = [jnp.concatenate(small)] if small else []
    return jnp.sqrt(sum(jnp.sum(jnp.square(part)) for part in joined + large))


def optimizer_names(params: Any) -> Any:
    """Returns a tree with "muon" for the kernels of the blocks, and "adamw" for all other parameters.

    Muon is for matrices between hidden layers. Patch embedding and head, which meet pixels, keep AdamW, and
    so do the point head's convolutions and the camera head.
    """

    def name(path, _) -> str:
        in_block = any(part.key.startswith(("block_", "decoder_")) for part in path)
        return "muon" if in_block and path[-1].key == "kernel" else "adamw"

    return jax.tree_util.tree_map_with_path(name, params)


def stacked_muon(momentum: float) -> optax.GradientTransformation:
    """Returns optax's Muon without learning rate and decay, for matrices, with updates of AdamW's size.

    It orthogonalises a matrix by 15 products, and networks have dozens of small matrices, which keep a GPU
    waiting for kernels to start. So all matrices of one shape are stacked, and multiplied as one batch. The
    state and the results are those of optax.
    """
    rows_and_columns = contrib.MuonDimensionNumbers(1, 2)  # the axes of matrices in a stack
    dimension_numbers = lambda stacks: jax.tree.map(lambda _: rows_and_columns, stacks)
    muon = contrib.scale_by_muon(beta=momentum, weight_dimension_numbers=dimension_numbers)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        result: Any = muon.update(_stack(updates), state._replace(mu=_stack(state.mu)))
        stacks, new = result
        scaled = {shape: ADAMW_SIZE * max(shape) ** 0.5 * stack for shape, stack in stacks.items()}
        return _unstack(scaled, updates), new._replace(mu=_unstack(new.mu, updates))

    return optax.GradientTransformation(muon.init, update)


def _stack(matrices: Any) -> dict[tuple[int, int], Array]:
    """Returns the matrices of a tree by shape, stacked along a new first axis."""
    by_shape: dict[tuple[int, int], list[Array]] = {}
    for matrix in jax.tree.leaves(matrices):
        by_shape.setdefault(matrix.shape, []).append(matrix)
    return {shape: jnp.stack(group) for shape, group in by_shape.items()}


def _unstack(stacks: dict[tuple[int, int], Array], tree: Any) -> Any:
    """Inverts `_stack`, given a tree of matrices of the same shapes."""
    matrices = {shape: iter(stack) for shape, stack in stacks.items()}
    return jax.tree.map(lambda matrix: next(matrices[matrix.shape]), tree)


class SpikeState(NamedTuple):
    """State of `skip_bad_updates` if it skips spikes.

    Attributes:
      inner: state of the optimizer.
      norms: norms of the gradients of the last updates, newest last; NO_NORM before the first.
      skipped: whether the last update was skipped.
    """

    inner: optax.OptState
    norms: Float32[Array, " window"]
    skipped: Bool[Array, ""]


def skip_bad_updates(
    optimizer: optax.GradientTransformation, spike_factor: float = 0.0
) -> optax.GradientTransformation:
    """Returns an optimizer that takes no step, and keeps its state, if the gradients are bad.

    They are bad if they are not finite, or if their norm is above `spike_factor` times the median of the
    last SPIKE_WINDOW norms. Norms of spikes count as well, so that the median follows a lasting change.
    Nothing is a spike before the window is full. With a factor of 0, there are no spikes, and the state is
    that of `optimizer`.
    """

    def init(params: Any) -> Any:
        inner = optimizer.init(params)
        if not spike_factor:
            return inner
        return SpikeState(inner, jnp.full(SPIKE_WINDOW, NO_NORM), jnp.zeros((), bool))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        norm = global_norm(updates)
        bad = ~jnp.isfinite(norm)
        if spike_factor:
            is_full = state.norms[0] != NO_NORM
            bad |= is_full & (norm > spike_factor * jnp.median(state.norms))
        inner = state.inner if spike_factor else state
        updates, stepped = optimizer.update(updates, inner, params)
        updates = jax.tree.map(lambda new: jnp.where(bad, jnp.zeros_like(new), new), updates)
        kept = jax.tree.map(lambda new, old: jnp.where(bad, old, new), stepped, inner)
        if not spike_factor:
            return updates, kept
        norms = jnp.where(jnp.isfinite(norm), jnp.append(state.norms[1:], norm), state.norms)
        return updates, SpikeState(kept, norms, bad)

    return optax.GradientTransformation(init, update)


def was_skipped(gradient_norm: Array, opt_state: optax.OptState) -> Array:
    """Returns whether `skip_bad_updates` skipped the update that led to `opt_state`."""
    return opt_state.skipped if isinstance(opt_state, SpikeState) else ~jnp.isfinite(gradient_norm)


def make_optimizer(config: ConfigDict) -> optax.GradientTransformation:
    """Returns the optimizer of a config, preceded by clipping to the global norm if `clip_norm` is not 0.

    It skips bad updates, see `skip_bad_updates`. Muon's updates are scaled to the size of AdamW's, so both
    share a learning rate. Source: Liu et al., "Muon is Scalable for LLM Training", arXiv 2502.16982. The
    parameters of a frozen backbone do not change, and have no state.
    """
    optim = config.optim
    learning_rate = learning_rate_schedule(config)
    optimizer = optax.adamw(
        learning_rate,
        b1=optim.b1,
        b2=optim.b2,
        eps=optim.eps,
        weight_decay=optim.weight_decay,
        mask=is_matrix if optim.decay == "matrices" else None,
    )
    if optim.name == "muon":
        muon = optax.chain(
            stacked_muon(optim.momentum),
            optax.add_decayed_weights(optim.weight_decay),
            optax.scale_by_learning_rate(learning_rate),
        )
        optimizer = optax.partition({"muon": muon, "adamw": optimizer}, optimizer_names)
    if optim.clip_norm:
        optimizer = optax.chain(optax.clip_by_global_norm(optim.clip_norm), optimizer)
    if has_geometry(config) and config.reconstruct.freeze_backbone:
        optimizer = optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, frozen_backbone)
    return skip_bad_updates(optimizer, optim.spike_factor)


def frozen_backbone(params: Any) -> Any:
    """Returns a tree with "frozen" for the backbone of a `Reconstruction`, and "trained" for the rest."""
    name = lambda path, _: "frozen" if path[0].key == "backbone" else "trained"
    return jax.tree_util.tree_map_with_path(name, params)
