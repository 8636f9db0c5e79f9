"""Sends the metrics and pictures of a training run to Weights & Biases (`config.log.wandb`).

The package `wandb` is an optional extra, and reads further settings from its environment variables.
WANDB_MODE=offline writes to the work directory for a later `wandb sync`.
"""

import importlib.util
import json
import pathlib
import secrets
from collections.abc import Mapping
from typing import Any

import numpy as np

from muskie_jax.errors import UserError, first_line
from muskie_jax.files import atomic_write

# In the work directory: the run's id, the last step that was sent, and which parts of it.
RUN_FILE = "wandb_run.json"


def check_wandb(project: str) -> None:
    """Checks `config.log.wandb` without importing the package.

    Raises:
      UserError: if a project is set and the package is not installed, or if it is "true" or "false".
    """
    if project.lower() in ("true", "false"):
        raise UserError(f"config.log.wandb={project!r} must be the name of a project, or '' for none")
    # A folder `wandb`, which the package itself creates, would be found as a package without origin.
    spec = importlib.util.find_spec("wandb") if project else None
    if project and (spec is None or spec.origin is None):
        raise UserError(
            f"config.log.wandb={project!r} needs the package wandb: install it with python -m pip install "
            '-e ".[wandb]" -c constraints.txt'
        )


class WandbRun:
    """The run of a work directory: starts it or, if the work directory has its id, continues it.

    Training repeats the steps after its last checkpoint. What was sent before is not sent again.

    Args:
      project: "project" or "team/project".
      workdir: the work directory, whose name becomes the run's.
      config: all settings, shown with the run.

    Raises:
      UserError: if the run cannot be started, for example without a login.
    """

    def __init__(self, project: str, workdir: pathlib.Path, config: Mapping[str, Any]):
        import wandb  # pyright: ignore[reportMissingImports]  # an optional extra

        self._file = workdir / RUN_FILE
        self._id, self._step, self._parts = secrets.token_hex(4), -1, []
        if self._file.exists():
            sent = json.loads(self._file.read_text())
            self._id, self._step, self._parts = sent["id"], sent["step"], sent["parts"]
        team, _, name = project.rpartition("/")
        try:
            self._run = wandb.init(
                entity=team or None,
                project=name,
                id=self._id,
                name=workdir.resolve().name,
                dir=workdir,
                config=dict(config),
                resume="allow",
                settings={"console": "off"},  # standard output is for results
            )
        except Exception as error:  # the package and its network layer raise many kinds
            raise UserError(
                f"config.log.wandb={project!r}: {first_line(error)[:200]} (log in with `wandb login`, or "
                "set WANDB_MODE=offline)"
            ) from error
        # The default axis counts calls, and an evaluation has the same step as a training record.
        self._run.define_metric("*", step_metric="step")
        self._image = wandb.Image
        self._save()

    def scalars(self, step: int, part: str, values: Mapping[str, float]) -> None:
        """Sends the values of a part, such as "train"."""
        self._send(step, part, values)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Sends a picture, uint8 (H, W, 3)."""
        self._send(step, name, {name: self._image(image)})

    def close(self) -> None:
        """Waits until everything is sent, and marks the run as finished."""
        self._run.finish()

    def _send(self, step: int, part: str, values: Mapping[str, Any]) -> None:
        if step < self._step or (step == self._step and part in self._parts):
            return
        self._run.log({"step": step, **values})
        self._parts = [*self._parts, part] if step == self._step else [part]
        self._step = step
        self._save()

    def _save(self) -> None:
        content = {"id": self._id, "step": self._step, "parts": self._parts}
        with atomic_write(self._file, force=True) as part:
            part.write_text(json.dumps(content) + "\n")
