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

from muskie_jax.data.buckets import Bucket, BucketSchedule
from muskie_jax.metrics import Mean
from muskie_jax.sharding import batch_sharding
from muskie_jax.train_step import (
    Batch,
    Task,
    TrainState,
    accumulate_gradients,
    apply_gradients,
)
from muskie_jax.writers import duration, tell

OPTIMIZER = "optimizer"
Key = str | tuple[Bucket, bool]  # of a program: its name, or a bucket and whether it begins an update


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


def training_programs(
    task: Task,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batches: Mapping[Bucket, Mapping[str, jax.ShapeDtypeStruct]],
    schedule: BucketSchedule,
    mesh: Mesh,
) -> dict[Key, Callable[[], jax.stages.Lowered]]:
    """What traces the gradient programs of all `batches`, and OPTIMIZER's; see `Programs`.

    The devices of the mesh need not be there: their programs can be compiled without them.
    """
    whole = NamedSharding(mesh, P())
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    gradient_step = jax.jit(
        functools.partial(accumulate_gradients, task=task, share=1.0 / len(schedule.resolutions)),
        donate_argnames=("gradients",),
        # Pinned, so that a continued run runs the very programs of an uninterrupted one.
        out_shardings=(shardings.params, whole),
    )
    optimizer_step = jax.jit(
        functools.partial(apply_gradients, optimizer=optimizer),
        donate_argnames=("state",),
        out_shardings=(shardings, whole),
    )
    params = state.params
    lower: dict[Key, Callable[[], jax.stages.Lowered]] = {
        OPTIMIZER: functools.partial(optimizer_step.lower, state, params)
    }
    for bucket, first in schedule.positions():
        if bucket in batches:
            gradients = None if first else params
            arguments = (params, gradients, dict(batches[bucket]))
            lower[bucket, first] = functools.partial(gradient_step.lower, *arguments)
    return lower


class Programs:
    """One gradient program per bucket, and one for the optimizer.

    An update's first batch has programs of its own, without gradients to add to.

    Args:
      task, optimizer: what to compute.
      state: the state's shapes, with shardings.
      batches: the shapes of every bucket's batches.
      schedule: which buckets there are, and how many an update averages.
      mesh: the devices.
      others: more to compile at the same time, by name; their results are found by calling them.
    """

    def __init__(
        self,
        task: Task,
        optimizer: optax.GradientTransformation,
        state: TrainState,
        batches: Mapping[Bucket, Mapping[str, jax.ShapeDtypeStruct]],
        schedule: BucketSchedule,
        mesh: Mesh,
        others: Mapping[str, Callable[[], jax.stages.Lowered]],
    ):
        training = training_programs(task, optimizer, state, batches, schedule, mesh)
        self._lower = {OPTIMIZER: training.pop(OPTIMIZER), **others, **training}
        self._compiled: dict[Key, Any] = {}

    def compile(self) -> None:
        """Traces and compiles all programs, and tells how long each took."""
        start = time.perf_counter()
        total = len(self._lower)
        tell(f"Compiling {total} programs ...")

        def make(key):
            began = time.perf_counter()
            self._compiled[key] = self._lower[key]().compile()
            seconds = time.perf_counter() - began
            name = key if isinstance(key, str) else key[0]
            tell(f"  {len(self._compiled)}/{total}  {name}: {seconds:.1f}s")

        # On a GPU one run of two failed to load cuDNN's attention when programs were compiled side by
        # side (jax 0.11.2, H100); XLA spreads the work of each over all cores by itself there.
        threads = 1 if jax.default_backend() == "gpu" else min(8, os.cpu_count() or 1)
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            list(pool.map(make, self._lower))
        tell(f"Compiled in {duration(time.perf_counter() - start)}")

    def update(
        self, state: TrainState, batches: Iterable[tuple[Bucket, Batch]]
    ) -> tuple[TrainState, list[dict[str, Mean]]]:
        """One update; `state` is used up. Returns at once, before it is computed."""
        gradients, metrics = None, []
        for bucket, batch in batches:
            program = self._compiled[bucket, gradients is None]
            gradients, measured = program(state.params, gradients, batch)
            metrics.append(measured)
        state, measured = self._compiled[OPTIMIZER](state, gradients)
        return state, [*metrics, measured]
