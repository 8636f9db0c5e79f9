"""A run continues on other devices, processes and workers: same state, same examples, no drift."""

import hashlib

import jax
import numpy as np
import pytest

from muskie_jax.checkpoint import Checkpointer
from muskie_jax.checkpoints.contents import read_params
from muskie_jax.fingerprint import digest
from muskie_jax.programs import Programs
from muskie_jax.train import train
from muskie_tests.attacked import STOPPED, Run
from muskie_tests.runs import nano_config

pytestmark = pytest.mark.slow

STEPS = 20
DRIFT = 1e-6  # largest difference of a parameter after STEPS updates in float32
# Devices, worker processes, and the last update on them.
PHASES = [(8, 4, 4), (4, 0, 8), (2, 2, 12), (1, 0, 16), (8, 1, STEPS)]


class Recorded:
    """Records the batches of each update, and digests of the states that are saved and restored."""

    def __init__(self, monkeypatch):
        self.drawn: dict[int, str] = {}
        self.saved: dict[int, str] = {}
        self.restored: dict[int, str] = {}
        self.stop_after = STEPS
        update, save, restore = Programs.update, Checkpointer.save, Checkpointer.restore

        def recorded_update(programs, state, batches):
            found = hashlib.sha256()
            for bucket, batch in batches:
                for key in ("images", "mask", "source"):
                    found.update(str((bucket, key)).encode() + jax.device_get(batch[key]).tobytes())
            self.drawn[int(jax.device_get(state.step)) + 1] = found.hexdigest()
            return update(programs, state, batches)

        def recorded_save(checkpoints, state, config):
            with jax.transfer_guard("allow"):
                self.saved[int(jax.device_get(state.step))] = digest(state)
            save(checkpoints, state, config)

        def recorded_restore(checkpoints, like, config):
            found = restore(checkpoints, like, config)
            if found:
                self.restored[int(found[0].step)] = digest(found[0])
                self.devices = len(found[0].step.sharding.device_set)
                self.pieces = max(map(pieces, jax.tree.leaves(found[0].params)))
            return found

        monkeypatch.setattr(Programs, "update", recorded_update)
        monkeypatch.setattr(Checkpointer, "save", recorded_save)
        monkeypatch.setattr(Checkpointer, "restore", recorded_restore)
        stops = lambda stop, step: step == self.stop_after
        monkeypatch.setattr("muskie_jax.processes.interrupt.StopSignal.requested", stops)


def pieces(array):
    """Returns the number of different parts that devices have of an array."""
    return len({str(shard.index) for shard in array.addressable_shards})


def largest_difference(one, other):
    a, b = (read_params(workdir / "checkpoints" / str(STEPS))[0] for workdir in (one, other))
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(x - y).max()), a, b)))


def test_devices_and_workers_may_change(photo_folder, tmp_path, monkeypatch):
    recorded = Recorded(monkeypatch)
    config = nano_config(photo_folder)
    config.buckets.update({"resolutions": (((32, 32),),), "views": (4,)})
    config.evaluation.update(pictures=0, groups=8)
    config.mesh.update(data=1, fsdp=-1)  # so that another number of devices has other parts of parameters
    config.duration, config.optim.learning_rate = f"{STEPS} steps", 2e-4
    train(config, tmp_path / "whole", jax.devices())
    expected, recorded.drawn = recorded.drawn, {}
    for devices, workers, last in PHASES:
        recorded.stop_after, config.data.workers = last, workers
        result = train(config, tmp_path / "parts", jax.devices()[:devices])
        assert result["step"] == last
        if last > PHASES[0][2]:
            assert recorded.devices == recorded.pieces == devices
    assert recorded.drawn == expected and len(expected) == STEPS
    assert list(recorded.restored) == [last for _, _, last in PHASES[:-1]]
    assert all(recorded.saved[step] == found for step, found in recorded.restored.items())
    drift = largest_difference(tmp_path / "parts", tmp_path / "whole")
    print(f"drift {drift:.2g}")
    assert drift <= DRIFT


def test_two_processes_may_become_one(tmp_path):
    flags = ["--config.batch.groups=8", "--config.optim.learning_rate=2e-4"]
    Run(tmp_path / "whole", STEPS, 1, flags).end()
    stopped = Run(tmp_path / "parts", STEPS, 2, flags).wait_for("step 3/").signal("SIGTERM", 1)
    first = stopped.end(STOPPED, STOPPED)["step"]
    assert 3 <= first < STEPS
    continued = Run(tmp_path / "parts", STEPS, 1, flags)
    assert continued.end()["step"] == STEPS and f"Continuing from step {first}" in continued.log
    drift = largest_difference(tmp_path / "parts", tmp_path / "whole")
    print(f"drift {drift:.2g}")
    assert drift <= DRIFT
