"""Checks that the processes of a run share their work directory and their config.

Each process writes its part of a checkpoint. With a work directory of its own on each host, or with other
settings, all would wait for each other in the first save, or train different copies of the network.
"""

import contextlib
import json
import pathlib
import time
import uuid

from ml_collections import ConfigDict

from muskie_jax.checks import changed_settings
from muskie_jax.errors import UserError
from muskie_jax.processes.coordination import Coordination

# Settings that hosts may choose: where their copies of the data are, and how they read them.
OF_HOST = tuple(f"data.{name}" for name in ("root", "cache", "index", "workers", "threads", "prefetch"))
LOOKS, SECONDS_BETWEEN = 30, 1.0  # a network file system may show a new file late


def require_same_config(config: ConfigDict) -> None:
    """Checks that all processes of the run have one config. Each process must call this.

    Raises:
      UserError: in every process, if a setting differs, except for those of the host.
    """
    peers = Coordination.of_jax()
    if peers is None:
        return
    first, *others = map(json.loads, peers.gather("config", config.to_json_best_effort()))
    for process, other in enumerate(others, 1):
        for name, (expected, found) in changed_settings(first, other).items():
            if name not in OF_HOST and not (name.startswith("sources.") and name.endswith(".root")):
                raise UserError(
                    f"config.{name} is {expected!r} in process 0 and {found!r} in process {process}: start "
                    "all processes of a run with the same settings"
                )


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
