"""Compiles all programs of a run before the first update, checks their memory, and runs them."""

import concurrent.futures
import contextlib
import functools
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from muskie_jax.buckets import Bucket
from muskie_jax.errors import UserError
from muskie_jax.fingerprint import LoweredExaminations
from muskie_jax.gpu.cudnn_capture_guard import CudnnCaptureGuard
from muskie_jax.metrics import Mean
from muskie_jax.models.muskie import REMAT
from muskie_jax.perf.machines import GIB
from muskie_jax.sharding import batch_sharding, platform
from muskie_jax.train_step import (
    Batch,
    Task,
    TrainState,
    accumulate_gradients,
    apply_gradients,
    single_batch_update,
)
from muskie_jax.writers import duration, log_main

OPTIMIZER = "optimizer"
ZERO_GRADIENTS = "zero gradients"
INITIAL_STATE = "initial state"
FINGERPRINTS = "fingerprints of checkpoints"
USE_LESS_MEMORY = (  # advice at the end of out-of-memory messages
    "lower config.batch.groups, set config.model.remat to 'elementwise', 'block' or 'full', or raise "
    "config.mesh.fsdp"
)
Lowered = jax.stages.Lowered | LoweredExaminations
Lower = Callable[[], Lowered]  # traces and lowers one program
LowerUpdate = Callable[[], jax.stages.Lowered]  # the same, for a program of an update
T = TypeVar("T")


@contextlib.contextmanager
def explain_out_of_memory(what: str) -> Iterator[None]:
    """Turns an out-of-memory error, at compile time or run time, into a UserError about `what`."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise UserError(f"{what} does not fit in device memory: {USE_LESS_MEMORY} ({reason})") from error


def _less_memory(config: ConfigDict) -> str:
    """Returns USE_LESS_MEMORY with a config's values, without kinds of rematerialisation that save less."""
    remat, kinds = config.model.remat, list(REMAT)  # from no saving to the largest
    stronger = " or ".join(map(repr, kinds[kinds.index(remat) + 1 :]))
    rematerialise = f" set config.model.remat (now {remat!r}) to {stronger}," if stronger else ""
    return (
        f"lower config.batch.groups (now {config.batch.groups}),{rematerialise} or raise config.mesh.fsdp "
        f"(now {config.mesh.fsdp})"
    )


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """Returns the result of `work()` and the seconds it took."""
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def batch_shapes(
    bucket: Bucket, groups: int, views: int, patch: int, mesh: Mesh, geometry: bool = False
) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and shardings of a batch: `groups` loaded groups of `views`, split to the bucket.

    With `geometry`, a batch has depth and cameras instead of masks.
    """
    batch = groups * views // bucket.views
    rows, columns = bucket.grid(patch)
    size = (bucket.height, bucket.width)
    entries = {"images": ((batch, bucket.views, *size, 3), jnp.uint8), "source": ((batch,), jnp.int32)}
    if geometry:
        entries["depth"] = ((batch, bucket.views, *size), jnp.float32)
        entries["intrinsics"] = ((batch, bucket.views, 3, 3), jnp.float32)
        entries["world_to_camera"] = ((batch, bucket.views, 4, 4), jnp.float32)
    else:
        entries["mask"] = ((batch, bucket.views, rows * columns), jnp.bool_)
    return {
        key: jax.ShapeDtypeStruct(shape, dtype, sharding=batch_sharding(key, mesh))
        for key, (shape, dtype) in entries.items()
    }


def peak_bytes(program: jax.stages.Compiled) -> int:
    """Returns the bytes that a program needs on one device: arguments, results and temporary arrays."""
    sizes = program.memory_analysis()
    assert sizes is not None
    results = sizes.output_size_in_bytes - sizes.alias_size_in_bytes  # results overwrite donated arguments
    return sizes.argument_size_in_bytes + results + sizes.temp_size_in_bytes


def device_bytes(tree: Any) -> int:
    """Returns the bytes of a tree's shards on one device. Leaves need a shape, dtype and sharding."""
    size = lambda leaf: math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    return sum(map(size, jax.tree.leaves(tree)))


def training_programs(
    task: Task,
    optimizer: optax.GradientTransformation,
    state: TrainState,
    batches: Mapping[Bucket, Mapping[str, jax.ShapeDtypeStruct]],
    batches_per_update: int,
    mesh: Mesh,
) -> dict[Bucket | str, LowerUpdate]:
    """Returns the lowering function of each training program, for the buckets of `batches`.

    `Programs` lists the programs. The mesh may describe devices that this machine does not have.
    """
    replicated = NamedSharding(mesh, P())
    # Output shardings are fixed, so that a resumed run compiles the same programs as an uninterrupted run.
    shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
    if batches_per_update == 1:
        step = jax.jit(
            functools.partial(single_batch_update, task=task, optimizer=optimizer),
            donate_argnames=("state",),
            out_shardings=(shardings, replicated),
        )
        return {
            bucket: functools.partial(step.lower, state, dict(batch)) for bucket, batch in batches.items()
        }
    params = state.params
    zeros = jax.jit(optax.tree.zeros_like, out_shardings=shardings.params)
    gradient_step = jax.jit(
        functools.partial(accumulate_gradients, task=task, weight=1.0 / batches_per_update),
        donate_argnames=("gradients",),
        out_shardings=(shardings.params, replicated),
    )
    optimizer_step = jax.jit(
        functools.partial(apply_gradients, optimizer=optimizer),
        donate_argnames=("state",),
        out_shardings=(shardings, replicated),
    )
    programs: dict[Bucket | str, LowerUpdate] = {
        ZERO_GRADIENTS: functools.partial(zeros.lower, params),
        OPTIMIZER: functools.partial(optimizer_step.lower, state, params),
    }
    for bucket, batch in batches.items():
        programs[bucket] = functools.partial(gradient_step.lower, params, params, dict(batch))
    return programs


