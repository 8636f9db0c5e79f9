"""The compiled programs of a run: all of them are made before the first update."""

import concurrent.futures
import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from muskie_jax.data.buckets import Bucket
from muskie_jax.metrics import Mean
from muskie_jax.sharding import batch_sharding
from muskie_jax.train_step import (
    Batch,
    Params,
    Task,
    TrainState,
    accumulate_gradients,
    apply_gradients,
)
from muskie_jax.writers import duration, tell

OPTIMIZER = "optimizer"


def batch_shapes(
    bucket: Bucket, groups: int, views: int, patch: int, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and shardings of a batch: `groups` loaded groups of `views`, split as the bucket says."""
    split = groups * views // bucket.views
    rows, columns = bucket.grid(patch)
    entries = {
        "images": ((split, bucket.views, bucket.height, bucket.width, 3), jnp.uint8),
        "mask": ((split, bucket.views, rows * columns), jnp.bool_),
        "source": ((split,), jnp.int32),
    }
    return {
        key: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(key, mesh))
        for key, (shape, dtype) in entries.items()
    }


class Programs:
    """One gradient program per bucket, and one for the optimizer.

    Args:
      task, optimizer: what to compute.
      state: the state's shapes, with shardings.
      batches: the shapes of every bucket's batches.
      per_update: the batches whose gradients an update averages.
      mesh: the devices.
      others: more to compile at the same time, by name; their results are found by calling them.
    """

    def __init__(
        self,
        task: Task,
        optimizer: optax.GradientTransformation,
        state: TrainState,
        batches: Mapping[Bucket, Mapping[str, jax.ShapeDtypeStruct]],
        per_update: int,
        mesh: Mesh,
        others: Mapping[str, Callable[[], jax.stages.Lowered]],
    ):
        whole = NamedSharding(mesh, P())
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        gradient_step = jax.jit(
            functools.partial(accumulate_gradients, task=task, share=1.0 / per_update),
            donate_argnames=("gradients",),
            # Pinned, so that a continued run runs the very programs of an uninterrupted one.
            out_shardings=(shardings.params, whole),
        )
        optimizer_step = jax.jit(
            functools.partial(apply_gradients, optimizer=optimizer),
            donate_argnames=("state", "gradients"),
            out_shardings=(shardings, shardings.params, whole),
        )
        zeros = jax.jit(lambda params: jax.tree.map(jnp.zeros_like, params), out_shardings=shardings.params)
        params = state.params
        self._lower: dict[Bucket | str, Callable[[], jax.stages.Lowered]] = {
            OPTIMIZER: functools.partial(optimizer_step.lower, state, params),
            **others,
        }
        for bucket, batch in batches.items():
            self._lower[bucket] = functools.partial(gradient_step.lower, params, params, dict(batch))
        self._zeros = zeros
        self._compiled: dict[Bucket | str, Any] = {}

    def compile(self) -> None:
        """Traces and compiles all programs, and tells how long each took."""
        start = time.perf_counter()
        total = len(self._lower)
        tell(f"Compiling {total} programs ...")

        def make(key):
            began = time.perf_counter()
            self._compiled[key] = self._lower[key]().compile()
            seconds = time.perf_counter() - began
            tell(f"  {len(self._compiled)}/{total}  {key}: {seconds:.1f}s")

        # On a GPU one run of two failed to load cuDNN's attention when programs were compiled side by
        # side (jax 0.11.2, H100); XLA spreads the work of each over all cores by itself there.
        threads = 1 if jax.default_backend() == "gpu" else min(8, os.cpu_count() or 1)
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            list(pool.map(make, self._lower))
        tell(f"Compiled in {duration(time.perf_counter() - start)}")

    def zero_gradients(self, params: Params) -> Params:
        """What the first update starts to add gradients to."""
        return self._zeros(params)

    def update(
        self, state: TrainState, gradients: Params, batches: Iterable[tuple[Bucket, Batch]]
    ) -> tuple[TrainState, Params, list[dict[str, Mean]]]:
        """One update; `state` and `gradients` are used up. Returns at once, before it is computed."""
        metrics = []
        for bucket, batch in batches:
            gradients, measured = self._compiled[bucket](state.params, gradients, batch)
            metrics.append(measured)
        state, gradients, measured = self._compiled[OPTIMIZER](state, gradients)
        return state, gradients, [*metrics, measured]
