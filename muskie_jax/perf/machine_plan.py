"""Figures of a plan: memory, FLOPs, traffic and roofline times of a config's programs on a machine."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

from muskie_jax.buckets import Bucket, BucketSchedule
from muskie_jax.errors import UserError
from muskie_jax.perf.flops import hardware_flops, training_flops
from muskie_jax.perf.hlo import Traffic
from muskie_jax.perf.machines import GIB, Machine
from muskie_jax.perf.memory import training_memory
from muskie_jax.programs import OPTIMIZER
from muskie_jax.train_step import Task

USABLE_TPU = 0.98  # fraction of a TPU's memory that the runtime does not reserve: 15.75 of 16 GiB on v5e
USABLE_GPU = 0.75  # fraction of a GPU's memory that JAX takes by default


@dataclasses.dataclass(frozen=True)
class Workload:
    """A training run of a config on a machine.

    Attributes:
      machine: the machine.
      mesh: sizes of the axes data, fsdp and view.
      task: network and loss.
      schedule: schedule of the buckets of updates.
      groups: number of loaded groups per batch, over all chips.
      views: number of views per loaded group.
      prefetched: number of batches on the device in addition to the batch in use.
      steps: number of updates of the run.
    """

    machine: Machine
    mesh: Mapping[str, int]
    task: Task
    schedule: BucketSchedule
    groups: int
    views: int
    prefetched: int
    steps: int

    def batch_groups(self, bucket: Bucket) -> int:
        """Returns the number of groups per batch, over all chips, after loaded groups are split."""
        return self.groups * self.views // bucket.views

    def model_flops(self, bucket: Bucket) -> float:
        """Returns the model FLOPs of one chip's part of a batch, as MFU counts them."""
        return self._groups_per_chip(bucket) * training_flops(self.task.model, bucket)

    def hardware_flops(self, bucket: Bucket) -> float:
        """Returns the FLOPs that a chip executes for its part of a batch, as HFU counts them."""
        task, on_tpu, view_shards = self.task, self.machine.chip.is_tpu, self.mesh["view"]
        return self._groups_per_chip(bucket) * hardware_flops(task.model, bucket, on_tpu, view_shards)

    def estimated_memory(self, bucket: Bucket) -> dict[str, float]:
        """Returns the estimated bytes per chip, by part, from `training_memory`."""
        return training_memory(
            self.task.model, bucket, self.batch_groups(bucket), self.mesh,
            self.prefetched, self.schedule.batches_per_update,
        )  # fmt: skip

    def _groups_per_chip(self, bucket: Bucket) -> float:
        return self.batch_groups(bucket) / self.machine.chips


@dataclasses.dataclass(frozen=True)
class ProgramPlan:
    """Figures of one program, per chip.

    Attributes:
      bucket: the program's bucket; None for the optimizer.
      peak: bytes of memory in use while the program runs.
      parts: bytes of memory by part; None if unknown.
      model_flops, hardware_flops: see `muskie_jax.perf.flops`; 0 for the optimizer.
      compiler_flops: XLA's count, which leaves out custom kernels and counts a loop's body once; None if
        unknown.
      traffic: estimated traffic; None if the program did not compile.
      code: bytes of machine code.
    """

    bucket: Bucket | None
    peak: float
    parts: dict[str, float] | None
    model_flops: float
    hardware_flops: float
    compiler_flops: float | None
    traffic: Traffic | None
    code: float

    @property
    def name(self) -> str:
        return str(self.bucket or OPTIMIZER)

    def times(self, machine: Machine) -> dict[str, float]:
        """Returns the seconds of `compute`, `memory` and `interconnect`, each at its peak speed."""
        chip, traffic = machine.chip, self.traffic
        return {
            "compute": self.hardware_flops / chip.flops,
            "memory": (traffic.memory or 0.0) / chip.bandwidth if traffic else 0.0,
            "interconnect": sum(traffic.sent.values()) / chip.interconnect if traffic else 0.0,
        }

    def seconds(self, machine: Machine) -> float:
        """Returns the roofline time: the slowest resource's time, if all resources overlap perfectly."""
        return max(self.times(machine).values())

    def bound(self, machine: Machine) -> str:
        """Returns the name of the slowest resource."""
        times = self.times(machine)
        return max(times, key=lambda resource: times[resource])

    def as_dict(self, machine: Machine) -> dict[str, Any]:
        """Returns the program's entry in `plan.json`."""
        return {
            "name": self.name,
            "peak_gib": self.peak / GIB,
            "memory_bytes": self.parts,
            "model_flops": self.model_flops,
            "hardware_flops": self.hardware_flops,
            "compiler_flops": self.compiler_flops,
            "hbm_bytes": self.traffic.memory if self.traffic else None,
            "sent_bytes": self.traffic.sent if self.traffic else None,
            "seconds": self.times(machine),
            "bound": self.bound(machine),
            "code_bytes": self.code,
        }


