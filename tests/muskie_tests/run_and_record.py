"""A training run in a process of its own, that can die in the middle as machines do.

    python run_and_record.py ROOT WORKDIR WORKERS [STEP]

Appends a digest of every batch to WORKDIR/drawn.txt, and kills its own process (SIGKILL) after update STEP.
"""

import hashlib
import json
import os
import pathlib
import signal
import sys

import numpy as np
from absl import app, flags

import conftest  # noqa: F401 (sets JAX up as the tests do)
from muskie_tests.runs import nano_config


def main(argv):
    from muskie_jax.checkpoint import Checkpointer
    from muskie_jax.programs import Programs
    from muskie_jax.train import train

    root, workdir, workers, *rest = argv[1:]
    die_after = int(rest[0]) if rest else None
    workdir = pathlib.Path(workdir)
    workdir.mkdir(exist_ok=True)
    update = Programs.update

    def recorded(self, state, batches):
        digest = hashlib.sha256()
        for bucket, batch in batches:
            for key in ("images", "mask", "source"):
                digest.update(str((bucket, key)).encode() + np.asarray(batch[key]).tobytes())
        step = int(state.step) + 1
        with (workdir / "drawn.txt").open("a") as file:
            file.write(f"{step} {digest.hexdigest()}\n")
        result = update(self, state, batches)
        if step == die_after:
            waiting[0]._manager.wait_until_finished()  # until the latest checkpoint is whole
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    waiting = []
    opened = Checkpointer.__init__
    Checkpointer.__init__ = lambda self, *args: (opened(self, *args), waiting.append(self))[0]
    Programs.update = recorded
    config = nano_config(root)
    config.data.workers = int(workers)
    print(json.dumps(train(config, workdir)))


if __name__ == "__main__":
    flags.FLAGS.mark_as_parsed()
    app.run(main, argv=sys.argv)
