"""Which steps a work directory has saved, how they were evaluated, and which of them is best."""

import json
import math
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

CHECKPOINTS = "checkpoints"  # folder of a work directory; one subfolder per saved step
DAMAGED = "checkpoints_damaged"  # folder of a work directory, for checkpoints that were moved aside
METRICS = "metrics.jsonl"
BEST = "best"  # `<workdir>/best` stands for the checkpoint with the lowest error
EVALUATION = "evaluation/"  # beginning of the names of evaluations in METRICS


def saved_steps(workdir: pathlib.Path) -> list[int]:
    """Returns the steps of a work directory's checkpoints, ascending."""
    return sorted(int(entry.name) for entry in (workdir / CHECKPOINTS).iterdir() if entry.name.isdigit())


def evaluations(workdir: pathlib.Path) -> dict[int, dict[str, Any]]:
    """Returns the evaluations in `metrics.jsonl`: by step, the values by name; empty if there is none."""
    found: dict[int, dict[str, Any]] = {}
    path = workdir / METRICS
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                values = {
                    name.removeprefix(EVALUATION): value
                    for name, value in row.items()
                    if name.startswith(EVALUATION)
                }
                if values:
                    found[int(row["step"])] = values
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # a killed run may leave its last line unfinished
    return found


def evaluation_errors(workdir: pathlib.Path) -> dict[int, float]:
    """Returns the error on held-out scenes, by step, of each evaluation.

    It is that of masked patches, or the loss if the task of the run has no such error.
    """
    errors = {step: values.get("mse", values.get("loss")) for step, values in evaluations(workdir).items()}
    return {step: float(error) for step, error in errors.items() if isinstance(error, (int, float))}


def best_steps(steps: Collection[int], errors: Mapping[int, float], count: int) -> list[int]:
    """Returns the `count` steps with the lowest errors, the best first; later steps win ties.

    Steps without a finite error are left out.
    """
    evaluated = [step for step in steps if math.isfinite(errors.get(step, math.nan))]
    return sorted(evaluated, key=lambda step: (errors[step], -step))[:count]


def best_step(workdir: pathlib.Path) -> int | None:
    """Returns the saved step with the lowest error on held-out scenes; None if none was evaluated."""
    best = best_steps(saved_steps(workdir), evaluation_errors(workdir), 1)
    return best[0] if best else None
