"""Job `plan`: compiles a config's programs for a machine and predicts memory, traffic and time.

The machine need not be present.
"""

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax.experimental import topologies
from jax.sharding import Mesh
from ml_collections import ConfigDict

from muskie_jax.buckets import Bucket, BucketSchedule
from muskie_jax.checks import suggest
from muskie_jax.config import total_steps, validate
from muskie_jax.errors import UserError
from muskie_jax.files import create_workdir
from muskie_jax.models.attention import PLATFORMS
from muskie_jax.optim import make_optimizer
from muskie_jax.perf.hlo import Traffic, estimate_traffic
from muskie_jax.perf.machine_plan import MachinePlan, ProgramPlan, Workload, gpu_memory_fraction
from muskie_jax.perf.machines import Machine, parse_machine
from muskie_jax.perf.plan_report import advice, report
from muskie_jax.programs import (
    OPTIMIZER,
    ZERO_GRADIENTS,
    LowerUpdate,
    batch_shapes,
    device_bytes,
    training_programs,
)
from muskie_jax.reconstruction.settings import has_geometry
from muskie_jax.sharding import check_batch, make_mesh
from muskie_jax.train_step import Task, abstract_state, make_task
from muskie_jax.writers import duration, log_main

OPTIMIZER_PARTS = ("parameters", "optimizer", "gradients", "batches")  # see `training_memory`


