"""The compiled programs of a run: all of them are made before the first update."""

import concurrent.futures
import functools
import os
import time
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

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
    update_at_once,
)
from muskie_jax.writers import duration, tell

OPTIMIZER = "optimizer"
Lower = Callable[[], jax.stages.Lowered]  # traces a program when it is called


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


class Place(NamedTuple):
    """A bucket, and whether its batch is the first of an update: the key of a gradient program."""

    bucket: Bucket
    is_first: bool

    def __str__(self) -> str:
        return str(self.bucket)


def training_programs(
    task: Task,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batches: Mapping[Bucket, Mapping[str, jax.ShapeDtypeStruct]],
    schedule: BucketSchedule,
    mesh: Mesh,
) -> dict[Place | str, Lower]:
    """What traces each program of training; see `Programs`.

    The devices of the mesh need not be there: their programs can be compiled without them.
    """
    whole = NamedSharding(mesh, P())
    # Results are pinned, so that a continued run runs the very programs of an uninterrupted one.
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    per_update = len(schedule.resolutions)
    if per_update == 1:
        step = jax.jit(
            functools.partial(update_at_once, task=task, optimizer=optimizer),
            donate_argnames=("state",),
            out_shardings=(shardings, whole),
        )
        lower = lambda bucket: functools.partial(step.lower, state, dict(batches[bucket]))
        return {Place(bucket, True): lower(bucket) for bucket in schedule.all()}
    gradient_step = jax.jit(
        functools.partial(accumulate_gradients, task=task, share=1.0 / per_update),
        donate_argnames=("gradients",),
        out_shardings=(shardings.params, whole),
    )
    optimizer_step = jax.jit(
        functools.partial(apply_gradients, optimizer=optimizer),
        donate_argnames=("state",),
        out_shardings=(shardings, whole),
    )
    params = state.params
    programs = {OPTIMIZER: functools.partial(optimizer_step.lower, state, params)}
    for bucket, is_first in schedule.positions():
        so_far = None if is_first else params
        lower = functools.partial(gradient_step.lower, params, so_far, dict(batches[bucket]))
        programs[Place(bucket, is_first)] = lower
    return programs


class Programs:
    """The programs of a run.

    Where an update has one batch there is one program per bucket, which does all of it. Else there is a
    gradient program per bucket (those of an update's first batch have no gradients to add to) and one for
    the optimizer.

    Args:
      training: see `training_programs`.
      others: more to compile at the same time, by name; their results are found by calling them.
    """

    def __init__(self, training: Mapping[Place | str, Lower], others: Mapping[str, Lower]):
        self._lower = {**training, **others}
        self._compiled: dict[Place | str, jax.stages.Compiled] = {}

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

    def update(
        self, state: TrainState, batches: Iterable[tuple[Bucket, Batch]]
    ) -> tuple[TrainState, list[dict[str, Mean]]]:
        """One update; `state` is used up. Returns at once, before it is computed."""
        if OPTIMIZER not in self._compiled:
            ((bucket, batch),) = batches
            state, measured = self._compiled[Place(bucket, True)](state, batch)
            return state, [measured]
        gradients, metrics = None, []
        for bucket, batch in batches:
            program = self._compiled[Place(bucket, gradients is None)]
            gradients, measured = program(state.params, gradients, batch)
            metrics.append(measured)
        state, measured = self._compiled[OPTIMIZER](state, gradients)
        return state, [*metrics, measured]
