"""Plans: machines, estimated traffic, the command, and compilation for TPU slices."""

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from conftest import ROOT
from muskie_jax.buckets import Bucket, BucketSchedule
from muskie_jax.config import default_config
from muskie_jax.config_file import load_config
from muskie_jax.errors import UserError
from muskie_jax.models.muskie import build_model
from muskie_jax.models.reconstruction import Reconstruction
from muskie_jax.optim import make_optimizer
from muskie_jax.perf.flops import hardware_flops, training_flops
from muskie_jax.perf.hlo import estimate_traffic
from muskie_jax.perf.machine_plan import MachinePlan, Workload, gpu_memory_fraction
from muskie_jax.perf.machines import CHIPS, find_chip, parse_machine
from muskie_jax.perf.plan import (
    CompiledProgram,
    compile_one,
    machine_devices,
    make_machine_task,
    parse_needed_memory,
    plan,
    tpu_memory,
)
from muskie_jax.programs import batch_shapes, training_programs
from muskie_jax.sharding import make_mesh
from muskie_jax.train_step import abstract_state
from muskie_tests.commands import complaint_of, run_in_process, run_module

LARGE = build_model("large", dtype="bfloat16", remat="block")
BUCKET = Bucket(224, 224, 8)


@pytest.fixture(autouse=True)
def start_jax():
    """Starts JAX with the tests' devices, of which a plan in this process then takes some."""
    jax.devices()


def test_machines_are_parsed_and_unknown_ones_raise():
    machine = parse_machine("v5p:2x2x4")
    assert (machine.chips, machine.chip.memory) == (16, 95)
    assert parse_machine("h100:8").chips == 8
    for wrong in ("h100", "h100:2x2", "v5e:16", "v5e:0x4", "v9:4x4", ""):
        with pytest.raises(UserError, match="such as v5e:4x4") as error:
            parse_machine(wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="unknown chip 'rtx4900'; did you mean 'rtx4090'"):
        parse_machine("rtx4900:1")


@pytest.mark.parametrize(
    "name, gigabytes",
    [("l4", 24), ("rtx3090", 24), ("rtx4090", 24), ("a10g", 24), ("a5000", 24), ("rtx5090", 32),
     ("a6000", 48), ("t4", 16)],
)  # fmt: skip
def test_workstation_and_cloud_gpus_can_be_planned(name, gigabytes):
    machine = parse_machine(f"{name}:1")
    assert (machine.chips, machine.chip.memory) == (1, gigabytes)


def test_every_chip_has_plausible_figures():
    """Catches a wrong unit, such as a factor of 1000."""
    for name, chip in CHIPS.items():
        assert 30 < chip.flops / chip.bandwidth < 600, name
        assert 4 < chip.bandwidth / (chip.memory * 2**30) < 60, name
        assert chip.interconnect < chip.bandwidth, name


@pytest.mark.parametrize(
    "kind, chip",
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L4", "l4"),
        ("NVIDIA GB200", "gb200"),
        ("NVIDIA GH200 480GB", "gh200"),
        ("NVIDIA H20", "h20"),
        ("NVIDIA A10", "a10"),
        ("NVIDIA A10G", "a10g"),
        ("NVIDIA RTX A5000", "a5000"),
        ("NVIDIA RTX A6000", "a6000"),
        ("NVIDIA RTX 6000 Ada Generation", "rtx6000ada"),
        ("NVIDIA GeForce RTX 3090", "rtx3090"),
        ("NVIDIA GeForce RTX 4090", "rtx4090"),
        ("NVIDIA GeForce RTX 5090", "rtx5090"),
        ("Tesla T4", "t4"),
        ("Tesla V100-SXM2-16GB", "v100"),
        ("Tesla V100-SXM2-32GB", "v100-32gb"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("TPU v5e", "v5e"),
        ("TPU v5 lite", "v5e"),
        ("TPU v5", "v5p"),
        ("TPU v5p", "v5p"),
        ("TPU v6 lite", "v6e"),
    ],
)
def test_device_kinds_are_found_in_the_table(kind, chip):
    assert find_chip(kind) is CHIPS[chip]


@pytest.mark.parametrize(
    "kind",
    ["cpu", "NVIDIA L40", "NVIDIA RTX A1000", "NVIDIA GeForce RTX 3090 Ti", "NVIDIA GeForce RTX 4090 D",
     "NVIDIA GeForce RTX 5090 Laptop GPU", "NVIDIA A16", "TPU v5 mega", "TPU v4 lite"],
)  # fmt: skip
def test_similar_device_kinds_are_not_in_the_table(kind):
    assert find_chip(kind) is None