def plan(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Compiles a config's programs for a machine, prints a table, and writes `plan.json`.

    Neither data nor the machine's devices are needed.

    Args:
      config: the config (`muskie_jax.config.default_config`), mainly its section `plan`.
      workdir: folder of `plan.json`.

    Returns:
      The contents of `plan.json` without `programs`: `fits`, `peak_gib`, `roofline_views_per_second`,
      `roofline_days` and more; see `docs/plan.md`.

    Raises:
      UserError: for an unknown machine or bucket, or a batch that cannot be split over the mesh.
    """
    validate(config)
    create_workdir(workdir)

    # --- Machine -------------------------------------------------------------------------------------
    machine = parse_machine(config.plan.machine)
    if not machine.chip.is_tpu:
        gpu_memory_fraction()  # raises for an invalid fraction before minutes of compilation
    schedule = BucketSchedule.of(config)
    buckets = parse_buckets(config.plan.buckets, schedule.all())
    mesh = make_mesh(config.mesh, machine_devices(machine))
    check_batch(config, mesh)

    # --- Model ---------------------------------------------------------------------------------------
    task, optimizer = make_machine_task(config, machine, mesh), make_optimizer(config)
    state = abstract_state(task.model, optimizer, mesh)
    workload = Workload(
        machine=machine,
        mesh=dict(mesh.shape),
        task=task,
        schedule=schedule,
        groups=config.batch.groups,
        views=config.batch.views,
        prefetched=config.data.prefetch * schedule.batches_per_update,
        steps=total_steps(config),
    )

    # --- Shapes --------------------------------------------------------------------------------------
    batch, patch, geometry = config.batch, config.model.patch, has_geometry(config)
    shapes = {
        bucket: batch_shapes(bucket, batch.groups, batch.views, patch, mesh, geometry) for bucket in buckets
    }
    moments = device_bytes(state.opt_state)
    waiting_batches = workload.prefetched * max(map(device_bytes, shapes.values()))

    # --- Compile -------------------------------------------------------------------------------------
    decoder = f" with {config.reconstruct.decoder_depth} decoder blocks" if geometry else ""
    log_main(
        f"Planning {config.model.variant}{decoder} on {machine.chips} {machine.chip.name}, "
        f"mesh {dict(mesh.shape)}"
    )
    lowered = training_programs(task, optimizer, state, shapes, schedule.batches_per_update, mesh)
    lowered.pop(ZERO_GRADIENTS, None)  # takes next to no time, and no more memory than the others
    compiled = compile_all(lowered, machine)

    # --- Figures of each program ---------------------------------------------------------------------
    programs = []
    for key, program in compiled.items():
        bucket = key if isinstance(key, Bucket) else None
        if machine.chip.is_tpu:
            moments_are_arguments = bucket is None or OPTIMIZER not in compiled
            beside = waiting_batches + (0 if moments_are_arguments else moments)
            peak, parts = tpu_memory(program, beside)
        else:
            peak, parts = gpu_memory(workload, bucket, buckets)
        programs.append(
            ProgramPlan(
                bucket=bucket,
                peak=peak,
                parts=parts,
                model_flops=workload.model_flops(bucket) if bucket else 0.0,
                hardware_flops=workload.hardware_flops(bucket) if bucket else 0.0,
                compiler_flops=program.flops,
                traffic=program.traffic,
                code=program.code,
            )
        )

    # --- Figures of the run --------------------------------------------------------------------------
    result = MachinePlan(
        workload=workload,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        parameter_bytes=device_bytes(state.params),
        optimizer_bytes=moments,
        programs=tuple(programs),
        total_programs=len(schedule.all()) + (OPTIMIZER in compiled),
        utilisation=config.plan.utilisation,
    )
    hints = () if result.fits else advice(result)
    print(report(result, hints), flush=True)
    details = result.as_dict() | {"advice": list(hints), "workdir": str(workdir)}
    (workdir / "plan.json").write_text(json.dumps(details, indent=1) + "\n")
    return {key: value for key, value in details.items() if key != "programs"}


# --- Machine, model, buckets -------------------------------------------------------------------------


def machine_devices(machine: Machine) -> Sequence[jax.Device]:
    """Returns devices to compile for: the devices of a TPU topology, or one virtual CPU device per GPU.

    Raises:
      UserError: if libtpu is missing, or if the compiler does not know the topology.
    """
    if machine.chip.is_tpu:
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(
                "plans for TPUs need their compiler: run python -m pip install libtpu -c constraints.txt"
            )
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to answer the query
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # no TPU is taken from other processes
        try:
            return topologies.get_topology_desc(platform="tpu", topology_name=machine.name).devices
        except jax.errors.JaxRuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(f"config.plan.machine={machine.name!r}: {reason}") from error
    with contextlib.suppress(RuntimeError):  # raised if JAX has started; it may have enough devices
        jax.config.update("jax_num_cpu_devices", machine.chips)
    devices = jax.devices("cpu")
    if len(devices) < machine.chips:
        raise UserError(
            f"config.plan.machine={machine.name!r} needs {machine.chips} virtual CPU devices, but JAX has "
            f"started with {len(devices)}: run the plan in a new process"
        )
    return devices[: machine.chips]


def make_machine_task(config: ConfigDict, machine: Machine, mesh: Mesh) -> Task:
    """Returns the training task for the given machine.

    GPU attention kernels cannot be compiled without a GPU, so XLA's attention replaces them; it is sharded
    the same way.

    Raises:
      UserError: for an attention kernel that does not run on the machine.
    """
    config = config.copy_and_resolve_references()
    if not machine.chip.is_tpu:
        attention = config.model.attention
        if PLATFORMS.get(attention, "gpu") != "gpu":
            raise UserError(
                f"config.model.attention={attention!r} does not run on {machine.name}: use 'auto'"
            )
        config.model.attention = "xla"
    return make_task(config, mesh, len(config.sources))


def parse_buckets(text: str, known: Sequence[Bucket]) -> tuple[Bucket, ...]:
    """Parses "all", or buckets as height x width x views: "224x224x8, 512x512x1".

    Raises:
      UserError: for a bucket that the config does not have.
    """
    if text.strip() == "all":
        return tuple(known)
    by_name = {f"{b.height}x{b.width}x{b.views}": b for b in known}
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in by_name:
            hint = suggest(name, by_name)
            raise UserError(
                f"config.plan.buckets has {name!r}, which is not a bucket (height x width x views) of the "
                f"config: use 'all' or its buckets{hint}"
            )
    return tuple(by_name[name] for name in names)


# --- Compilation -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CompiledProgram:
    """The compiler's figures of a program, per chip.

    Attributes:
      memory: bytes by part; None if the program does not fit in memory, or if it is for a GPU.
      needed: bytes that the compiler asked for if the program does not fit in memory; 0 if it fits.
      flops: the compiler's FLOP count; None if unknown.
      traffic: estimated traffic; None if the program does not fit in memory.
      code: bytes of machine code.
    """

    memory: dict[str, float] | None = None
    needed: float = 0.0
    flops: float | None = None
    traffic: Traffic | None = None
    code: float = 0.0


def compile_all(
    lowered: Mapping[Bucket | str, LowerUpdate], machine: Machine
) -> dict[Bucket | str, CompiledProgram]:
    """Compiles programs in parallel, and logs a line for each program."""
    start, finished = time.perf_counter(), []
    log_main(f"Compiling {len(lowered)} programs ...")

    def compile_key(key: Bucket | str) -> CompiledProgram:
        began = time.perf_counter()
        program = compile_one(lowered[key](), machine)
        finished.append(key)
        note = "" if program.memory or not machine.chip.is_tpu else ": does not fit"
        seconds = time.perf_counter() - began
        log_main(f"  {len(finished)}/{len(lowered)}  {key}: {seconds:.0f}s{note}")
        return program

    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        programs = list(pool.map(compile_key, lowered))
    log_main(f"Compiled in {duration(time.perf_counter() - start)}")
    return dict(zip(lowered, programs))


def compile_one(lowered: jax.stages.Lowered, machine: Machine) -> CompiledProgram:
    """Compiles a program and returns its figures.

    Programs for GPUs are compiled for virtual CPU devices, so only the traffic of collectives is known.
    """
    if not machine.chip.is_tpu:
        # The program never runs, so the compiler need not optimise its code.
        quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
        traffic = estimate_traffic(lowered.compile(quick).as_text(), machine.chips)
        return CompiledProgram(traffic=dataclasses.replace(traffic, memory=None))
    try:
        with warnings.catch_warnings():
            # JAX keeps the program in its cache, but can read it on a TPU only, and compiles it again.
            warnings.filterwarnings("ignore", "Error reading persistent compilation cache entry")
            compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = parse_needed_memory(str(error))
        if needed is None:
            raise
        return CompiledProgram(needed=needed)
    stats = compiled.memory_analysis()
    assert stats is not None, "the TPU compiler analyses memory"
    memory = {
        "arguments": stats.argument_size_in_bytes,
        "results": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporary": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    return CompiledProgram(
        memory=memory,
        flops=(compiled.cost_analysis() or {}).get("flops"),
        traffic=estimate_traffic(compiled.as_text(), machine.chips),
        code=memory["code"],
    )


def parse_needed_memory(message: str) -> float | None:
    """Returns the bytes that a program needs, from a TPU compiler's out-of-memory error.

    The result is a lower bound, since one of the error's two wordings leaves out the arguments. It is None
    for any other message.
    """
    number = r"([\d.]+)([MGT])"
    found = re.search(rf"memory space hbm. Used {number}|HLO temporaries \({number}\)", message)
    if not found:
        return None
    size, unit = (group for group in found.groups() if group)
    return float(size) * {"M": 2**20, "G": 2**30, "T": 2**40}[unit]


# --- Memory ------------------------------------------------------------------------------------------


def tpu_memory(program: CompiledProgram, beside: float) -> tuple[float, dict[str, float] | None]:
    """Returns the peak bytes of a program, and the bytes by part if it compiled.

    `beside` counts the bytes of arrays in memory that are not arguments of the program.
    """
    if program.memory is None:
        return beside + program.needed, None
    parts = program.memory | {"elsewhere": beside}
    return sum(parts.values()), parts


def gpu_memory(
    workload: Workload, bucket: Bucket | None, buckets: Sequence[Bucket]
) -> tuple[float, dict[str, float]]:
    """Returns the estimated peak bytes of a bucket's program, and the bytes by part.

    Bucket None is the optimizer; prefetched batches of the largest of `buckets` are then in memory.
    """
    if bucket:
        parts = workload.estimated_memory(bucket)
    else:
        largest = max(buckets, key=lambda b: b.height * b.width)
        estimated = workload.estimated_memory(largest)
        parts = {name: estimated[name] for name in OPTIMIZER_PARTS}
    return sum(parts.values()), parts
