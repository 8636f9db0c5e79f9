"""Reads and writes `results.jsonl`, which has one line per finished unit of work of an evaluation.

Several hosts may share a folder. Each host writes its own file: results.jsonl, results.1.jsonl and so on.
"""

import json
import math
import os
import pathlib
from typing import Any, NamedTuple

from muskie_jax.errors import UserError, first_line
from muskie_jax.evaluators.eval_models import ModelInfo
from muskie_jax.evaluators.results import ResultRow

FILES = "results*.jsonl"
TRAINING_GROUPS = (
    "training_groups"  # key of settings: number of groups that show the model's training scenes
)
BY_GROUP_DIGITS = 6  # significant digits of the metrics of single groups, of which a file has many
# Earlier versions called a distractor a "stranger", in the label `context` and in a key of settings.
RENAMED_CONTEXTS = {"stranger": "distractor"}
RENAMED_SETTINGS = {"strangers": "distractors"}


class FigureFile(NamedTuple):
    """A figure on disk; see `muskie_jax.evaluators.results.Figure`.

    `file` is the picture's path in the folder, `page` that of its page, or "".
    """

    file: str
    kind: str
    labels: dict[str, Any]
    caption: str
    page: str = ""


class ResultUnit(NamedTuple):
    """A finished unit of work: one evaluator under one setting, applied to one model.

    Attributes:
      identity: digest of the work; equal for equal work. The file calls it "unit".
      model: the evaluated model.
      evaluator: name of the evaluator.
      setting: setting of the evaluator, with the protocol's digest ("question") and the dataset's reader.
      rows, figures: the results.
      seconds: wall time.
      finished: time of completion, ISO 8601, UTC.
      device: number and kind of devices.
      version: version of muskie_jax.
    """

    identity: str
    model: ModelInfo
    evaluator: str
    setting: dict[str, Any]
    rows: tuple[ResultRow, ...] = ()
    figures: tuple[FigureFile, ...] = ()
    seconds: float = 0.0
    finished: str = ""
    device: str = ""
    version: str = ""


def append(path: pathlib.Path, unit: ResultUnit) -> None:
    """Appends a unit to a file that no other process writes, and flushes it to disk.

    Removes an incomplete last line, which a killed process leaves behind. Values that are not finite
    become null.
    """
    fields = unit._asdict()
    record = (
        {"unit": fields.pop("identity")}
        | fields
        | {
            "model": unit.model._asdict(),
            "rows": [_row_record(row) for row in unit.rows],
            "figures": [figure._asdict() for figure in unit.figures],
        }
    )
    line = json.dumps(record, allow_nan=False).encode() + b"\n"
    with open(path, "a+b") as file:
        file.seek(0)
        complete, newline, last = file.read().rpartition(b"\n")
        if last:
            if _is_json(last):  # an editor removed the final newline
                line = b"\n" + line
            else:
                file.truncate(len(complete) + len(newline))
        file.write(line)
        file.flush()
        os.fsync(file.fileno())


def _row_record(row: ResultRow) -> dict[str, Any]:
    record = {"labels": row.labels, "values": {key: _finite(value) for key, value in row.values.items()}}
    by_group = {name: [*map(_rounded, numbers)] for name, numbers in row.by_group.items()}
    return record | ({"by_group": by_group} if by_group else {})


def read(folder: pathlib.Path) -> list[ResultUnit]:
    """Returns all finished units; of duplicates, the unit that finished last.

    Skips an incomplete last line of a file, whose process was killed.

    Raises:
      UserError: if there are no results, or a line cannot be read; the message names file and line.
    """
    units: dict[str, ResultUnit] = {}
    try:
        files = {path: path.read_bytes() for path in sorted(folder.glob(FILES))}
    except OSError as error:
        raise UserError(f"{folder} cannot be read: {error.strerror or error}") from error
    for path, content in files.items():
        *lines, last = content.split(b"\n")
        if _is_json(last):
            lines.append(last)
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                unit = _parse(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                reason = f"{type(error).__name__}: {first_line(error)}"
                raise UserError(
                    f"{path}:{number} is not a line of results ({reason}): remove it and evaluate again"
                ) from error
            if unit.identity not in units or units[unit.identity].finished <= unit.finished:
                units[unit.identity] = unit
    if not units:
        raise UserError(
            f"{folder} has no results ({FILES}) yet: run the job evaluate with this folder as --workdir"
        )
    return list(units.values())


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _rounded(value: float | None) -> float | None:
    if value is None or isinstance(value, int):
        return value
    return _finite(float(f"{value:.{BY_GROUP_DIGITS}g}"))


def _parse(record: dict[str, Any]) -> ResultUnit:
    """Parses one line. Drops unknown fields and missing values; translates names of earlier versions."""
    model = record["model"]
    setting: dict[str, Any] = record.get("setting") or {}
    figures = [
        FigureFile(
            str(figure["file"]),
            str(figure["kind"]),
            dict(figure["labels"]),
            str(figure["caption"]),
            str(figure.get("page") or ""),
        )
        for figure in record.get("figures", ())
    ]
    return ResultUnit(
        identity=str(record["unit"]),
        model=ModelInfo(
            name=str(model["name"]),
            kind=str(model["kind"]),
            step=_int_or_none(model.get("step")),
            source=str(model.get("source") or ""),
            parameters=_int_or_none(model.get("parameters")),
            digest=str(model.get("digest") or ""),
            layers=_int_or_none(model.get("layers")),
        ),
        evaluator=str(record["evaluator"]),
        setting={RENAMED_SETTINGS.get(key, key): value for key, value in setting.items()},
        rows=tuple(_parse_row(row) for row in record["rows"]),
        figures=tuple(figures),
        seconds=float(record.get("seconds") or 0),
        finished=str(record.get("finished") or ""),
        device=str(record.get("device") or ""),
        version=str(record.get("version") or ""),
    )


def _parse_row(row: dict[str, Any]) -> ResultRow:
    labels = dict(row["labels"])
    if "context" in labels:
        labels["context"] = RENAMED_CONTEXTS.get(labels["context"], labels["context"])
    values: dict[str, float] = {
        name: value
        for name, value in row["values"].items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
    by_group = {name: list(numbers) for name, numbers in row.get("by_group", {}).items()}
    return ResultRow(labels, values, by_group)


def _int_or_none(value: Any) -> int | None:
    return None if value is None else int(value)
