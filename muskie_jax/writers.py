"""Writes a run's metrics and pictures to JSON lines, TensorBoard, Weights & Biases and the terminal."""

import contextlib
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from muskie_jax.errors import printable
from muskie_jax.files import DAMAGED_RECORD, replace_text
from muskie_jax.wandb_run import WandbRun


class JsonLines:
    """Writes `metrics.jsonl`, one JSON object per line.

    Args:
      path: the file. An existing file is continued; lines that are incomplete, damaged or of later steps
        are removed.
      first_step: the step that the run continues from.
    """

    def __init__(self, path: pathlib.Path, first_step: int):
        kept = []
        if path.exists():
            lines = path.read_bytes().decode("utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) <= first_step]
        replace_text(path, "".join(line + "\n" for line in kept))
        self._written = {_identity(json.loads(line)) for line in kept}
        self._path = path

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Adds a line, unless the file already had a line with this step and these names when opened."""
        row = {"step": step, **{key: _json_number(value) for key, value in values.items()}}
        if _identity(row) in self._written:
            return
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def _json_number(value: float) -> float | None:
    """Returns None for infinity and NaN, which JSON does not have."""
    return value if math.isfinite(value) else None


def _identity(row: Mapping[str, Any]) -> tuple[int, frozenset[str]]:
    return row["step"], frozenset(row)


def _step_of(line: str) -> float:
    """Returns the step of a line; infinity for a line that is damaged or incomplete."""
    try:
        return int(json.loads(line)["step"])
    except DAMAGED_RECORD:
        return math.inf


class Writers:
    """Writes scalars and pictures, in the first process only.

    Args:
      workdir: folder of `metrics.jsonl` and of TensorBoard's files.
      first_step: the step that the run continues from.
      config: the whole config. Its section `log` selects TensorBoard and Weights & Biases.
    """

    def __init__(self, workdir: pathlib.Path, first_step: int, config: ConfigDict):
        self._json = self._board = self._wandb = None
        if jax.process_index() == 0:
            if config.log.wandb:  # first, because it may fail
                self._wandb = WandbRun(config.log.wandb, workdir, config.to_dict())
            self._json = JsonLines(workdir / "metrics.jsonl", first_step)
            if config.log.tensorboard:
                # Imported here because the import is slow, and imports PyTorch if it is installed.
                from muskie_jax.tensorboard import open_board

                self._board = open_board(workdir / "tensorboard", first_step)

    def scalars(self, step: int, part: str, values: Mapping[str, float]) -> None:
        """Writes values as `<part>/<name>`."""
        values = {f"{part}/{name}": value for name, value in values.items()}
        if self._json:
            self._json.write(step, values)
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(name, value, step)
        if self._wandb:
            self._wandb.scalars(step, part, values)

    def picture(self, step: int, name: str, image: np.ndarray) -> None:
        """Writes a picture, uint8 (H, W, 3)."""
        if self._board:
            self._board.add_image(name, image, step, dataformats="HWC")
        if self._wandb:
            self._wandb.picture(step, name, image)

    def flush(self) -> None:
        """Writes the curves that TensorBoard's writer still holds; a killed process would lose them."""
        if self._board:
            self._board.flush()

    def close(self) -> None:
        for board in (self._board, self._wandb):
            if board:
                board.close()


def save_picture(path: pathlib.Path, image: np.ndarray) -> None:
    """Writes uint8 (H, W, 3) as a PNG file, from the first process only."""
    if jax.process_index() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)


def log(message: str) -> None:
    """Prints one line to standard error; standard output is for results.

    Control characters are escaped. absl logging is not used, since it prefixes lines with time and file. A
    closed terminal is no error, so that a run can save.
    """
    with contextlib.suppress(OSError):
        print(printable(message), file=sys.stderr, flush=True)


def log_main(message: str) -> None:
    """Logs from the first process only."""
    if jax.process_index() == 0:
        log(message)


def table_row(cells: Sequence[str], columns: Sequence[tuple[str, int]]) -> str:
    """Formats one row of a table whose columns are (name, width) pairs."""
    return "  ".join(f"{text:>{width}}" for text, (_, width) in zip(cells, columns))


def table_head(columns: Sequence[tuple[str, int]]) -> str:
    """Formats the header row of a table."""
    return table_row([name for name, _ in columns], columns)


def print_result(result: dict[str, Any]) -> None:
    """Prints a job's final figures as one JSON object, the last line of standard output."""
    clean = {k: _json_number(v) if isinstance(v, float) else v for k, v in result.items()}
    sys.stderr.flush()
    print(json.dumps(clean), flush=True)


def duration(seconds: float) -> str:
    """Formats a duration as 1h02m, 3m05s or 12s."""
    seconds = max(0, round(seconds))
    hours, minutes = seconds // 3600, seconds // 60 % 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{seconds % 60:02d}s" if minutes else f"{seconds}s"
