"""Checks that the processes of a run share their work directory.

Each process writes its part of a checkpoint there. With a folder of its own on each host, all would wait
for each other in the first save.
"""

import contextlib
import pathlib
import time
import uuid

from muskie_jax.errors import UserError
from muskie_jax.processes.coordination import Coordination

LOOKS, SECONDS_BETWEEN = 30, 1.0  # a network file system may show a new file late


def require_shared(workdir: pathlib.Path) -> None:
    """Checks that all processes of the run see one work directory. Each process must call this.

    Args:
      workdir: the work directory, which exists; or one in object storage.

    Raises:
      UserError: in every process, if one does not see the work directory of process 0.
    """
    peers = Coordination.of_jax()
    if peers is None:
        return
    writes = peers.process == 0
    names = peers.gather("file of the work directory", f".shared_{uuid.uuid4().hex}")
    file = workdir / names[0]
    try:
        if writes:
            file.write_text("process 0 has written this to see whether the others find it\n")
        peers.gather("work directory", " ")
        found = peers.gather(
            "whether it is shared", f"{'yes' if writes or _appears(file) else 'no'} {workdir}"
        )
    finally:
        if writes:
            with contextlib.suppress(OSError):
                file.unlink()
    folder = found[0].partition(" ")[2]
    for process, (answer, _, other) in enumerate(each.partition(" ") for each in found):
        if answer == "no":
            raise UserError(
                f"{other} of process {process} is not the folder {folder} of process 0: pass a --workdir "
                "on a disk that all hosts share, or one in object storage, such as gs://bucket/run"
            )


def _appears(file: pathlib.Path) -> bool:
    """Returns whether a file can be seen, at once or a little later."""
    for look in range(LOOKS):
        if look > 0:
            time.sleep(SECONDS_BETWEEN)
        if file.exists():
            return True
    return False
