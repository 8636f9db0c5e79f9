"""Compares the results of repeated trainings, with and without `config.deterministic`.

    python -m muskie_jax.perf.determinism --workdir runs/determinism

Trains Muskie-S for 40 updates on synthetic rooms of 128x128 pixels, always from the same seed. Each
training is a process of its own, since XLA reads its flags when a process starts. The trainings differ in
their caches of compiled programs; one is stopped after 20 updates and continued.

Prints the digest of each training's parameters, whether it equals that of the first training with the same
setting, and the milliseconds of an update. Exits with an error if deterministic trainings differ. Further
flags of `muskie train` follow after `--`. This process does not start JAX's devices, whose memory the
trainings need.
"""

import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from absl import app

from muskie_jax.command_line import WORKDIR
from muskie_jax.errors import UserError, fail
from muskie_jax.perf import trainings

UPDATES, STOP = 40, 20
SETTINGS = (
    "--config=configs/rooms.py",
    "--config.buckets.resolutions=(((128, 128),),)",
    f"--config.duration={UPDATES} steps",
    "--config.optim.warmup=5 steps",
    f"--config.log.every={STOP}",  # the last report leaves out the slow first updates
    "--config.log.tensorboard=False",
    "--config.evaluation.every=0",
    "--config.evaluation.groups=8",
    "--config.evaluation.pictures=0",
)


class Training(NamedTuple):
    """One training.

    Attributes:
      name: what is special about it.
      deterministic: `config.deterministic`.
      cache: name of its cache of compiled programs, which is empty at the first training that uses it.
      is_stopped: whether it is stopped after about STOP updates, and continued by the same command.
    """

    name: str
    deterministic: bool
    cache: str
    is_stopped: bool = False


TRAININGS = (
    Training("empty cache", True, "a"),
    Training("another empty cache", True, "b"),
    Training("warm cache", True, "a"),
    Training("stopped and continued", True, "a", is_stopped=True),
    Training("empty cache", False, "c"),
    Training("another empty cache", False, "d"),
    Training("warm cache", False, "c"),
)


def setting_name(deterministic: bool) -> str:
    return "deterministic" if deterministic else "default"


def run_training(training: Training, folder: pathlib.Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Runs a training in processes of its own; returns its final figures and `ms_per_update`.

    Args:
      training: the training.
      folder: folder for the work directory and the cache.
      arguments: further flags of `muskie train`.

    Raises:
      UserError: if a process fails, or if a training ends before it could be stopped.
    """
    workdir = folder / f"{setting_name(training.deterministic)}_{training.name}".replace(" ", "_")
    setting = f"--config.deterministic={training.deterministic}"
    arguments = [*SETTINGS, setting, *arguments]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(folder / f"cache_{training.cache}")}
    if training.is_stopped:
        result = trainings.run_training(arguments, workdir, environment, f"step {STOP}/")
        if "stopped" not in result:
            raise UserError(
                f"the training in {workdir} ended before it could be stopped: remove {folder}, run again"
            )
        print(f"stopped after update {result['step']}", file=sys.stderr)
    result = trainings.run_training(arguments, workdir, environment)
    seconds = trainings.training_values(workdir, "seconds_per_step")[-1]
    return result | {"ms_per_update": 1e3 * seconds}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns one line for each training: setting, name, digest, comparison and time of an update."""
    lines, references = [], {}
    for row in rows:
        digest, setting = row["params_digest"], setting_name(row["deterministic"])
        equal = "equal" if digest == references.get(setting) else "UNEQUAL" if setting in references else ""
        references.setdefault(setting, digest)
        lines.append(
            f"{setting:13s}  {row['name']:21s}  {digest:16s}  {equal:7s}  {row['ms_per_update']:7.2f} ms"
        )
    return "\n".join(lines)


def main(argv: list[str]) -> None:
    folder = pathlib.Path(WORKDIR.value or "runs/determinism")
    if folder.exists():
        fail(f"--workdir={folder} exists: remove it, or use another folder, since caches must be empty")
    rows = []
    try:
        for training in TRAININGS:
            rows.append(training._asdict() | run_training(training, folder, argv[1:]))
            print(table(rows[-1:]), file=sys.stderr)
    except UserError as error:
        fail(str(error))
    print(table(rows))
    digests = {row["params_digest"] for row in rows if row["deterministic"]}
    if len(digests) > 1:
        fail(f"config.deterministic=True gave {len(digests)} results: {', '.join(sorted(digests))}")


if __name__ == "__main__":
    app.run(main)
