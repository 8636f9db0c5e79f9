"""What weights say of themselves: written with them, and believed only as far as it is checked.

Besides the network's sizes, a description may tell `step`, the updates done; `training`, the config, see
`shareable`; `metrics`, what was measured; and `origin`, the description of weights that were trained on.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from muskie_jax.errors import UserError

FORMAT = 1  # of a description; raised whenever older code could not use a file
MAX_CHARACTERS = 100_000  # of what is known of a training, as JSON
MAX_DEPTH = 8  # of dictionaries and lists in one another

# Sections of a config that decide what is learned; the others say how it ran, and where.
TOLD = (
    "model",
    "sources",
    "mask",
    "loss",
    "batch",
    "buckets",
    "duration",
    "epoch_groups",
    "optim",
    "evaluation",
    "seed",
)
PLACES = ("root", "photos", "groups")  # settings of sources that are paths of the training's computer


def checked_description(described: Any) -> tuple[int | None, str | None, dict[str, Any]]:
    """The number of heads, the digest of the numbers, and what else is known, from an untrusted file.

    Raises:
      UserError: if a part that is there is not of its kind.
    """
    if not isinstance(described, Mapping):
        raise UserError(f"its description is a {type(described).__name__}, where a dictionary should be")
    found = described.get("format", FORMAT)
    if type(found) is not int or found != FORMAT:
        raise UserError(f"its description has format {str(found)[:20]}, and this code reads {FORMAT}")
    heads, digest = described.get("num_heads"), described.get("params_digest")
    if heads is not None and type(heads) is not int:
        raise UserError(f"its description says num_heads={str(heads)[:20]!r}, which is no number")
    if digest is not None and type(digest) is not str:
        raise UserError("its description has a params_digest that is no text")
    return heads, digest, _known(described)


def _known(described: Mapping[str, Any]) -> dict[str, Any]:
    """What a description knows of the training, in plain values."""
    about: dict[str, Any] = {}
    step, metrics = described.get("step"), described.get("metrics")
    if type(step) is int and step >= 0:
        about["step"] = step
    if isinstance(metrics, Mapping) and (numbers := finite(metrics)):
        about["metrics"] = numbers
    for name in ("training", "origin"):
        if isinstance(described.get(name), Mapping):
            about[name] = plain(described[name])
    if len(json.dumps(about)) > MAX_CHARACTERS:
        raise UserError(f"its description has over {MAX_CHARACTERS:,} characters")
    return about


def finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The numbers among metrics, JAX's and numpy's too, that are finite."""
    numbers = {}
    for name, value in metrics.items():
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(number) and not isinstance(value, str):
            numbers[str(name)] = int(number) if type(value) is int else number
    return numbers


def plain(value: Any, depth: int = 0) -> Any:
    """A copy in the values that JSON has; tuples become lists.

    Raises:
      UserError: for a value that JSON does not have, or too many in one another.
    """
    if depth > MAX_DEPTH:
        raise UserError("its description is nested too deeply")
    if isinstance(value, Mapping):
        return {str(name): plain(part, depth + 1) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part, depth + 1) for part in value]
    if value is None or isinstance(value, (str, bool)) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise UserError(f"its description holds a {type(value).__name__}, which is no plain value")


def shareable(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a training's config, what decides the weights, without paths of the computer it ran on."""
    told = plain({name: config[name] for name in TOLD if name in config})
    sources = told.get("sources", {})
    if isinstance(sources, dict):
        told["sources"] = {name: _source(source) for name, source in sources.items()}
    return told


def _source(source: Any) -> Any:
    if not isinstance(source, dict):
        return source
    last = lambda value: pathlib.PurePath(value).name if isinstance(value, str) else value
    return {name: last(value) if name in PLACES else value for name, value in source.items()}


def metrics_of(workdir: pathlib.Path, step: int) -> dict[str, float]:
    """The newest evaluation at or before a step, by `metrics.jsonl`; empty if there is none."""
    found: dict[str, float] = {}
    path = workdir / "metrics.jsonl"
    if path.is_file():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                values = json.loads(line)
                measured = {k.split("/", 1)[1]: v for k, v in values.items() if k.startswith("evaluation/")}
                if measured and values["step"] <= step:
                    found = finite({"step": values["step"]} | measured)
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # a line that a killed run did not finish
    return found
