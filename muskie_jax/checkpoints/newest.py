"""Remembers the newest checkpoint of a run beside its checkpoints, which may seem to be gone.

The disk of a folder may not be mounted, and a store may fail to list one. A run that started from the
beginning then would write over the metrics, and later over the checkpoints. The record also has the errors
of checkpoints, in case that `metrics.jsonl` is deleted: the best ones would be deleted, too. And it says on
what they were measured: errors on other images or masks are not comparable.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from muskie_jax.files import DAMAGED_RECORD, replace_text
from muskie_jax.storage.address import as_os_errors, is_remote

FILE = "newest_checkpoint.json"


@dataclasses.dataclass(frozen=True)
class Errors:
    """The errors of a run's checkpoints on held-out scenes, as far as they are comparable.

    Attributes:
      errors: by step.
      earlier: by step, those that were measured on something else before.
      measured: what `errors` were measured on, see `muskie_jax.data.changes.measured_on`; None if that is
        not known.
      since: step at which this began; later errors in `metrics.jsonl` belong to `errors`, others do not.
    """

    errors: dict[int, float] = dataclasses.field(default_factory=dict)
    earlier: dict[int, float] = dataclasses.field(default_factory=dict)
    measured: str | None = None
    since: int = -1

    def with_metrics(self, metrics: Mapping[int, float]) -> dict[int, float]:
        """Returns comparable errors by step, with those of `metrics.jsonl`, which are newer."""
        return self.errors | {step: error for step, error in metrics.items() if step > self.since}


def remember(workdir: pathlib.Path, step: int, errors: Errors) -> None:
    """Records that the checkpoint of a step is complete. A failure is ignored: it loses nothing.

    Args:
      workdir: the work directory.
      step: the step.
      errors: errors of the checkpoints that exist.
    """
    finite = lambda by_step: {each: error for each, error in by_step.items() if math.isfinite(error)}
    errors = dataclasses.replace(errors, errors=finite(errors.errors), earlier=finite(errors.earlier))
    text = json.dumps({"step": step} | dataclasses.asdict(errors)) + "\n"
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


def remembered_errors(workdir: pathlib.Path) -> Errors:
    """Returns the recorded errors of checkpoints; none if there is no record. Earlier versions wrote less.

    Raises:
      OSError: if the record cannot be read.
    """
    try:
        record = _read(workdir)
        by_step = lambda name: {int(step): float(error) for step, error in record.get(name, {}).items()}
        measured = record.get("measured")
        return Errors(
            by_step("errors"),
            by_step("earlier"),
            measured if isinstance(measured, str) else None,
            int(record.get("since", -1)),
        )
    except (FileNotFoundError, AttributeError, *DAMAGED_RECORD):
        return Errors()


def _read(workdir: pathlib.Path) -> Any:
    with as_os_errors():
        text = (workdir / FILE).read_bytes()
    return json.loads(text)
