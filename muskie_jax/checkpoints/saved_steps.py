"""Which steps a work directory has saved, how they were evaluated, and which of them is best."""

import contextlib
import json
import math
import pathlib
import sys
from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple, TypeGuard

from muskie_jax.checkpoints.newest import remembered_errors
from muskie_jax.checkpoints.object_storage import is_complete
from muskie_jax.errors import UserError, first_line
from muskie_jax.files import DAMAGED_RECORD
from muskie_jax.storage.address import as_os_errors

CHECKPOINTS = "checkpoints"  # folder of a work directory; one subfolder per saved step
DAMAGED = "checkpoints_damaged"  # folder of a work directory, for checkpoints that were moved aside
METRICS = "metrics.jsonl"
BEST = "best"  # `<workdir>/best` stands for the checkpoint with the lowest error
EVALUATION = "evaluation/"  # beginning of the names of evaluations in METRICS
SPIKE = "spike"  # metric: the first of the newest updates that were skipped for bad gradients


class UnreadableRecord(UserError):
    """A file with the figures of a run cannot be read; its checkpoints may be intact."""


@contextlib.contextmanager
def records_of(workdir: pathlib.Path) -> Iterator[None]:
    """Raises errors of reading the records of a run as UnreadableRecord."""
    try:
        with as_os_errors():
            yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UnreadableRecord(
            f"{error.filename or workdir} cannot be read: {reason}: change its permissions or move it away"
        ) from error


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps of a work directory's complete checkpoints, ascending."""
    entries = (workdir / CHECKPOINTS).iterdir()
    return sorted(int(entry.name) for entry in entries if entry.name.isdecimal() and is_complete(entry))


def json_rows(path: pathlib.Path) -> Iterator[dict[str, Any]]:
    """Yields the objects in a file of JSON lines; none without the file.

    Lines that are damaged are left out: a killed run may leave its last line unfinished.

    Raises:
      OSError: if the file cannot be read.
    """
    if path.is_file():
        for line in path.read_bytes().decode("utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
            except DAMAGED_RECORD:
                continue
            if isinstance(row, dict):
                yield row


def _is_number(value: object) -> TypeGuard[float]:
    """Returns whether a value is a float, or a whole number that is not too large for one."""
    return isinstance(value, float) or (isinstance(value, int) and abs(value) <= sys.float_info.max)


def metrics_rows(workdir: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the step and the values of each intact line of `metrics.jsonl`; none without the file."""
    for row in json_rows(workdir / METRICS):
        step = row.get("step")
        if isinstance(step, int):
            yield step, row


class History(NamedTuple):
    """What `metrics.jsonl` says about the steps of a run.

    Attributes:
      evaluations: by step, the values of its evaluation by name.
      spike: the first of the newest updates that were skipped for bad gradients; None if none was.
    """

    evaluations: dict[int, dict[str, Any]]
    spike: int | None

    def errors(self) -> dict[int, float]:
        """Returns the error on held-out scenes, by step, of each evaluation.

        It is that of masked patches, or the loss if the task of the run has no such error.
        """
        errors = {step: values.get("mse", values.get("loss")) for step, values in self.evaluations.items()}
        return {step: float(error) for step, error in errors.items() if _is_number(error)}


def read_history(workdir: pathlib.Path) -> History:
    """Returns the history of a run, in one pass over `metrics.jsonl`; an empty one without the file.

    Raises:
      OSError: if the file cannot be read.
    """
    found: dict[int, dict[str, Any]] = {}
    spike = None
    for step, row in metrics_rows(workdir):
        newest = row.get(f"train/{SPIKE}")
        if _is_number(newest) and math.isfinite(newest):
            spike = int(newest)
        names = [name for name in row if name.startswith(EVALUATION)]
        values = {name.removeprefix(EVALUATION): row[name] for name in names}
        if values:
            found[step] = values
    return History(found, spike)


def evaluations(workdir: pathlib.Path) -> dict[int, dict[str, Any]]:
    """Returns the evaluations in `metrics.jsonl`: by step, the values by name; empty if there is none.

    Raises:
      UnreadableRecord: if the file cannot be read.
    """
    with records_of(workdir):
        return read_history(workdir).evaluations


def evaluation_errors(workdir: pathlib.Path) -> dict[int, float]:
    """Returns the errors on held-out scenes in `metrics.jsonl`, see `History.errors`.

    Raises:
      UnreadableRecord: if the file cannot be read.
    """
    with records_of(workdir):
        return read_history(workdir).errors()


def checkpoint_errors(workdir: pathlib.Path) -> dict[int, float]:
    """Returns the errors on held-out scenes of checkpoints, also if `metrics.jsonl` was deleted.

    If held-out scenes or the evaluation have changed, it has those after the change, or those before it if
    there is no other. It may have steps without a checkpoint.

    Raises:
      UnreadableRecord: if a file cannot be read.
    """
    with records_of(workdir):
        record = remembered_errors(workdir)
        return record.with_metrics(evaluation_errors(workdir)) or record.earlier


def best_steps(steps: Collection[int], errors: Mapping[int, float], count: int) -> list[int]:
    """Returns the `count` steps with the lowest errors, the best first; later steps win ties.

    Steps without a finite error are left out.
    """
    evaluated = [step for step in steps if math.isfinite(errors.get(step, math.nan))]
    return sorted(evaluated, key=lambda step: (errors[step], -step))[:count]


def best_step(workdir: pathlib.Path) -> int | None:
    """Returns the saved step with the lowest error on held-out scenes; None if none was evaluated."""
    best = best_steps(saved_steps(workdir), checkpoint_errors(workdir), 1)
    return best[0] if best else None