def fast_compilation(mesh: Mesh) -> dict[str, Any] | None:
    """Returns the compiler options of `config.fast_compile`; None if a platform needs none.

    On a GPU, XLA compiles and times dozens of Triton kernels for each matrix product, and mostly selects
    cuBLAS in the end.
    """
    return {"xla_gpu_enable_triton_gemm": False} if platform(mesh) == "gpu" else None


class Programs:
    """Compiles and runs the programs of a run.

    Each bucket has one program. With one batch per update, it runs the update. With several batches, it
    adds the batch's gradients to the sum over earlier batches. Two more programs make the zeros that the
    sum starts from, and run the optimizer.

    Args:
      training: result of `training_programs`; small batches first.
      others: further programs to compile in parallel, by name. Their jitted functions find the compiled
        program in JAX's cache when called.
      quiet: whether to log no progress.
      compiler_options: options of XLA for the training programs.
    """

    def __init__(
        self,
        training: Mapping[Bucket | str, LowerUpdate],
        others: Mapping[str, Lower],
        quiet: bool = False,
        compiler_options: dict[str, Any] | None = None,
    ):
        self._options: dict[Bucket | str, Any] = dict.fromkeys(training, compiler_options)
        self._lower: dict[Bucket | str, Lower] = {**training, **others}
        # The slowest to compile come first, so that threads finish together: `others`, then large batches.
        self._queue = [*others, *reversed([*training])]
        self._quiet = quiet
        self._compiled: dict[Bucket | str, jax.stages.Compiled] = {}
        self._compiled_lock = threading.Lock()
        self.capture_guard = CudnnCaptureGuard(training)

    def compile(self) -> float:
        """Compiles all programs, logs the time of each, and returns the total seconds.

        Raises:
          UserError: if the compiler finds that a program does not fit in device memory.
        """
        start = time.perf_counter()
        self._log(f"Compiling {len(self._lower)} programs ...")
        threads = min(8, os.cpu_count() or 1)
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            try:
                # Tracing needs Python's global lock, so this thread traces while the pool compiles.
                compiling = [
                    pool.submit(self._compile, key, *timed(self._lower[key])) for key in self._queue
                ]
                for program in compiling:
                    program.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        elapsed = time.perf_counter() - start
        self._log(f"Compiled in {duration(elapsed)}")
        return elapsed

    def _compile(self, key: Bucket | str, lowered: Lowered, tracing_seconds: float) -> None:
        """Compiles a program, and logs its seconds of tracing and compilation."""
        with explain_out_of_memory(str(key)):
            compiled, seconds = timed(lambda: lowered.compile(self._options.get(key)))
        with self._compiled_lock:
            self._compiled[key] = compiled
            counter = f"{len(self._compiled)}/{len(self._lower)}"
            self._log(f"  {counter}  {key}: {tracing_seconds + seconds:.1f}s")

    def _log(self, message: str) -> None:
        if not self._quiet:
            log_main(message)

    def check_memory(self, state: TrainState, device: jax.Device, config: ConfigDict) -> None:
        """Logs the memory that programs need, and raises UserError if a device does not have it.

        The training state counts for every program.

        Args:
          state: shapes and shardings of the state.
          device: a device of this process. A device that reports no limit, such as a CPU, is not checked.
          config: the config whose settings the message quotes.
        """
        limit = (device.memory_stats() or {}).get("bytes_limit")
        if limit is None:
            return
        needed, key = self.needed_bytes(state)
        if needed > limit:
            raise UserError(
                f"{key} needs {needed / GIB:.1f} GiB per device, of which parameters and optimizer take "
                f"{device_bytes(state) / GIB:.1f} GiB, but JAX may use only {limit / GIB:.1f} GiB: "
                f"{_less_memory(config)}; on a GPU, XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 lets JAX use more "
                "memory"
            )
        self._log(f"Memory: {needed / GIB:.1f} of {limit / GIB:.1f} GiB, for {key}")

    def needed_bytes(self, state: TrainState) -> tuple[int, Bucket | str]:
        """Returns the peak bytes on a device over all programs, and the key of the program that needs them.

        The optimizer state counts for every program: as an argument or result, or as memory in use beside.
        """

        def needed(key: Bucket | str) -> int:
            has_opt_state = key in (OPTIMIZER, INITIAL_STATE) or (
                OPTIMIZER not in self._compiled and isinstance(key, Bucket)
            )
            beside = 0 if has_opt_state else device_bytes(state.opt_state)
            return peak_bytes(self._compiled[key]) + beside

        largest = max(self._compiled, key=needed)
        return needed(largest), largest

    def update(
        self, state: TrainState, batches: Iterable[tuple[Bucket, Batch]]
    ) -> tuple[TrainState, list[dict[str, Mean]]]:
        """Runs one update, and returns before the devices finish it. `state` is donated."""
        if OPTIMIZER not in self._compiled:
            ((bucket, batch),) = batches
            state, metrics = self._run(bucket, state, batch)
            return state, [metrics]
        gradients, all_metrics = self._run(ZERO_GRADIENTS, state.params), []
        for bucket, batch in batches:
            gradients, metrics = self._run(bucket, state.params, gradients, batch)
            all_metrics.append(metrics)
        state, metrics = self._run(OPTIMIZER, state, gradients)
        return state, [*all_metrics, metrics]

    def _run(self, key: Bucket | str, *arguments):
        return self.capture_guard.run_program(key, self._compiled[key], *arguments)
