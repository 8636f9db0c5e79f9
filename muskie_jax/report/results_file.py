"""`results.jsonl`, as a sweep writes it and a report reads it: a line for each finished unit of work.

Several hosts write into one folder, each into a file of its own: results.jsonl, results.1.jsonl and so on.
"""

import json
import math
import os
import pathlib
from typing import Any, NamedTuple

from muskie_jax.errors import UserError, first_line
from muskie_jax.evaluators.results import ResultRow

FILES = "results*.jsonl"


class MeasuredModel(NamedTuple):
    """What was measured.

    Attributes:
      name: what tables call it.
      kind: see `muskie_jax.evaluators.subjects.Subject`.
      step: of training, if that is known; 0 is untrained.
      source: where it comes from; checkpoints of one run have the same.
      parameters: how many it has.
      digest: of its parameters.
    """

    name: str
    kind: str
    step: int | None = None
    source: str = ""
    parameters: int | None = None
    digest: str = ""


class FigureFile(NamedTuple):
    """A picture; see `muskie_jax.evaluators.results.Figure`. `file` is its path in the folder."""

    file: str
    kind: str
    labels: dict[str, Any]
    caption: str


class Unit(NamedTuple):
    """A finished unit of work.

    Attributes:
      unit: its identity: the same work has the same.
      model: what was measured.
      evaluator: by what.
      setting: and how.
      rows, figures: what came of it.
      seconds: that it took.
      finished: when, ISO 8601 in UTC.
      device: on what.
      version: of muskie_jax.
    """

    unit: str
    model: MeasuredModel
    evaluator: str
    setting: dict[str, Any]
    rows: tuple[ResultRow, ...] = ()
    figures: tuple[FigureFile, ...] = ()
    seconds: float = 0.0
    finished: str = ""
    device: str = ""
    version: str = ""


def append(path: pathlib.Path, unit: Unit) -> None:
    """Adds a line to a file that only this process writes; it is on the disk when this returns.

    What a killed process left of its last line is removed. Figures that are not finite become null.
    """
    record = unit._asdict() | {
        "model": unit.model._asdict(),
        "rows": [
            {"labels": row.labels, "values": {key: _finite(value) for key, value in row.values.items()}}
            for row in unit.rows
        ],
        "figures": [figure._asdict() for figure in unit.figures],
    }
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    with open(path, "a+b") as file:
        file.seek(0)
        whole, newline, cut = file.read().rpartition(b"\n")
        if cut:
            if _parsed(cut) is None:
                file.truncate(len(whole) + len(newline))
            else:  # an editor left the newline out
                line = b"\n" + line
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def read(folder: pathlib.Path) -> list[Unit]:
    """All finished units; of one that occurs twice, the one that finished last.

    A line cut short by the end of its file is not there: its process was killed.

    Raises:
      UserError: if there are no results, or a line of them cannot be read; it names file and line.
    """
    units: dict[str, Unit] = {}
    try:
        files = {path: path.read_bytes() for path in sorted(folder.glob(FILES))}
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or error}") from error
    for path, content in files.items():
        *lines, last = content.split(b"\n")
        if _parsed(last) is not None:
            lines.append(last)
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                unit = _unit(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                said = f"{type(error).__name__}: {first_line(error)}"
                raise UserError(
                    f"{path}:{number} is no line of results ({said}): remove it, and evaluate again"
                ) from error
            if unit.unit not in units or units[unit.unit].finished <= unit.finished:
                units[unit.unit] = unit
    if not units:
        raise UserError(f"{folder} has no results ({FILES}) yet: run the job evaluate with it as --workdir")
    return list(units.values())


def _parsed(line: bytes) -> Any:
    """What a line says; None if it is not whole."""
    try:
        return json.loads(line)
    except ValueError:
        return None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _unit(record: dict[str, Any]) -> Unit:
    """Fields that this version does not know are left out, and so are figures that have no value."""
    model = record["model"]
    rows = [
        ResultRow(
            dict(row["labels"]),
            {
                name: value
                for name, value in row["values"].items()
                if isinstance(value, int | float) and math.isfinite(value)
            },
        )
        for row in record["rows"]
    ]
    figures = [
        FigureFile(str(figure["file"]), str(figure["kind"]), dict(figure["labels"]), str(figure["caption"]))
        for figure in record.get("figures", ())
    ]
    whole = lambda value: None if value is None else int(value)
    return Unit(
        unit=str(record["unit"]),
        model=MeasuredModel(
            name=str(model["name"]),
            kind=str(model["kind"]),
            step=whole(model.get("step")),
            source=str(model.get("source") or ""),
            parameters=whole(model.get("parameters")),
            digest=str(model.get("digest") or ""),
        ),
        evaluator=str(record["evaluator"]),
        setting=dict(record.get("setting") or {}),
        rows=tuple(rows),
        figures=tuple(figures),
        seconds=float(record.get("seconds") or 0),
        finished=str(record.get("finished") or ""),
        device=str(record.get("device") or ""),
        version=str(record.get("version") or ""),
    )
