"""Remembers the newest checkpoint of a run beside its checkpoints, which may seem to be gone.

The disk of a folder may not be mounted, and a store may fail to list one. A run that started from the
beginning then would write over the metrics, and later over the checkpoints. The record also has the errors
of checkpoints, in case that `metrics.jsonl` is deleted: the best ones would be deleted, too.
"""

import contextlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from muskie_jax.files import DAMAGED_RECORD, replace_text
from muskie_jax.storage.address import as_os_errors, is_remote

FILE = "newest_checkpoint.json"


def remember(workdir: pathlib.Path, step: int, errors: Mapping[int, float]) -> None:
    """Records that the checkpoint of a step is complete. A failure is ignored: it loses nothing.

    Args:
      workdir: the work directory.
      step: the step.
      errors: errors on held-out scenes, by step, of the checkpoints that exist.
    """
    finite = {step: error for step, error in errors.items() if math.isfinite(error)}
    text = json.dumps({"step": step, "errors": finite}) + "\n"
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
        return int(_read(workdir)["step"])
    except (FileNotFoundError, *DAMAGED_RECORD):
        return None


def remembered_errors(workdir: pathlib.Path) -> dict[int, float]:
    """Returns the recorded errors of checkpoints by step; {} if there is no record, or of earlier versions.

    Raises:
      OSError: if the record cannot be read.
    """
    try:
        return {int(step): float(error) for step, error in _read(workdir)["errors"].items()}
    except (FileNotFoundError, *DAMAGED_RECORD):
        return {}


def _read(workdir: pathlib.Path) -> Any:
    with as_os_errors():
        text = (workdir / FILE).read_bytes()
    return json.loads(text)
