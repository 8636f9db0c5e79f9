"""Copies of the state that differ between devices or processes are noticed when it is saved."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from muskie_jax.checkpoint import Checkpointer
from muskie_jax.checkpoints.copies import differing_copies
from muskie_jax.config import default_config
from muskie_jax.fingerprint import Examination, digest, examine
from muskie_jax.sharding import make_mesh
from muskie_jax.train_step import TrainState
from muskie_tests.attacked import Run

ARRAY = np.arange(64.0, dtype=np.float32).reshape(8, 8)
DRIFTING = """
import sys
import jax
from muskie_jax import main
from muskie_jax.programs import Programs
update = Programs.update

def drifting(self, state, batches):
    state, measured = update(self, state, batches)
    if "--process_id=1" in sys.argv:
        token = state.params["mask_token"]
        pieces = [shard.data + shard.data for shard in token.addressable_shards]
        other = jax.make_array_from_single_device_arrays(token.shape, token.sharding, pieces)
        state = state.replace(params=state.params | {"mask_token": other})
    return state, measured

Programs.update = drifting
main.main()
"""


def with_copies(mesh, spec, differing=None):
    """Returns ARRAY on a mesh; one device may have another element in its copy."""
    sharding = NamedSharding(mesh, spec)
    pieces = []
    for device, index in sharding.devices_indices_map(ARRAY.shape).items():
        piece = ARRAY[index].copy()
        if device == differing:
            piece[-1, -1] += 1e-3
        pieces.append(jax.device_put(piece, device))
    return jax.make_array_from_single_device_arrays(ARRAY.shape, sharding, pieces)


@pytest.mark.parametrize(
    "shape, spec", [((8, 1, 1), P()), ((2, 4, 1), P("fsdp")), ((4, 2, 1), P(None, "fsdp"))]
)
def test_each_differing_copy_is_found(shape, spec):
    mesh = make_mesh(dict(zip(("data", "fsdp", "view"), shape)))
    equal = examine({"a": with_copies(mesh, spec)})
    assert not equal.unequal
    for device in mesh.devices.flat:
        found = examine({"a": with_copies(mesh, spec, device), "b": ARRAY})
        assert found.unequal == ["a"] and found.finite


def test_a_save_warns_once_and_contains_the_first_copy(tmp_path, capsys):
    mesh = make_mesh({"data": 8, "fsdp": 1, "view": 1})
    state = lambda step: TrainState(
        jnp.int32(step), {"a": with_copies(mesh, P(), mesh.devices.flat[5])}, ()
    )
    checkpoints = Checkpointer(tmp_path, keep=3)
    for step in (1, 2):
        checkpoints.save(state(step), default_config())
    checkpoints.close()
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert "after update 1, the devices of process 0 hold different copies of 1 arrays" in warning
    assert "params/a" in warning
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(2))
    restored, _ = Checkpointer(tmp_path, keep=3).restore(like, default_config())
    np.testing.assert_array_equal(restored.params["a"], ARRAY)
    assert not examine(restored).unequal


class Peers:
    """Other processes that have published texts."""

    def __init__(self, *others):
        self._others = others

    def gather(self, key, text):
        return [text, *self._others]


def test_processes_compare_their_copies():
    found = Examination({"a": "0" * 16}, True, [])
    equal = f"{digest({'a': ARRAY})} "
    own = examine({"a": ARRAY})
    assert differing_copies(own, 3, None) == differing_copies(own, 3, Peers(equal, equal)) == ""
    other = differing_copies(found, 3, Peers(equal, equal + "2 arrays, such as b"))
    assert "processes 0 and 1, 2 hold different copies of the state" in other
    assert "the devices of process 2 hold different copies of 2 arrays, such as b" in other


@pytest.mark.slow
def test_a_process_that_drifts_is_named(tmp_path):
    run = Run(tmp_path, 4, 2, program=["-c", DRIFTING])
    run.end()
    (warning,) = [line for line in run.log.splitlines() if "WARNING" in line]
    assert "processes 0 and 1 hold different copies of the state" in warning
