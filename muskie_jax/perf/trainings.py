"""Runs trainings in processes of their own, for measurements that compare them."""

import json
import pathlib
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from muskie_jax.checkpoints.saved_steps import METRICS, json_rows
from muskie_jax.errors import UserError

TRAIN = (sys.executable, "-m", "muskie_jax.main")


def run_training(
    arguments: Sequence[str],
    workdir: pathlib.Path,
    environment: Mapping[str, str],
    signal_after: str = "",
    sent: signal.Signals = signal.SIGTERM,
) -> dict[str, Any]:
    """Runs a training.

    Args:
      arguments: flags of `muskie train`, without `--workdir`.
      workdir: the work directory.
      environment: all environment variables.
      signal_after: part of a line of the log after which the training gets a signal; "" for none.
      sent: the signal.

    Returns:
      The final figures; none if SIGKILL ended the training.

    Raises:
      UserError: if it fails.
    """
    process = subprocess.Popen(
        [*TRAIN, f"--workdir={workdir}", *arguments],
        env=dict(environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if signal_after and signal_after in line:
            process.send_signal(sent)
    out, _ = process.communicate()
    if signal_after and process.returncode == -signal.SIGKILL:
        return {}
    if process.returncode:
        raise UserError(f"the training in {workdir} failed: {' '.join(lines[-3:])}")
    return json.loads(out.splitlines()[-1])


def training_values(workdir: pathlib.Path, name: str) -> list[float]:
    """Returns what a run has reported about training, such as every "loss"."""
    key = f"train/{name}"
    return [row[key] for row in json_rows(workdir / METRICS) if key in row]