def test_gpu_memory_fraction_follows_jax(monkeypatch):
    name = "XLA_PYTHON_CLIENT_MEM_FRACTION"
    monkeypatch.delenv(name, raising=False)
    assert gpu_memory_fraction() == 0.75
    monkeypatch.setenv(name, ".9")
    assert gpu_memory_fraction() == 0.9
    for wrong in ("90%", "90", "0"):
        monkeypatch.setenv(name, wrong)
        with pytest.raises(UserError, match="must be above 0 and at most 1"):
            gpu_memory_fraction()


def test_collectives_in_loops_are_counted_per_iteration():
    mesh = make_mesh({"data": 4, "fsdp": 2, "view": 1})
    replicated = NamedSharding(mesh, P())
    total = 2 * 7 / 8 * 100 * 100 * 4  # what a ring of eight sends to sum 100 x 100 float32

    x = jax.ShapeDtypeStruct((64, 100), jnp.float32, sharding=NamedSharding(mesh, P(("data", "fsdp"))))
    product = jax.jit(lambda x: x.T @ x, out_shardings=replicated)
    sent = estimate_traffic(product.lower(x).compile().as_text(), 8).sent
    assert sent == {"all-reduce": pytest.approx(total)}

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=P("data", "fsdp"), out_specs=P("data"), check_vma=False)
    def gathered(y):
        return jax.lax.all_gather(y, "fsdp", axis=1, tiled=True)

    y = jax.ShapeDtypeStruct((16, 32), jnp.float32, sharding=NamedSharding(mesh, P("data", "fsdp")))
    sent = estimate_traffic(gathered.lower(y).compile().as_text(), 8).sent
    assert sent == {"all-gather": 4 * 16 * 4}  # a quarter of the rows, half of the columns

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=(P("data"), P()), out_specs=P(), check_vma=False)
    def repeated(x, kernels):
        body = lambda total, kernel: (jax.lax.psum(jnp.sin(total @ kernel), ("data", "fsdp")), None)
        return jax.lax.scan(body, x, kernels)[0]

    x = jax.ShapeDtypeStruct((400, 100), jnp.float32, sharding=NamedSharding(mesh, P("data")))
    kernels = jax.ShapeDtypeStruct((7, 100, 100), jnp.float32, sharding=replicated)
    sent = estimate_traffic(repeated.lower(x, kernels).compile().as_text(), 8).sent
    assert sent == {"all-reduce": pytest.approx(7 * total)}


def test_memory_traffic_leaves_out_on_chip_memory():
    text = """
%body (p: (s32[], f32[5,100])) -> (s32[], f32[5,100]) {
  %p = (s32[], f32[5,100]{1,0}) parameter(0)
  %stacked = f32[5,100]{1,0} get-tuple-element(%p), index=1
  %near = f32[100]{0:T(128)S(1)} fusion(%stacked), kind=kLoop, calls=%inside
  %counter = s32[] get-tuple-element(%p), index=0
  ROOT %t = (s32[], f32[5,100]{1,0}) tuple(%counter, %stacked)
}

%condition (q: (s32[], f32[5,100])) -> pred[] {
  %q = (s32[], f32[5,100]{1,0}) parameter(0)
  %end = s32[] constant(5)
  %at = s32[] get-tuple-element(%q), index=0
  ROOT %go = pred[] compare(%at, %end), direction=LT
}

%inside (r: f32[5,100]) -> f32[100] {
  %r = f32[5,100]{1,0} parameter(0)
  ROOT %huge = f32[100]{0} reduce(%r, %r), dimensions={0}
}

ENTRY %main (a: (s32[], f32[5,100])) -> (s32[], f32[5,100]) {
  %a = (s32[], f32[5,100]{1,0}) parameter(0)
  ROOT %while = (s32[], f32[5,100]{1,0}) while(%a), condition=%condition, body=%body
}
"""
    # Each of five iterations reads one of five rows from main memory. The result stays on the chip, and so
    # do the fusion's inner results.
    counted = estimate_traffic(text, 1).memory
    assert counted == 5 * 100 * 4


def test_hardware_flops_exceed_model_flops():
    without = build_model("large", dtype="bfloat16")
    assert hardware_flops(without, BUCKET, False) > training_flops(without, BUCKET)
    recomputed = hardware_flops(LARGE, BUCKET, False) / hardware_flops(without, BUCKET, False)
    assert 1.25 < recomputed < 1.35
    assert hardware_flops(LARGE, BUCKET, True) > 1.2 * hardware_flops(LARGE, BUCKET, False)


