"""Remembers the newest checkpoint of a run beside its checkpoints, which may seem to be gone.

The disk of a folder may not be mounted, and a store may fail to list one. A run that started from the
beginning then would write over the metrics, and later over the checkpoints.
"""

import contextlib
import json
import pathlib

from muskie_jax.files import replace_text
from muskie_jax.storage.address import as_os_errors, is_remote

FILE = "newest_checkpoint.json"


def remember(workdir: pathlib.Path, step: int) -> None:
    """Records that the checkpoint of a step is complete. A failure is ignored: it loses nothing."""
    text = json.dumps({"step": step}) + "\n"
    with contextlib.suppress(OSError), as_os_errors():
        if is_remote(workdir):
            (workdir / FILE).write_text(text)
        else:
            replace_text(workdir / FILE, text)


def remembered(workdir: pathlib.Path) -> int | None:
    """Returns the recorded step; None if there is no record.

    Raises:
      OSError: if the record cannot be read.
    """
    try:
        with as_os_errors():
            text = (workdir / FILE).read_bytes()
        return int(json.loads(text)["step"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