@dataclasses.dataclass(frozen=True)
class MachinePlan:
    """Figures of a workload. Bytes are per chip.

    Attributes:
      workload: the planned training run.
      parameters: number of parameters.
      parameter_bytes, optimizer_bytes: memory of the parameters and of the optimizer's moments.
      programs: the compiled programs.
      total_programs: number of the config's programs, including those not compiled.
      utilisation: MFU to predict the duration for; 0 for no prediction.
    """

    workload: Workload
    parameters: int
    parameter_bytes: float
    optimizer_bytes: float
    programs: tuple[ProgramPlan, ...]
    total_programs: int
    utilisation: float

    @property
    def machine(self) -> Machine:
        return self.workload.machine

    @property
    def peak(self) -> float:
        """Bytes needed by the program that needs the most memory."""
        return max(program.peak for program in self.programs)

    @property
    def limit(self) -> float:
        """Bytes of a chip's memory that programs can use."""
        chip = self.machine.chip
        return chip.memory * GIB * (USABLE_TPU if chip.is_tpu else gpu_memory_fraction())

    @property
    def fits(self) -> bool:
        return self.peak <= self.limit

    @property
    def code(self) -> float:
        """Bytes of code of all the config's programs; programs not compiled count as the average."""
        return sum(p.code for p in self.programs) / len(self.programs) * self.total_programs

    @functools.cached_property
    def update_seconds(self) -> float:
        """Roofline time of an update, in seconds.

        The time of a bucket that was not compiled is its compute time, scaled by the ratio of roofline
        time to compute time over all compiled buckets.
        """
        machine = self.machine
        known = {p.bucket: p.seconds(machine) for p in self.programs if p.bucket}
        optimizer = sum(p.seconds(machine) for p in self.programs if not p.bucket)
        compute = sum(p.times(machine)["compute"] for p in self.programs if p.bucket)
        slowdown = sum(known.values()) / compute

        def seconds(bucket: Bucket) -> float:
            if bucket in known:
                return known[bucket]
            return slowdown * self.workload.hardware_flops(bucket) / machine.chip.flops

        return self._per_update(seconds) + optimizer

    @property
    def views_per_second(self) -> float:
        """Roofline throughput, over all chips."""
        workload = self.workload
        views = workload.groups * workload.views * workload.schedule.batches_per_update
        return views / self.update_seconds

    @property
    def days(self) -> float:
        """Roofline time of the run, in days."""
        return self.workload.steps * self.update_seconds / 86_400

    def days_at(self, utilisation: float) -> float:
        """Returns the days of the run at an assumed MFU."""
        flops = self._per_update(self.workload.model_flops)
        return self.workload.steps * flops / (utilisation * self.machine.chip.flops) / 86_400

    def _per_update(self, value: Callable[[Bucket], float]) -> float:
        """Returns the sum, over an update's batches, of the mean of `value` over the batch's buckets.

        The mean is over the whole run, early and late.
        """
        schedule, passes = self.workload.schedule, self.workload.steps * self.workload.schedule.passes
        late_fraction = max(0.0, 1 - schedule.late_from / passes) if passes else 0.0
        parts = [(1 - late_fraction, schedule.resolutions), (late_fraction, schedule.late)]
        total = 0.0
        for fraction, resolutions in parts:
            for sizes in resolutions if fraction else ():
                drawn = [Bucket(*size, views) for size in sizes for views in schedule.views]
                total += fraction * sum(map(value, drawn)) / len(drawn)
        return total * schedule.passes

    def as_dict(self) -> dict[str, Any]:
        """Returns the contents of `plan.json`."""
        machine = self.machine
        largest = max(self.programs, key=lambda p: p.peak)
        slowest = max(self.programs, key=lambda p: p.seconds(machine))
        return {
            "job": "plan",
            "machine": machine.name,
            "chips": machine.chips,
            "mesh": dict(self.workload.mesh),
            "fits": self.fits,
            "memory_is_estimated": not machine.chip.is_tpu,
            "peak_gib": self.peak / GIB,
            "peak_program": largest.name,
            "chip_gib": machine.chip.memory,
            "code_of_all_programs_gib": self.code / GIB,
            "parameters": self.parameters,
            "parameters_gib": self.parameter_bytes / GIB,
            "optimizer_gib": self.optimizer_bytes / GIB,
            "roofline_update_seconds": self.update_seconds,
            "roofline_views_per_second": self.views_per_second,
            "roofline_days": self.days,
            "bound": slowest.bound(machine),
            "days_at_utilisation": self.days_at(self.utilisation) if self.utilisation else None,
            "compiled": len(self.programs),
            "of": self.total_programs,
            "programs": [program.as_dict(machine) for program in self.programs],
        }


def gpu_memory_fraction() -> float:
    """Returns the fraction of a GPU's memory that JAX takes: XLA_PYTHON_CLIENT_MEM_FRACTION, or 0.75.

    Raises:
      UserError: if the variable is not a number above 0 and at most 1.
    """
    text = os.environ.get("XLA_PYTHON_CLIENT_MEM_FRACTION") or str(USABLE_GPU)
    try:
        fraction = float(text)
    except ValueError:
        fraction = 0.0
    if not 0 < fraction <= 1:
        raise UserError(
            f"XLA_PYTHON_CLIENT_MEM_FRACTION={text} must be above 0 and at most 1, such as 0.95"
        )
    return fraction
