"""Compiles a config's programs for a machine that need not be there, and says what they need of it."""

import concurrent.futures
import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import re
import time
from collections.abc import Sequence
from typing import Any

import jax
from jax.experimental import topologies
from ml_collections import ConfigDict

from muskie_jax.buckets import Bucket, BucketSchedule
from muskie_jax.checks import suggest
from muskie_jax.config import total_steps, validate
from muskie_jax.errors import UserError
from muskie_jax.files import create_workdir
from muskie_jax.models.attention import PLATFORMS
from muskie_jax.optim import make_optimizer
from muskie_jax.perf.flops import hardware_flops, training_flops
from muskie_jax.perf.hlo import traffic
from muskie_jax.perf.machines import Machine, parse_machine
from muskie_jax.perf.memory import training_memory
from muskie_jax.perf.plan_report import MachinePlan, ProgramPlan, advice, gpu_share, report
from muskie_jax.programs import OPTIMIZER, batch_shapes, device_bytes, training_programs
from muskie_jax.sharding import check_batch, group_shards, make_mesh
from muskie_jax.train_step import Task, abstract_state, make_task
from muskie_jax.writers import duration, log_main


def plan(config: ConfigDict, workdir: pathlib.Path) -> dict[str, Any]:
    """Compiles, prints a table, and writes `plan.json`; needs no data and none of the devices.

    Args:
      config: see `muskie_jax.config.default_config`.
      workdir: for `plan.json`.

    Returns:
      `fits`, `peak_gib`, `views_per_second` and `days` (both bounds by the roofline), and more; see
      `docs/plan.md`.

    Raises:
      UserError: for an unknown machine or bucket, or a batch that the mesh cannot split.
    """
    # --- Machine, model, batches ---------------------------------------------------------------------
    validate(config)
    create_workdir(workdir)
    machine = parse_machine(config.plan.machine)
    if not machine.chip.is_tpu:
        gpu_share()  # a mistake is told before minutes of compiling
    schedule = BucketSchedule(config.buckets.resolutions, config.buckets.views, config.seed)
    chosen = choose_buckets(config.plan.buckets, schedule.all())
    mesh = make_mesh(config.mesh, machine_devices(machine))
    check_batch(config, mesh)
    task = task_for(config, machine, mesh)
    model, optimizer = task.model, make_optimizer(config)
    state = abstract_state(model, optimizer, mesh)
    shapes = {
        bucket: batch_shapes(bucket, config.batch.groups, config.batch.views, model.patch, mesh)
        for bucket in chosen
    }
    log_main(
        f"Planning {config.model.variant} on {machine.chips} {machine.chip.name}, mesh {dict(mesh.shape)}"
    )

    # --- Compile -------------------------------------------------------------------------------------
    per_update = len(schedule.resolutions)
    lower = by_bucket(training_programs(task, optimizer, state, shapes, schedule, mesh))
    compiled = compile_all(lower, machine)

    # --- What each program needs ---------------------------------------------------------------------
    moments = device_bytes(state.opt_state)
    images = {b: device_bytes(shape) for b, shape in shapes.items()}
    waiting = config.data.prefetch * per_update * max(images.values())
    programs = []
    for key, found in compiled.items():
        flops = dict.fromkeys(("model", "executed"), 0.0)
        if key != OPTIMIZER:
            groups = config.batch.groups * config.batch.views // key.views / group_shards(mesh)
            share = groups / mesh.shape["view"]
            views, slots = mesh.shape["view"], task.slots(key)
            flops["model"] = share * training_flops(model, key, slots)
            flops["executed"] = share * hardware_flops(model, key, machine.chip.is_tpu, views, slots)
        if machine.chip.is_tpu:
            # Neither the moments nor batches that wait are arguments of a gradient program.
            has_moments = key == OPTIMIZER or OPTIMIZER not in compiled
            others = waiting + (0 if has_moments else moments)
            parts = None if found.memory is None else found.memory | {"elsewhere": others}
            peak = others + (found.needed if parts is None else sum(parts.values()))
        else:
            size = key if key != OPTIMIZER else max(chosen, key=lambda b: b.height * b.width)
            parts = training_memory(
                model, size, config.batch.groups * config.batch.views // size.views, dict(mesh.shape),
                config.data.prefetch * per_update, per_update, task.slots(size),
            )  # fmt: skip
            if key == OPTIMIZER:
                parts = {name: parts[name] for name in ("parameters", "optimizer", "gradients", "batches")}
            peak = sum(parts.values())
        programs.append(
            ProgramPlan(
                key, peak, parts, flops["model"], flops["executed"], found.flops, found.traffic, found.code
            )
        )

    # --- The whole -----------------------------------------------------------------------------------
    result = MachinePlan(
        machine=machine,
        mesh=dict(mesh.shape),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        parameter_bytes=device_bytes(state.params),
        optimizer_bytes=moments,
        programs=tuple(programs),
        total_programs=len(schedule.positions()) + (OPTIMIZER in compiled),
        schedule=schedule,
        groups=config.batch.groups,
        views=config.batch.views,
        steps=total_steps(config),
        utilisation=config.plan.utilisation,
        task=task,
    )
    hints = () if result.fits else advice(result, config)
    print(report(result, hints), flush=True)
    details = result.as_dict() | {"advice": list(hints), "workdir": str(workdir)}
    (workdir / "plan.json").write_text(json.dumps(details, indent=1) + "\n")
    return {key: value for key, value in details.items() if key != "programs"}