def test_hardware_flops_of_a_decoder():
    backbone = LARGE.clone(remat="none")
    model = Reconstruction(backbone, 2)
    plain, frozen = (hardware_flops(m, BUCKET, False) for m in (model, model.clone(freeze_backbone=True)))
    assert training_flops(model, BUCKET) < plain < 1.1 * training_flops(model, BUCKET)
    # Forward and backward of a block: all of its products three times, and attention weights once more.
    of_backbone = hardware_flops(backbone, BUCKET, False)
    assert 0.6 * of_backbone < plain - frozen < 0.7 * of_backbone
    with_remat = hardware_flops(Reconstruction(LARGE, 2), BUCKET, False)
    per_block = (with_remat - plain) / (LARGE.depth + 2)
    assert per_block == pytest.approx((hardware_flops(LARGE, BUCKET, False) - of_backbone) / 12, rel=0.02)


@pytest.mark.parametrize("fraction, expected", [(0.0, 32), (0.25, 0.75 * 32 + 0.25 * 64), (1.0, 64)])
def test_times_are_means_over_early_and_late_updates(fraction, expected):
    config = default_config()
    config.duration = "20 steps"
    config.batch.update(reuse=1, passes=1)
    config.buckets.update(
        resolutions=(((32, 32),),), late=(((64, 64),),), late_fraction=fraction, views=(2, 4)
    )
    schedule: Any = BucketSchedule.of(config)
    workload: Any = Workload(*[None] * 3, schedule, 8, 4, 2, steps=20)  # pyright: ignore
    plan = MachinePlan(workload, 0, 0, 0, (), 0, 0.5)
    assert plan._per_update(lambda bucket: bucket.height) == pytest.approx(expected)


def test_arrays_beside_a_tpu_program_count_once():
    compiled = CompiledProgram(memory={"arguments": 3.0, "temporary": 2.0})
    peak, parts = tpu_memory(compiled, beside=1.0)
    assert peak == 6.0 and parts is not None and sum(parts.values()) == peak
    assert tpu_memory(CompiledProgram(needed=7.0), beside=1.0) == (8.0, None)


PLAN = ["--config", "configs/plan.py:quickstart"]


@pytest.fixture
def libtpu():
    pytest.importorskip("libtpu", reason="compiling for TPUs needs libtpu")


def check_command(workdir, machine, usable):
    tiny = [
        "--config.model.variant=nano",
        "--config.sources.rooms.weight=2",
        "--config.plan.utilisation=0.4",
    ]
    arguments = [*PLAN, f"--config.plan.machine={machine}", *tiny, "--workdir", workdir]
    done = run_module("muskie_jax.main", *arguments)
    assert done.returncode == 0, done.stderr
    assert usable in done.stdout
    assert "FITS" in done.stdout and "views/s" in done.stdout and "64x64, 4 views" in done.stdout
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["fits"] and result["chips"] == 4 and result["roofline_days"] > 0
    written = json.loads((workdir / "plan.json").read_text())
    (step,) = written["programs"]  # with the optimizer, since an update has one batch
    assert step["name"] == "64x64, 4 views"
    # Gradients are summed over four chips: a ring sends 2 * 3/4 of them, as bfloat16 or float32.
    sent = step["sent_bytes"]["all-reduce"]
    assert 1.4 * 2 * result["parameters"] < sent < 1.6 * 4 * result["parameters"]


def test_plan_of_gpus_from_the_command_line(tmp_path):
    check_command(tmp_path, "h100:4", "60.00 usable")


@pytest.mark.extras
@pytest.mark.slow
def test_plan_of_tpus_from_the_command_line(tmp_path, libtpu):
    check_command(tmp_path, "v5e:2x2", "15.68 usable")


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (["--config", "configs/plan.py:muskie_larg"], "muskie_large"),
        ([*PLAN, "--config.plan.machine=v5e"], "such as v5e:4x4"),
        ([*PLAN, "--config.plan.machine=h100:8", "--config.plan.buckets=64x64x8"], "mean '64x64x4'"),
        ([*PLAN, "--config.plan.machine=h100:16"], "h100:8 at most"),
        (
            [*PLAN, "--config.plan.machine=h100:8", "--config.model.attention=splash"],
            "does not run on h100:8",
        ),
    ],
)
def test_mistakes_are_one_line(tmp_path, arguments, expected):
    done = run_in_process("muskie_jax.main", *arguments, "--workdir", tmp_path)
    assert expected in complaint_of(done)


