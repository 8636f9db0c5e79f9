"""A plan as figures: roofline times, the whole run, the table, and what to change if it does not fit."""

import dataclasses
import functools
import math
import os
from typing import Any

from ml_collections import ConfigDict

from muskie_jax.buckets import Bucket, BucketSchedule
from muskie_jax.errors import UserError
from muskie_jax.models.muskie import CHANNELS, REMAT, Muskie
from muskie_jax.perf.flops import hardware_flops, training_flops
from muskie_jax.perf.hlo import Traffic
from muskie_jax.perf.machines import GIB, Machine
from muskie_jax.perf.memory import training_memory
from muskie_jax.programs import OPTIMIZER
from muskie_jax.train_step import Task

USABLE_TPU = 0.98  # of a TPU's memory; the rest is the runtime's: 15.75 of 16 GiB on v5e
USABLE_GPU = 0.75  # of a GPU's: what JAX takes, unless XLA_PYTHON_CLIENT_MEM_FRACTION says more


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """What one program needs on each chip.

    Attributes:
      name: its bucket, or OPTIMIZER.
      peak: bytes of memory while it runs; `parts` what they are for, if they are known one by one.
      model_flops, hardware_flops: see `muskie_jax.perf.flops`; 0 for the optimizer.
      compiler_flops: XLA's count, which sees neither inside kernels nor that loops repeat.
      traffic: what it moves; None if it was not compiled to the end.
      code: bytes of machine code.
    """

    name: Bucket | str
    peak: float
    parts: dict[str, float] | None
    model_flops: float
    hardware_flops: float
    compiler_flops: float | None
    traffic: Traffic | None
    code: float

    def times(self, machine: Machine) -> dict[str, float]:
        """Seconds that each resource needs at its peak: `compute`, `memory`, `interconnect`."""
        chip, moved = machine.chip, self.traffic
        return {
            "compute": self.hardware_flops / chip.flops,
            "memory": (moved.memory or 0.0) / chip.bandwidth if moved else 0.0,
            "interconnect": sum(moved.sent.values()) / chip.interconnect if moved else 0.0,
        }

    def seconds(self, machine: Machine) -> float:
        """The roofline time: the slowest resource's, as if all others worked beside it."""
        return max(self.times(machine).values())

    def bound(self, machine: Machine) -> str:
        """The slowest resource."""
        times = self.times(machine)
        return max(times, key=times.get)


