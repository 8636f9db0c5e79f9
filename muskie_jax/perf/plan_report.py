"""Formats a plan for printing, and advises on a plan that does not fit."""

import dataclasses
import math

from muskie_jax.models.muskie import CHANNELS, REMAT, Muskie
from muskie_jax.models.reconstruction import Reconstruction
from muskie_jax.perf.machine_plan import MachinePlan, ProgramPlan, Workload, gpu_memory_fraction
from muskie_jax.perf.machines import GIB

COLUMNS = ("program", "memory GiB", "TFLOP", "XLA's", "HBM GB", "sent GB", "ms at least", "bound by")
LEFT_ALIGNED = ("program", "bound by")


def report(plan: MachinePlan, hints: tuple[str, ...]) -> str:
    """Returns the plan as text: header, table of programs, totals, verdict, and `hints` from `advice`."""
    lines = [
        *_header(plan), "",
        *_table(plan), "",
        *_totals(plan),
        *_verdict(plan),
        *(f"  {hint}" for hint in hints),
    ]  # fmt: skip
    return "\n".join(lines)


def _header(plan: MachinePlan) -> list[str]:
    machine = plan.machine
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan.workload.mesh.items())
    compiled = f"{len(plan.programs)}"
    if len(plan.programs) < plan.total_programs:
        compiled += f" of {plan.total_programs}"
    return [
        f"Plan for {machine.name}: {machine.chips} chips {machine.chip.name}, mesh {mesh}; "
        "all figures per chip",
        f"Parameters {plan.parameters / 1e6:.1f} million, {plan.parameter_bytes / GIB:.2f} GiB; "
        f"optimizer {plan.optimizer_bytes / GIB:.2f} GiB; {compiled} programs",
    ]


