"""Compares the losses of one training on different numbers of devices.

    python -m muskie_jax.perf.device_counts --counts=1,2,4,8 --workdir runs/device_counts

Trains Muskie-S for 200 updates on synthetic rooms, in float32, on each number of GPUs of this machine,
always with the same groups and from the same seed. One more training is killed (SIGKILL) three times, and
continued on another number of devices. Prints for each training the largest difference of a loss from that
of the first, absolute and relative. On a CPU, JAX makes virtual devices. Further flags of `muskie train`
follow after `--`. This process does not start JAX's devices, whose memory the trainings need.
"""

import itertools
import os
import pathlib
import re
import signal
from collections.abc import Sequence

from absl import app, flags

from muskie_jax.command_line import WORKDIR
from muskie_jax.errors import UserError, fail
from muskie_jax.perf.trainings import run_training, training_values

UPDATES, SAVED_EVERY = 200, 50
SETTINGS = (
    "--config=configs/rooms.py",
    "--config.model.dtype=float32",
    "--config.model.residual_dtype=float32",
    "--config.buckets.resolutions=(((128, 128),),)",
    f"--config.duration={UPDATES} steps",
    "--config.optim.warmup=20 steps",
    f"--config.checkpoint.every={SAVED_EVERY}",
    "--config.log.every=1",
    "--config.log.tensorboard=False",
    "--config.evaluation.every=0",
    "--config.evaluation.groups=8",
    "--config.evaluation.pictures=0",
)
_COUNTS = flags.DEFINE_list("counts", ["1", "2"], "numbers of devices, separated by commas")


def environment(count: int) -> dict[str, str]:
    """Returns the environment of a training on so many GPUs, or virtual devices of a CPU."""
    others = re.sub(r"--xla_force_host_platform_device_count=\d+", "", os.environ.get("XLA_FLAGS", ""))
    return os.environ | {
        "CUDA_VISIBLE_DEVICES": ",".join(map(str, range(count))),
        "XLA_FLAGS": f"{others} --xla_force_host_platform_device_count={count}".strip(),
        "JAX_DEFAULT_MATMUL_PRECISION": "highest",  # GPUs otherwise round float32 factors to TF32
    }


def train_on(count: int, folder: pathlib.Path, arguments: Sequence[str]) -> list[float]:
    """Trains on so many devices, in `<folder>/<count>`; returns the losses."""
    workdir = folder / str(count)
    run_training([*SETTINGS, *arguments], workdir, environment(count))
    return training_values(workdir, "loss")


def train_killed(counts: Sequence[int], folder: pathlib.Path, arguments: Sequence[str]) -> list[float]:
    """Trains on one number of devices after the other, in `<folder>/killed`; returns the losses."""
    workdir = folder / "killed"
    # Between two checkpoints, so that updates are lost.
    kills = [f"step {step}/" for step in range(SAVED_EVERY * 3 // 2, UPDATES, SAVED_EVERY)]
    for count, kill_after in zip(itertools.cycle(counts), [*kills, ""]):
        run_training([*SETTINGS, *arguments], workdir, environment(count), kill_after, signal.SIGKILL)
    return training_values(workdir, "loss")


def table_line(name: str, found: Sequence[float], reference: Sequence[float]) -> str:
    """Returns a line with the largest differences of losses from those of a reference."""
    differences = [abs(one - other) for one, other in zip(found, reference, strict=True)]
    relative = max(difference / other for difference, other in zip(differences, reference))
    return f"{name:24s}  {len(found):6d}  {max(differences):.2e}  {relative:.2e}"


def main(argv: list[str]) -> None:
    folder = pathlib.Path(WORKDIR.value or "runs/device_counts")
    if folder.exists():
        fail(f"--workdir={folder} exists: remove it, or use another folder")
    if not all(count.isdecimal() and int(count) for count in _COUNTS.value):
        fail(f"--counts={','.join(_COUNTS.value)} must be numbers of devices, such as 1,2,4")
    counts = [int(count) for count in _COUNTS.value]
    print(f"{'devices':24s}  losses  largest difference, absolute and relative")
    try:
        reference = train_on(counts[0], folder, argv[1:])
        for count in counts[1:]:
            print(table_line(str(count), train_on(count, folder, argv[1:]), reference), flush=True)
        name = f"{', '.join(map(str, counts[::-1]))} in turn"
        print(table_line(name, train_killed(counts[::-1], folder, argv[1:]), reference))
    except UserError as error:
        fail(str(error))


if __name__ == "__main__":
    app.run(main)
