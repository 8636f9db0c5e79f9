"""The count of what Muon computes, against XLA's count of the optimizer's program."""

import jax
import jax.numpy as jnp
import pytest

from muskie_jax.models.muskie import build_model
from muskie_jax.optim import stacked_muon
from muskie_jax.perf.muon import muon_kernels, orthogonalisation_flops
from muskie_tests.commands import run_in_process


def test_flops_are_those_that_xla_counts():
    shapes = [(64, 256), (256, 64), (64, 64)]
    params = [jnp.ones(shape) for shape in shapes]
    optimizer = stacked_muon(0.95)
    program = jax.jit(optimizer.update).lower(params, optimizer.init(params)).compile()
    counted = program.cost_analysis()["flops"]
    assert sum(orthogonalisation_flops(*shape) for shape in shapes) == pytest.approx(counted, rel=0.05)


def test_kernels_are_those_of_the_blocks():
    assert sorted(set(muon_kernels(build_model("nano")))) == [(48, 48), (48, 144), (48, 192), (192, 48)]


def test_table_has_a_line_per_network():
    done = run_in_process("muskie_jax.perf.muon")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["network", "tiny", "small", "base", "large"]
    assert lines[2].split() == ["small", "48", "720", "60", "0.190", "5.20", "3.7%"]
