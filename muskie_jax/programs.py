"""The compiled programs of a run: all of them are made before the first update."""

import concurrent.futures
import contextlib
import functools
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from muskie_jax.buckets import Bucket, BucketSchedule
from muskie_jax.cudnn_capture_guard import CudnnCaptureGuard
from muskie_jax.errors import UserError
from muskie_jax.metrics import Mean
from muskie_jax.perf.machines import GIB
from muskie_jax.sharding import batch_sharding
from muskie_jax.train_step import (
    Batch,
    Task,
    TrainState,
    accumulate_gradients,
    apply_gradients,
    update_at_once,
)
from muskie_jax.writers import duration, log_main

OPTIMIZER = "optimizer"
# What to change if memory does not suffice.
SMALLER = (
    "write a smaller config.batch.groups, config.model.remat='elementwise', 'block' or 'full', "
    "or a larger config.mesh.fsdp"
)
Lower = Callable[[], jax.stages.Lowered]  # traces a program when it is called
T = TypeVar("T")


@contextlib.contextmanager
def refused_if_too_large(what: str) -> Iterator[None]:
    """Raises UserError where the compiler, or a program that runs, finds too little memory."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"{what} does not fit the devices' memory: {SMALLER} ({reason})") from error


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """What some work returns, and its seconds."""
    began = time.perf_counter()
    return work(), time.perf_counter() - began


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


def peak_bytes(program: jax.stages.Compiled) -> int:
    """Memory that a program needs on a device: arguments, results, and all between."""
    sizes = program.memory_analysis()
    own = sizes.output_size_in_bytes - sizes.alias_size_in_bytes + sizes.temp_size_in_bytes
    return sizes.argument_size_in_bytes + own


def device_bytes(tree: Any) -> int:
    """Memory that arrays take of one device; leaves have a shape, a type and a sharding."""
    size = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return sum(map(size, jax.tree.leaves(tree)))


class ProgramKey(NamedTuple):
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
) -> dict[ProgramKey | str, Lower]:
    """What traces each program of training, for the buckets of `batches`; see `Programs`.

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
        return {ProgramKey(bucket, True): lower(bucket) for bucket in batches}
    gradient_step = jax.jit(
        functools.partial(accumulate_gradients, task=task, weight=1.0 / per_update),
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
        if bucket in batches:
            so_far = None if is_first else params
            lower = functools.partial(gradient_step.lower, params, so_far, dict(batches[bucket]))
            programs[ProgramKey(bucket, is_first)] = lower
    return programs


class Programs:
    """The programs of a run.

    Where an update has one batch there is one program per bucket, which does all of it. Else there is a
    gradient program per bucket (those of an update's first batch have no gradients to add to) and one for
    the optimizer.

    Args:
      training: see `training_programs`; small batches come first.
      others: more to compile at the same time, by name; their results are found by calling them.
      quiet: whether to say nothing of progress.
    """

    def __init__(
        self, training: Mapping[ProgramKey | str, Lower], others: Mapping[str, Lower], quiet: bool = False
    ):
        self._lower = {**training, **others}
        # The longest first, so that threads end together: renderers, and large batches before small ones.
        self._queue = [*others, *reversed(training)]
        self._tell = (lambda text: None) if quiet else log_main
        self._compiled: dict[ProgramKey | str, jax.stages.Compiled] = {}
        self._telling = threading.Lock()
        self.capture_guard = CudnnCaptureGuard(training)

    def compile(self) -> float:
        """Traces and compiles all programs, tells how long each took, and returns the seconds of all.

        Raises:
          UserError: if the compiler says that a program does not fit the devices' memory.
        """
        start = time.perf_counter()
        self._tell(f"Compiling {len(self._lower)} programs ...")
        threads = min(8, os.cpu_count() or 1)
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            try:
                # Tracing is Python, of which only one thread runs at a time: others compile meanwhile.
                compiling = [
                    pool.submit(self._compile, key, *timed(self._lower[key])) for key in self._queue
                ]
                for program in compiling:
                    program.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        elapsed = time.perf_counter() - start
        self._tell(f"Compiled in {duration(elapsed)}")
        return elapsed

    def _compile(self, key: ProgramKey | str, lowered: jax.stages.Lowered, seconds: float) -> None:
        """Compiles a program, and tells how long that and its tracing, `seconds`, took."""
        with refused_if_too_large(str(key)):
            compiled, more = timed(lowered.compile)
        with self._telling:
            self._compiled[key] = compiled
            self._tell(f"  {len(self._compiled)}/{len(self._lower)}  {key}: {seconds + more:.1f}s")

    def check_memory(self, state: TrainState, device: jax.Device, config: ConfigDict) -> None:
        """Raises UserError if a program and what lies beside it do not fit a device.

        Args:
          state: shapes and shardings.
          device: one of this process; nothing is known of CPUs.
          config: for what the message says.
        """
        limit = (device.memory_stats() or {}).get("bytes_limit")
        if limit is None:
            return
        need, key = self.needed_bytes(state)
        if need > limit:
            held = device_bytes(state)
            raise UserError(
                f"{key} needs {need / GIB:.1f} GiB of every device, {held / GIB:.1f} of them for "
                f"parameters and optimizer, and JAX has {limit / GIB:.1f}: {SMALLER} (now "
                f"{config.batch.groups}, {config.model.remat!r}, fsdp={config.mesh.fsdp}); "
                "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 lets JAX have more of a GPU"
            )

    def needed_bytes(self, state: TrainState) -> tuple[int, ProgramKey | str]:
        """The most memory of a device that a program and the state beside it need, and which one does."""

        def need(key):
            is_update = key == OPTIMIZER or (
                OPTIMIZER not in self._compiled and isinstance(key, ProgramKey)
            )
            return peak_bytes(self._compiled[key]) + (0 if is_update else device_bytes(state.opt_state))

        most = max(self._compiled, key=need)
        return need(most), most

    def update(
        self, state: TrainState, batches: Iterable[tuple[Bucket, Batch]]
    ) -> tuple[TrainState, list[dict[str, Mean]]]:
        """One update; `state` is used up. Returns at once, before it is computed."""
        if OPTIMIZER not in self._compiled:
            ((bucket, batch),) = batches
            state, measured = self._run(ProgramKey(bucket, True), state, batch)
            return state, [measured]
        gradients, metrics = None, []
        for bucket, batch in batches:
            place = ProgramKey(bucket, gradients is None)
            gradients, measured = self._run(place, state.params, gradients, batch)
            metrics.append(measured)
        state, measured = self._run(OPTIMIZER, state, gradients)
        return state, [*metrics, measured]

    def _run(self, key: ProgramKey | str, *arguments):
        return self.capture_guard.run(key, self._compiled[key], *arguments)