def _table(plan: MachinePlan) -> list[str]:
    rows = [COLUMNS, *(_cells(program, plan) for program in plan.programs)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = []
    for row in rows:
        cells = (
            cell.ljust(width) if column in LEFT_ALIGNED else cell.rjust(width)
            for column, cell, width in zip(COLUMNS, row, widths)
        )
        lines.append("  ".join(cells).rstrip())
    rule = "-" * max(map(len, lines))
    return [lines[0], rule, *lines[1:]]


def _cells(program: ProgramPlan, plan: MachinePlan) -> tuple[str, ...]:
    """Returns the cells of a program's row, in the order of COLUMNS; a dash means unknown."""
    memory = f"{program.peak / GIB:.2f}" + ("" if program.peak <= plan.limit else " !")
    compiler_flops, hbm, sent = program.compiler_flops, None, None
    if program.traffic:
        hbm, sent = program.traffic.memory, sum(program.traffic.sent.values())
    return (
        program.name,
        memory,
        f"{program.model_flops / 1e12:.2f}",
        "-" if compiler_flops is None else f"{compiler_flops / 1e12:.2f}",
        "-" if hbm is None else f"{hbm / 1e9:.1f}",
        "-" if sent is None else f"{sent / 1e9:.2f}",
        f"{1e3 * program.seconds(plan.machine):.3g}",
        program.bound(plan.machine),
    )


def _totals(plan: MachinePlan) -> list[str]:
    sent = [f"{kind} {size / 1e9:.2f} GB" for kind, size in sorted(_most_sent(plan).items())]
    lines = [
        f"Sent to other chips, most by one program: {'; '.join(sent) or 'nothing'}",
        "Roofline, an upper bound of speed: "
        f"{plan.update_seconds:.3g} s per update, {plan.views_per_second:,.0f} views/s, "
        f"{plan.days:.3g} days for {plan.workload.steps:,} updates",
    ]
    if plan.utilisation:
        days = plan.days_at(plan.utilisation)
        lines.append(f"At {plan.utilisation:.0%} of the peak (MFU, assumed): {days:.3g} days")
    if not plan.machine.chip.is_tpu:
        lines.append("Memory is estimated (muskie_jax/perf/memory.py); HBM traffic is not counted for GPUs")
        if not isinstance(plan.workload.task.model, Muskie):
            lines.append("The estimate for decoders was not compared with measurements")
    if not plan.machine.chip.has_bfloat16:
        lines.append(
            f"{plan.machine.chip.name} has no bfloat16 units: train with --config.model.dtype=float32. The "
            "roofline is for its float16 peak, which float32 does not reach"
        )
    return lines


def _most_sent(plan: MachinePlan) -> dict[str, float]:
    """Returns, for each kind of collective, the most bytes that one program sends."""
    most: dict[str, float] = {}
    for program in plan.programs:
        for kind, sent in (program.traffic.sent if program.traffic else {}).items():
            most[kind] = max(most.get(kind, 0.0), sent)
    return most


def _verdict(plan: MachinePlan) -> list[str]:
    verdict = "FITS" if plan.fits else "DOES NOT FIT"
    lines = [f"{verdict}: {plan.peak / GIB:.2f} GiB of {plan.limit / GIB:.2f} usable"]
    if not plan.machine.chip.is_tpu:
        lines.append(
            f"  JAX takes {gpu_memory_fraction():.0%} of a GPU's memory; "
            "XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 lets it have more"
        )
    if plan.fits and plan.peak + plan.code > plan.limit:
        lines.append(
            f"  Tight: if all {plan.total_programs} programs stay loaded, their code takes up to "
            f"{plan.code / GIB:.1f} GiB more; fewer buckets need less"
        )
    return lines


def advice(plan: MachinePlan) -> tuple[str, ...]:
    """Returns the mildest changes that should make a plan fit, as command-line flags.

    Rematerialisation and sharding keep the training recipe, so they are tried before smaller batches.
    """
    workload = plan.workload
    model, fsdp, groups = workload.task.model, workload.mesh["fsdp"], workload.groups
    old_remat = workload.task.backbone.remat
    devices = workload.machine.chips // workload.mesh["view"]  # devices along the axes data and fsdp
    buckets = [program.bucket for program in plan.programs if program.bucket]

    def estimated_peak(changed: Workload) -> float:
        return max(sum(changed.estimated_memory(bucket).values()) for bucket in buckets)

    # Corrects the estimate by its error for the planned config.
    correction = plan.peak / estimated_peak(workload)
    policies = list(REMAT)  # from the fastest policy to the policy that needs the least memory
    policies = policies[policies.index(old_remat) :]
    shards = [n for n in range(2, devices + 1) if devices % n == 0 and divides_kernels(model, n)]
    for new_groups in [n for n in range(groups, 0, -1) if n % devices == 0]:
        for new_fsdp in (fsdp, *shards):
            for remat in policies:
                changed = _change(workload, remat, new_fsdp, new_groups)
                if correction * estimated_peak(changed) > plan.limit:
                    continue
                changes = {
                    "model.remat": (old_remat, remat),
                    "mesh.fsdp": (fsdp, new_fsdp),
                    "batch.groups": (groups, new_groups),
                }
                flags = [f"--config.{key}={new}" for key, (old, new) in changes.items() if new != old]
                hints: tuple[str, ...] = (f"Should fit: {' '.join(flags)}",)
                if new_groups < groups:
                    times = math.ceil(groups / new_groups)
                    hints += (f"Or keep {groups} groups, on {times} times as many chips",)
                return hints
    return ("Even one group per chip does not fit, with any mesh: choose a larger machine",)


def _change(workload: Workload, remat: str, fsdp: int, groups: int) -> Workload:
    """Returns the workload with other settings; the axis data gets all remaining chips."""
    view, task = workload.mesh["view"], workload.task
    backbone = task.backbone.clone(remat=remat)
    model = backbone if isinstance(task.model, Muskie) else task.model.clone(backbone=backbone)
    return dataclasses.replace(
        workload,
        task=dataclasses.replace(task, model=model),  # pyright: ignore[reportArgumentType]
        mesh={"data": workload.machine.chips // view // fsdp, "fsdp": fsdp, "view": view},
        groups=groups,
    )


def divides_kernels(model: Muskie | Reconstruction, fsdp: int) -> bool:
    """Returns whether `fsdp` divides the sharded axes.

    Their lengths are multiples of the width, and the head's outputs or, in a decoder, half of the width.
    """
    if isinstance(model, Muskie):
        return math.gcd(model.width, 2 * CHANNELS * model.patch**2) % fsdp == 0
    return model.backbone.width // 2 % fsdp == 0
