"""Traffic estimated from HLO: the devices of a collective, and the bytes they send."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from muskie_jax.errors import UserError
from muskie_jax.perf.hlo import estimate_traffic
from muskie_jax.sharding import make_mesh

PART, WHOLE = 16, 128  # bytes: four float32 on each of eight devices


def sent(line: str) -> dict[str, float]:
    """Returns the bytes sent by a program of one instruction, on eight devices."""
    return estimate_traffic(f"ENTRY %main (a: f32[4]) -> f32[32] {{\n  {line}\n}}\n", 8).sent


@pytest.mark.parametrize(
    "groups, size",
    [
        # Written by jax 0.10.2, for CPUs.
        ("{{0,2},{1,3},{4,6},{5,7}}", 2),
        ("{{0,1,2,3,4,5,6,7}}", 8),
        ("[4,2]<=[8]", 2),
        ("[2,4]<=[4,2]T(1,0)", 4),
        ("[4,2]<=[2,2,2]T(2,1,0)", 2),
        ("mesh['axis_0'=4,'axis_1'=1,'axis_2'=2] {'axis_0'}", 4),
        ("mesh['axis_0'=8,'axis_1'=1] {'axis_0'}", 8),
        ("mesh['axis_0'=2,'axis_1'=1,'axis_2'=4], device_ids=([4,2]T(1,0)) {'axis_0'}", 2),
        ("mesh['axis_0'=1,'axis_1'=2,'axis_2'=4], device_ids=([4,2]T(1,0)) {'axis_1','axis_2'}", 8),
        # Written by jax 0.12.
        ("mesh['data'=2,'fsdp'=2,'view'=2] {'fsdp'}", 2),
        ("mesh['data'=2,'fsdp'=2,'view'=2] {'data','view'}", 4),
        ("mesh['fsdp'=8] {'fsdp':(1)2}", 2),
        ("mesh['fsdp'=8] {'fsdp':(2)4}", 4),
        ("{}", 8),
    ],
)
def test_every_form_of_replica_groups_is_parsed(groups, size):
    line = f"%all-gather = f32[32]{{0}} all-gather(%a), replica_groups={groups}, dimensions={{0}}"
    assert sent(line) == {"all-gather": pytest.approx((size - 1) / size * WHOLE)}


@pytest.mark.parametrize(
    "groups",
    [
        ", replica_groups=mesh['data'=8] {'data'=2}",
        ", replica_groups=mesh['data'=8] {}",
        ", replica_groups=@mesh {'data'}",
        ", replica_groups=v9[2,4]",
        "",
    ],
)
def test_unknown_forms_of_replica_groups_raise(groups):
    line = f"%gathered = f32[32]{{0}} all-gather(%a), channel_id=1{groups}, dimensions={{0}}"
    with pytest.raises(UserError, match="the devices of all-gather gathered") as error:
        sent(line)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "result, op, expected",
    [
        ("(f32[4]{0}, f32[32]{0})", "all-gather-start", 7 / 8 * WHOLE),
        ("((f32[4]{0}, f32[4]{0}), (f32[32]{0}, f32[32]{0}))", "all-gather-start", 7 / 8 * 2 * WHOLE),
        ("(f32[4]{0:T(128)}, f32[32]{0:T(128)S(1)}, u32[]{:S(2)})", "all-gather-start", 7 / 8 * WHOLE),
        ("(f32[32]{0}, f32[32]{0}, u32[], u32[])", "collective-permute-start", WHOLE),
        ("((f32[32]{0}), f32[4]{0}, s32[])", "reduce-scatter-start", 7 * PART),
        ("((f32[32]{0}), f32[32]{0})", "all-to-all-start", 7 / 8 * WHOLE),
        ("f32[32]{0}", "all-reduce-start", 2 * 7 / 8 * WHOLE),
        ("(f32[32]{0}, f32[32]{0})", "all-reduce-start", 2 * 7 / 8 * 2 * WHOLE),  # only results
    ],
)
def test_only_the_result_of_a_collective_start_counts(result, op, expected):
    line = f"%start = {result} {op}(%a), channel_id=1, replica_groups=[1,8]<=[8]"
    assert sent(line) == {op.removesuffix("-start"): pytest.approx(expected)}


def test_a_collective_spread_over_fusions_counts_once():
    gather = "all-gather(%p), replica_groups=[1,8]<=[8], dimensions={0}"
    names = ["fused_computation.1", "async_collective_fusion.2", "fused_computation.3"]
    insides = [f"%{n} (p: f32[4]) -> f32[32] {{\n  ROOT %g = f32[32]{{0}} {gather}\n}}\n" for n in names]
    calls = zip(["async-collective-start.1", "fusion.2", "async-collective-done.3"], names)
    body = "".join(f"  %{n} = f32[32]{{0}} fusion(%a), kind=kLoop, calls=%{c}\n" for n, c in calls)
    text = "\n".join([*insides, f"ENTRY %main (a: f32[4]) -> f32[32] {{\n{body}}}\n"])
    assert estimate_traffic(text, 8).sent == {"all-gather": 7 / 8 * WHOLE}


@pytest.mark.parametrize(
    "axes, size",
    [("data", 2), ("fsdp", 2), ("view", 2), (("data", "view"), 4), (("data", "fsdp", "view"), 8)],
)
def test_groups_of_a_compiled_program_follow_its_axes(axes, size):
    mesh = make_mesh({"data": 2, "fsdp": 2, "view": 2}, jax.devices()[:8])
    every = P(("data", "fsdp", "view"))

    @jax.jit
    @jax.shard_map(mesh=mesh, in_specs=every, out_specs=every, check_vma=False)
    def both(x):
        part = jax.lax.psum_scatter(x, axes, scatter_dimension=1, tiled=True)
        return jax.lax.all_gather(jnp.sin(part), axes, axis=1, tiled=True)

    x = jax.ShapeDtypeStruct((8, 64), jnp.float32, sharding=NamedSharding(mesh, every))
    row = pytest.approx((size - 1) / size * 64 * 4)
    sent = estimate_traffic(both.lower(x).compile().as_text(), 8).sent
    assert sent == {"reduce-scatter": row, "all-gather": row}


def test_parameters_sharded_over_fsdp_are_gathered_within_fsdp():
    """The partitioner inserts this collective itself, and names its axes itself."""
    mesh = make_mesh({"data": 2, "fsdp": 2, "view": 2}, jax.devices()[:8])
    sharded, replicated = (NamedSharding(mesh, spec) for spec in (P("fsdp"), P()))
    gather = jax.jit(lambda kernel: jnp.sin(kernel), in_shardings=sharded, out_shardings=replicated)
    text = gather.lower(jax.ShapeDtypeStruct((32, 32), jnp.float32)).compile().as_text()
    assert estimate_traffic(text, 8).sent == {"all-gather": 32 * 32 * 4 / 2}