@dataclasses.dataclass(frozen=True)
class MachinePlan:
    """What a config needs on a machine; see `ProgramPlan`. Bytes are per chip."""

    machine: Machine
    mesh: dict[str, int]
    parameters: int
    parameter_bytes: float
    optimizer_bytes: float
    programs: tuple[ProgramPlan, ...]
    total_programs: int
    schedule: BucketSchedule
    groups: int
    views: int
    steps: int
    utilisation: float
    task: Task

    @property
    def peak(self) -> float:
        return max(program.peak for program in self.programs)

    @property
    def limit(self) -> float:
        """Bytes of a chip's memory that programs can have."""
        chip = self.machine.chip
        return chip.memory * GIB * (USABLE_TPU if chip.is_tpu else gpu_share())

    @property
    def fits(self) -> bool:
        return self.peak <= self.limit

    @property
    def code(self) -> float:
        """Bytes of code of all programs of the config; those not compiled count as the average."""
        return sum(p.code for p in self.programs) / len(self.programs) * self.total_programs

    def _mean(self, value) -> float:
        """An update's sum, over its resolutions, of the mean over the buckets that may be drawn."""
        total = 0.0
        for sizes in self.schedule.resolutions:
            drawn = [Bucket(*size, views) for size in sizes for views in self.schedule.views]
            total += sum(value(bucket) for bucket in drawn) / len(drawn)
        return total

    def _flops(self, bucket: Bucket, count) -> float:
        """Of one chip's share of a batch."""
        return count(bucket) * self.groups * self.views / bucket.views / self.machine.chips

    @functools.cached_property
    def update_seconds(self) -> float:
        """Roofline time of an update; of buckets not compiled, from those that were."""
        seconds = {p.name: p.seconds(self.machine) for p in self.programs}
        known = [p for p in self.programs if p.name != OPTIMIZER]
        busy = sum(p.times(self.machine)["compute"] for p in known)
        slower = sum(seconds[p.name] for p in known) / busy
        on_tpu, views = self.machine.chip.is_tpu, self.mesh["view"]
        count = lambda b: hardware_flops(self.task.model, b, on_tpu, views, self.task.slots(b))

        def time(bucket: Bucket) -> float:
            if bucket in seconds:
                return seconds[bucket]
            return slower * self._flops(bucket, count) / self.machine.chip.flops

        return self._mean(time) + seconds.get(OPTIMIZER, 0.0)

    @property
    def views_per_second(self) -> float:
        loaded = self.groups * self.views * len(self.schedule.resolutions)
        return loaded / self.update_seconds

    @property
    def days(self) -> float:
        return self.steps * self.update_seconds / 86_400

    def days_at(self, utilisation: float) -> float:
        """Days if the model's FLOPs are done at a share of the chips' peak (MFU)."""
        count = lambda b: training_flops(self.task.model, b, self.task.slots(b))
        flops = self._mean(lambda b: self._flops(b, count))
        return self.steps * flops / (utilisation * self.machine.chip.flops) / 86_400

    def as_dict(self) -> dict[str, Any]:
        """What `plan.json` holds."""
        worst = max(self.programs, key=lambda p: p.peak)
        slowest = max(self.programs, key=lambda p: p.seconds(self.machine))
        estimated = not self.machine.chip.is_tpu
        return {
            "job": "plan",
            "machine": self.machine.name,
            "chips": self.machine.chips,
            "mesh": self.mesh,
            "fits": self.fits,
            "memory_is_estimated": estimated,
            "peak_gib": self.peak / GIB,
            "peak_program": str(worst.name),
            "chip_gib": self.machine.chip.memory,
            "code_of_all_programs_gib": self.code / GIB,
            "parameters": self.parameters,
            "parameters_gib": self.parameter_bytes / GIB,
            "optimizer_gib": self.optimizer_bytes / GIB,
            "roofline_update_seconds": self.update_seconds,
            "roofline_views_per_second": self.views_per_second,
            "roofline_days": self.days,
            "bound": slowest.bound(self.machine),
            "days_at_utilisation": self.days_at(self.utilisation) if self.utilisation else None,
            "compiled": len(self.programs),
            "of": self.total_programs,
            "programs": [
                {
                    "name": str(p.name),
                    "peak_gib": p.peak / GIB,
                    "memory_bytes": p.parts,
                    "model_flops": p.model_flops,
                    "hardware_flops": p.hardware_flops,
                    "compiler_flops": p.compiler_flops,
                    "hbm_bytes": p.traffic.memory if p.traffic else None,
                    "sent_bytes": p.traffic.sent if p.traffic else None,
                    "seconds": p.times(self.machine),
                    "bound": p.bound(self.machine),
                    "code_bytes": p.code,
                }
                for p in self.programs
            ],
        }


def gpu_share() -> float:
    """The share of a GPU's memory that JAX takes, as its environment variable says where it is set.

    Raises:
      UserError: if that is not a share.
    """
    text = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") or str(USABLE_GPU)
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(f"XLA_PYTHON_CLIENT_MEM_FRACTION={text}: write a share from 0 to 1, such as 0.95")
    return share


