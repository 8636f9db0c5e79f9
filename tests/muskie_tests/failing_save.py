"""Runs `muskie_jax.main` with a fault in its second checkpoint.

    python failing_save.py FAULT WORKDIR ARGUMENTS

Faults: "folder", the step's folder cannot be created; "write", files cannot grow, as on a full disk;
"write twice", likewise, and the metrics cannot be written either; "workdir", the work directory is deleted;
"none". The first checkpoint must be that of step 6. The fault
starts after it is complete.
"""

import os
import pathlib
import resource
import shutil
import sys
import time

from muskie_jax.checkpoints.orbax_messages import collect_orbax_messages
from muskie_jax.main import main
from muskie_jax.progress import Progress

FIRST, SIZE = 6, 20_000


def start_fault(fault, workdir):
    deadline = time.monotonic() + 60
    while not (workdir / "checkpoints" / str(FIRST)).is_dir() and time.monotonic() < deadline:
        time.sleep(0.05)
    workdir.with_suffix(".fault").touch()
    if fault in ("write", "write twice"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, SIZE))
    elif fault == "workdir":
        shutil.rmtree(workdir)
    elif fault == "folder":
        mkdir = os.mkdir

        def fails(path, *arguments, **options):
            if "orbax-checkpoint-tmp" in str(path):
                raise OSError(28, os.strerror(28), str(path))
            return mkdir(path, *arguments, **options)

        os.mkdir = fails


if __name__ == "__main__":
    fault, workdir = sys.argv[1], pathlib.Path(sys.argv[2])
    line = Progress.line

    def line_with_fault(self, *arguments):
        if self.step == FIRST + 1:
            start_fault(fault, workdir)
        elif fault == "write twice" and self.step > 2 * FIRST:
            while collect_orbax_messages().failure is None:  # the save of the second checkpoint
                time.sleep(0.01)
            raise OSError(28, os.strerror(28))
        return line(self, *arguments)

    Progress.line = line_with_fault
    sys.argv = [sys.argv[0], "--workdir", str(workdir), *sys.argv[3:]]
    main()
