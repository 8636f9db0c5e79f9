"""Meshes of TPU slices with several hosts, built from fake devices."""

import dataclasses
import itertools
import math

import jax
import numpy as np
import pytest
from jax.sharding import AbstractMesh

from muskie_jax.config import default_config
from muskie_jax.errors import UserError
from muskie_jax.models.muskie import build_model
from muskie_jax.models.reconstruction import Reconstruction
from muskie_jax.optim import make_optimizer
from muskie_jax.perf.plan_report import divides_kernels
from muskie_jax.sharding import AXES, local_rows, make_mesh, put_batch
from muskie_jax.train_step import abstract_state


@dataclasses.dataclass(frozen=True)
class Chip:
    id: int
    device_kind: str
    process_index: int
    coords: tuple[int, int, int]
    slice_index: int = 0
    platform: str = "tpu"
    core_on_chip: int = 0


def tpu(kind, shape, slices=1):
    """Returns the chips of slices of a shape; each host has 2 x 2 chips."""
    blocks = [range(0, size, step) for size, step in zip(shape, (2, 2, 1))]
    hosts = [(part, *corner) for part in range(slices) for corner in itertools.product(*reversed(blocks))]
    return [
        Chip(4 * host + i, kind, host, (x + i % 2, y + i // 2, z), part)
        for host, (part, z, y, x) in enumerate(hosts)
        for i in range(4)
    ]


SLICES = {
    "v5e:4x4": ("TPU v5 lite", (4, 4, 1)),
    "v5e:16x16": ("TPU v5 lite", (16, 16, 1)),
    "v6e:4x4": ("TPU v6 lite", (4, 4, 1)),
    "v5p:2x2x4": ("TPU v5p", (2, 2, 4)),
    "two of v5e:4x4": ("TPU v5 lite", (4, 4, 1), 2),
}


@pytest.mark.parametrize("sizes", [{}, {"fsdp": 2}, {"fsdp": 8}, {"view": 2}, {"view": 8}], ids=str)
@pytest.mark.parametrize("name", SLICES)
def test_hosts_provide_the_groups_that_their_chips_hold(monkeypatch, name, sizes):
    chips = tpu(*SLICES[name])
    mesh = make_mesh({"data": -1, "fsdp": 1, "view": 1} | sizes, chips)
    assert set(mesh.devices.flat) == set(chips)
    assert all(mesh.shape[axis] == size for axis, size in sizes.items())
    positions = mesh.devices.reshape(-1, mesh.shape["view"])
    groups, splits = 2 * len(positions), 3
    hosts_of = [{chip.process_index for chip in positions[group // 2]} for group in range(groups)]
    batch = np.arange(groups * splits * 8).reshape(groups * splits, 8)
    filled = []

    def check(shape, sharding, shard):
        assert shape == batch.shape
        for chip, index in sharding.devices_indices_map(shape).items():
            if chip.process_index == jax.process_index():
                np.testing.assert_array_equal(shard(index), batch[index])
                filled.append(chip)

    monkeypatch.setattr(jax, "make_array_from_callback", check)
    for host in sorted({chip.process_index for chip in chips}):
        monkeypatch.setattr(jax, "process_index", lambda host=host: host)
        rows = local_rows(groups, mesh)
        assert list(rows) == [group for group in range(groups) if host in hosts_of[group]]
        local = batch.reshape(groups, splits, 8)[list(rows)].reshape(-1, 8)
        put_batch({"images": local}, rows, groups, mesh)
    assert sorted(filled, key=lambda chip: chip.id) == chips


def test_only_the_data_axis_spans_slices():
    chips = tpu("TPU v5 lite", (4, 4, 1), slices=2)
    mesh = make_mesh({"data": -1, "fsdp": 4, "view": 2}, chips)
    assert all(len({chip.slice_index for chip in part.flat}) == 1 for part in mesh.devices)
    with pytest.raises(UserError, match="config.mesh.data=1 cannot be split over 2 TPU slices: use"):
        make_mesh({"data": 1, "fsdp": 32, "view": 1}, chips)


def test_chips_that_do_not_form_a_block_raise_one_line():
    chips = tpu("TPU v5 lite", (4, 4, 1))
    with pytest.raises(UserError, match=r"config.mesh \(data=-1, fsdp=1, view=1\) cannot be laid") as error:
        make_mesh({"data": -1, "fsdp": 1, "view": 1}, chips[1:])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("decoder", [False, True])
def test_plans_suggest_only_fsdp_sizes_that_shard_the_parameters_evenly(decoder):
    model = build_model("huge").clone(depth=1)
    model = Reconstruction(model, 3) if decoder else model

    def splits(fsdp):
        try:
            abstract_state(model, make_optimizer(default_config()), AbstractMesh((1, fsdp, 1), AXES))
        except UserError:
            return False
        return True

    sizes = [2, 5, 6, 8, 256]
    assert [divides_kernels(model, n) for n in sizes] == [splits(n) for n in sizes]


@pytest.mark.parametrize("variant", ["nano", "large"])
def test_fsdp_shards_the_large_convolutions_of_the_point_head(variant):
    model, optimizer = Reconstruction(build_model(variant), 2), make_optimizer(default_config())
    shapes = abstract_state(model, optimizer, AbstractMesh((1, 8, 1), AXES))
    head = shapes.params["point_head"]
    part = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(head))
    assert part < 0.2 * sum(x.size for x in jax.tree.leaves(head))
    everything = (shapes.params, shapes.opt_state)
    part = sum(math.prod(x.sharding.shard_shape(x.shape)) for x in jax.tree.leaves(everything))
    assert part < 0.2 * sum(x.size for x in jax.tree.leaves(everything))