@pytest.mark.extras
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, machine, expected",
    [("quickstart", "v5e:3x5", "v5e:3x5"), ("muskie_large", "v5e:16x16", "use 256")],
)
def test_mistakes_about_tpu_slices_are_one_line(tmp_path, libtpu, name, machine, expected):
    config = load_config(ROOT / f"configs/plan.py:{name}")
    config.plan.machine = machine
    with pytest.raises(UserError, match=expected) as error:
        plan(config, tmp_path)
    assert "\n" not in str(error.value)


def test_a_plan_that_does_not_fit_ends_with_advice(tmp_path, capsys):
    config = load_config(ROOT / "configs/plan.py:quickstart")
    config.plan.machine = "l40s:1"
    config.batch.groups = 8192
    result = plan(config, tmp_path)
    printed = capsys.readouterr().out
    assert not result["fits"] and "DOES NOT FIT" in printed and "bfloat16" not in printed
    assert result["advice"][0].startswith("Should fit: --config.model.remat=")


@pytest.mark.slow
def test_plan_of_a_decoder(tmp_path, capsys):
    config = load_config(ROOT / "configs/plan.py:reconstruct_rooms")
    config.plan.machine, config.mesh.fsdp = "l40s:2", 2
    config.model.variant = "nano"
    config.batch.groups = 2048
    result = plan(config, tmp_path)
    printed = capsys.readouterr()
    assert "Planning nano with 2 decoder blocks on 2 L40S" in printed.err
    assert not result["fits"] and "Should fit: " in result["advice"][0]
    assert "was not compared with measurements" in printed.out
    (program,) = json.loads((tmp_path / "plan.json").read_text())["programs"]
    assert program["model_flops"] == pytest.approx(
        1024 * training_flops(Reconstruction(build_model("nano"), 2), Bucket(128, 128, 4))
    )
    assert program["sent_bytes"]["all-gather"] > 0


def test_chips_without_bfloat16_are_noted(tmp_path, capsys):
    config = load_config(ROOT / "configs/plan.py:quickstart")
    config.plan.machine, config.plan.buckets = "t4:1", "64x64x4"
    plan(config, tmp_path)
    assert "T4 has no bfloat16 units: train with --config.model.dtype=float32." in capsys.readouterr().out


def test_out_of_memory_errors_of_the_compiler_are_parsed():
    used = "E1000: Ran out of memory in memory space hbm. Used 40.50G of 15.75G hbm. Exceeded hbm capacity"
    temporary = "the total memory required for HLO temporaries (512.00M) exceeds available HBM (15.75G)"
    assert parse_needed_memory(used) == 40.5 * 2**30
    assert parse_needed_memory(temporary) == 512 * 2**20
    assert parse_needed_memory("Ran out of memory in memory space vmem while allocating on stack") is None


@pytest.mark.extras
@pytest.mark.slow
@pytest.mark.parametrize("name, machine", [("muskie_large", "v5e:4x4"), ("muskie_huge", "v5e:16x16")])
def test_the_large_models_compile_for_tpu_slices(libtpu, name, machine):
    """The published model with one view of 224x224 per chip; scanned blocks, which compile faster."""
    config = load_config(ROOT / f"configs/plan.py:{name}")
    machine = parse_machine(machine)
    mesh = make_mesh(config.mesh, machine_devices(machine))
    config.model.scan_blocks = True
    task, optimizer = make_machine_task(config, machine, mesh), make_optimizer(config)
    state = abstract_state(task.model, optimizer, mesh)
    bucket = Bucket(224, 224, 1)
    shapes = {bucket: batch_shapes(bucket, machine.chips, 1, task.model.patch, mesh)}
    batches_per_update = 3  # with more than one, the optimizer is a separate program
    lowered = training_programs(task, optimizer, state, shapes, batches_per_update, mesh)[bucket]()
    assert {"splash_mha_fwd", "splash_mha_dkv"} <= set(re.findall(r"splash_mha_[a-z]+", lowered.as_text()))
    found = compile_one(lowered, machine)
    assert found.memory and found.traffic
    assert 0 < found.memory["temporary"] < 16 * 2**30
    chips = machine.chips
    gradients = sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
    sent = 2 * (chips - 1) / chips * 2 * gradients  # mostly bfloat16, the type of matrix products
    assert 0.95 * sent < found.traffic.sent["all-reduce"] < 1.5 * sent