def report(plan: MachinePlan, hints: tuple[str, ...]) -> str:
    """The plan for a person: a table, the whole run, the verdict."""
    chip, machine = plan.machine.chip, plan.machine
    head = ("program", "memory GiB", "TFLOP", "XLA's", "HBM GB", "sent GB", "ms at least", "bound by")
    rows = [head]
    for p in plan.programs:
        moved = p.traffic
        rows.append(
            (
                str(p.name),
                f"{p.peak / GIB:.2f}" + ("" if p.peak <= plan.limit else " !"),
                f"{p.model_flops / 1e12:.2f}",
                "-" if p.compiler_flops is None else f"{p.compiler_flops / 1e12:.2f}",
                "-" if not moved or moved.memory is None else f"{moved.memory / 1e9:.1f}",
                "-" if not moved else f"{sum(moved.sent.values()) / 1e9:.2f}",
                f"{1e3 * p.seconds(machine):.3g}",
                p.bound(machine),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    cell = lambda row, i: row[i].ljust(widths[i]) if i in (0, 7) else row[i].rjust(widths[i])
    lines = ["  ".join(cell(row, i) for i in range(len(head))).rstrip() for row in rows]
    lines.insert(1, "-" * max(map(len, lines)))
    kinds: dict[str, float] = {}
    for p in plan.programs:
        for kind, sent in (p.traffic.sent if p.traffic else {}).items():
            kinds[kind] = max(kinds.get(kind, 0.0), sent)
    mesh = ", ".join(f"{axis} {size}" for axis, size in plan.mesh.items())
    most = "; ".join(f"{kind} {sent / 1e9:.2f} GB" for kind, sent in sorted(kinds.items()))
    of = "" if len(plan.programs) == plan.total_programs else f" of {plan.total_programs}"
    lines = [
        f"Plan for {machine.name}: {machine.chips} chips {chip.name}, mesh {mesh}; all figures per chip",
        f"Parameters {plan.parameters / 1e6:.1f} million, {plan.parameter_bytes / GIB:.2f} GiB; "
        f"optimizer {plan.optimizer_bytes / GIB:.2f} GiB; {len(plan.programs)}{of} programs",
        "",
        *lines,
        "",
        f"Sent to other chips, most by one program: {most or 'nothing'}",
        "Roofline, an upper bound of speed: "
        f"{plan.update_seconds:.3g} s per update, {plan.views_per_second:,.0f} views/s, "
        f"{plan.days:.3g} days for {plan.steps:,} updates",
    ]
    if plan.utilisation:
        days = plan.days_at(plan.utilisation)
        lines.append(f"At {plan.utilisation:.0%} of the peak (MFU, assumed): {days:.3g} days")
    if not chip.is_tpu:
        lines.append("Memory is estimated (muskie_jax/perf/memory.py); HBM traffic is not counted for GPUs")
    verdict = "FITS" if plan.fits else "DOES NOT FIT"
    lines.append(f"{verdict}: {plan.peak / GIB:.2f} GiB of {plan.limit / GIB:.2f} usable")
    if not chip.is_tpu:
        lines.append(
            f"  JAX takes {gpu_share():.0%} of a GPU's memory; XLA_PYTHON_CLIENT_MEM_FRACTION=0.95 lets it "
            "have more"
        )
    if plan.fits and plan.peak + plan.code > plan.limit:
        lines.append(
            f"  Close: should all {plan.total_programs} programs stay loaded, their code adds "
            f"{plan.code / GIB:.1f} GiB; fewer buckets make it less"
        )
    return "\n".join([*lines, *(f"  {hint}" for hint in hints)])


def advice(plan: MachinePlan, config: ConfigDict) -> tuple[str, ...]:
    """Changes that by estimate make a plan fit, the mildest first; each alone unless it says more."""
    model, chips, view = plan.task.model, plan.machine.chips, plan.mesh["view"]
    buckets = [p.name for p in plan.programs if p.name != OPTIMIZER]
    batches = len(plan.schedule.resolutions)
    prefetched = config.data.prefetch * batches

    def peak(model: Muskie, groups: int, fsdp: int) -> float:
        mesh = {"data": chips // view // fsdp, "fsdp": fsdp, "view": view}
        split = lambda b: groups * plan.views // b.views

        def needed(b: Bucket) -> float:
            slots = plan.task.slots(b)
            return sum(training_memory(model, b, split(b), mesh, prefetched, batches, slots).values())

        return max(map(needed, buckets))

    # The estimate is scaled to what the compiler found for this very config.
    scale = plan.peak / peak(model, plan.groups, plan.mesh["fsdp"])
    fits = lambda *change: scale * peak(*change) <= plan.limit
    shards = [n for n in range(2, chips // view + 1) if (chips // view) % n == 0 and _splits(model, n)]
    groups = [g for g in range(plan.groups, 0, -1) if g % (chips // view) == 0]
    policies = list(REMAT)  # from fast to small
    policies = policies[policies.index(model.remat) :]
    now = plan.mesh["fsdp"]
    for fewer in groups:
        for fsdp in (now, *shards):
            for remat in policies:
                if not fits(model.clone(remat=remat), fewer, fsdp):
                    continue
                changes = {
                    "model.remat": remat if remat != model.remat else None,
                    "mesh.fsdp": fsdp if fsdp != now else None,
                    "batch.groups": fewer if fewer != plan.groups else None,
                }
                flags = " ".join(f"--config.{k}={v}" for k, v in changes.items() if v is not None)
                if fewer == plan.groups:
                    return (f"Should fit: {flags}",)
                more = math.ceil(plan.groups / fewer)
                return (
                    f"Should fit: {flags}",
                    f"Or keep {plan.groups} groups, on {more} times as many chips",
                )
    return ("No mesh of this machine holds even one group per chip: choose a larger one",)


def _splits(model: Muskie, fsdp: int) -> bool:
    """Whether it divides all that is split: multiples of the width, and what comes out of the head."""
    return math.gcd(model.width, 2 * CHANNELS * model.patch**2) % fsdp == 0
