"""Trains in a process of its own, which can kill itself in the middle.

    python run_and_record.py ROOT WORKDIR WORKERS DEVICES [STEP]

Appends a digest of every update's batches to WORKDIR/drawn.txt. Kills its own process (SIGKILL) after
update STEP.
"""

import hashlib
import json
import os
import pathlib
import signal
import sys

import jax
from absl import app, flags

import conftest  # noqa: F401 (sets JAX up as the tests do)
from muskie_tests.runs import nano_config


def main(argv):
    from muskie_jax.checkpoint import Checkpointer
    from muskie_jax.programs import Programs
    from muskie_jax.train import train

    root, workdir, workers, devices, *rest = argv[1:]
    die_after = int(rest[0]) if rest else None
    workdir = pathlib.Path(workdir)
    workdir.mkdir(exist_ok=True)
    update = Programs.update

    def recorded_update(self, state, batches):
        digest = hashlib.sha256()
        for bucket, batch in batches:
            for key in ("images", "mask", "source"):
                digest.update(str((bucket, key)).encode() + jax.device_get(batch[key]).tobytes())
        step = int(jax.device_get(state.step)) + 1
        with (workdir / "drawn.txt").open("a") as file:
            file.write(f"{step} {digest.hexdigest()}\n")
        result = update(self, state, batches)
        if step == die_after:
            checkpointers[0]._manager.wait_until_finished()  # the latest checkpoint must be complete
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    checkpointers = []
    init = Checkpointer.__init__

    def recorded_init(self, *arguments):
        init(self, *arguments)
        checkpointers.append(self)

    Checkpointer.__init__ = recorded_init
    Programs.update = recorded_update
    config = nano_config(root)
    config.data.workers = int(workers)
    config.batch.passes = 2  # as published: an update uses two loads
    print(json.dumps(train(config, workdir, jax.devices()[: int(devices)])))


if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    app.run(main, argv=sys.argv)