def machine_devices(machine: Machine) -> Sequence[jax.Device]:
    """Devices to compile for: a TPU topology's; for GPUs as many virtual CPU devices."""
    if machine.chip.is_tpu:
        if importlib.util.find_spec("libtpu") is None:
            raise UserError(
                "plans for TPUs need their compiler: python -m pip install libtpu -c constraints.txt"
            )
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no TPU to ask
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")  # nor one that can be taken from others
        try:
            return topologies.get_topology_desc(platform="tpu", topology_name=machine.name).devices
        except jax.errors.JaxRuntimeError as error:  # a shape that the compiler does not know
            reason = " ".join(str(error).split())
            raise UserError(f"config.plan.machine={machine.name!r}: {reason}") from error
    with contextlib.suppress(RuntimeError):  # if JAX has its devices already, they may be enough
        jax.config.update("jax_num_cpu_devices", machine.chips)
    devices = jax.devices("cpu")
    if len(devices) < machine.chips:
        raise UserError(f"config.plan.machine={machine.name!r} needs {machine.chips} virtual devices")
    return devices[: machine.chips]


def task_for(config: ConfigDict, machine: Machine, mesh: jax.sharding.Mesh) -> Task:
    """The task as it is trained on the machine. For GPUs, whose attention cannot be compiled here, the
    plain one stands in: it is split over devices alike.

    Raises:
      UserError: for a kind of attention that the machine does not have.
    """
    config = config.copy_and_resolve_references()
    if not machine.chip.is_tpu:
        attention = config.model.attention
        if PLATFORMS.get(attention, "gpu") != "gpu":
            raise UserError(
                f"config.model.attention={attention!r} does not run on {machine.name}: write 'auto'"
            )
        config.model.attention = "xla"
    return make_task(config, mesh, len(config.sources))


def by_bucket(lower: dict) -> dict[Bucket | str, Any]:
    """One program per bucket: of two, the one that adds to gradients, which needs more memory."""
    chosen = {OPTIMIZER: lower[OPTIMIZER]} if OPTIMIZER in lower else {}
    for key in lower:
        if key != OPTIMIZER and (not key[1] or (key[0], False) not in lower):
            chosen[key[0]] = lower[key]
    return chosen


def choose_buckets(text: str, known: Sequence[Bucket]) -> tuple[Bucket, ...]:
    """Reads `all`, or buckets as height x width x views: "224x224x8, 512x512x1"."""
    if text.strip() == "all":
        return tuple(known)
    by_name = {f"{b.height}x{b.width}x{b.views}": b for b in known}
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in by_name:
            hint = suggest(name, by_name)
            raise UserError(
                f"config.plan.buckets: no {name!r}: write 'all' or heights x widths x views{hint}"
            )
    return tuple(by_name[name] for name in names)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler says of a program: bytes by part (None if it found too little memory, `needed`
    says how much it wanted), its count of FLOPs, traffic, and bytes of code."""

    memory: dict[str, float] | None = None
    needed: float = 0.0
    flops: float | None = None
    traffic: Any = None
    code: float = 0.0


def compile_all(lower: dict, machine: Machine) -> dict[Bucket | str, Compiled]:
    """Compiles programs side by side and tells of each."""
    start, done = time.perf_counter(), []
    log_main(f"Compiling {len(lower)} programs ...")

    def make(key) -> Compiled:
        began = time.perf_counter()
        found = compile_one(lower[key](), machine)
        done.append(key)
        note = "" if found.memory or not machine.chip.is_tpu else ": does not fit"
        seconds = time.perf_counter() - began
        log_main(f"  {len(done)}/{len(lower)}  {key}: {seconds:.0f}s{note}")
        return found

    with concurrent.futures.ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        results = list(pool.map(make, lower))
    log_main(f"Compiled in {duration(time.perf_counter() - start)}")
    return dict(zip(lower, results))


def compile_one(lowered: jax.stages.Lowered, machine: Machine) -> Compiled:
    """Compiles a program and reads memory, FLOPs and traffic out of it."""
    if not machine.chip.is_tpu:
        # Only the collectives are of interest, so the processor's code need not be good.
        quick = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
        text = lowered.compile(quick).as_text()
        counted = traffic(text, machine.chips)
        return Compiled(traffic=dataclasses.replace(counted, memory=None))
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = memory_wanted(str(error))
        if needed is None:
            raise
        return Compiled(needed=needed)
    stats = compiled.memory_analysis()
    memory = {
        "arguments": stats.argument_size_in_bytes,
        "results": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "temporary": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    flops = compiled.cost_analysis().get("flops")
    counted = traffic(compiled.as_text(), machine.chips)
    return Compiled(memory, 0.0, flops, counted, memory["code"])


def memory_wanted(message: str) -> float | None:
    """Bytes that a program would take, of the compiler's complaint that a chip has too few; None for any
    other message. One of its two wordings leaves out the arguments, so that it is a lower bound."""
    number = r"([\d.]+)([MGT])"
    found = re.search(rf"memory space hbm. Used {number}|HLO temporaries \({number}\)", message)
    if not found:
        return None
    size, unit = (group for group in found.groups() if group)
    return float(size) * {"M": 2**20, "G": 2**30, "T": 2**40}[unit]
