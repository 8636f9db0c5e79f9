"""Model metadata: what a weights file records about its network and its training.

In addition to the network's sizes, metadata may contain `step`, the number of updates; `training`, the
config (see `shareable_config`); `metrics`, the evaluation; and `origin`, the metadata of the weights that
training started from. Files are untrusted, so everything read from a file is checked.
"""

import hashlib
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from muskie_jax.checkpoints.saved_steps import evaluations
from muskie_jax.errors import UserError

FORMAT = 1  # metadata version; increase it when older code can no longer read a file
MAX_CHARACTERS = 100_000  # size limit of the provenance as JSON
MAX_DEPTH = 8  # nesting limit of dictionaries and lists
METADATA_KEY = "muskie"  # a file's entry for its metadata
DIGEST_KEY = "muskie_digest"  # entry of a safetensors header for the digest of its other entries

# Config sections that decide what is learned. Other sections say how and where training ran.
SHARED_SECTIONS = (
    "task",
    "model",
    "reconstruct",
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
# Settings of a source, and of `config.reconstruct`, that are paths on the training machine.
PATH_SETTINGS = ("root", "photos", "groups", "backbone")


class FileMetadata(NamedTuple):
    """Checked metadata of a weights file; None where the file does not say."""

    heads: int | None
    rope_base: float | None
    digest: str | None
    provenance: dict[str, Any]


def to_header(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Returns the entries of a safetensors header that contain metadata, and their digest."""
    entries = {"format": "pt", METADATA_KEY: json.dumps(metadata)}
    return entries | {DIGEST_KEY: _digest(entries)}


def from_header(header: Mapping[str, str]) -> Any:
    """Returns the metadata in a safetensors header, unchecked except for its digest.

    Files of other programs, and of earlier versions, have no digest.

    Raises:
      UserError: if the header does not match its digest.
      ValueError: if the metadata is not JSON.
    """
    entries = dict(header)
    digest = entries.pop(DIGEST_KEY, None)
    if digest not in (None, _digest(entries)):
        raise UserError("it is damaged: its metadata does not match its digest; download it again")
    return json.loads(entries.get(METADATA_KEY, "{}"))


def _digest(entries: Mapping[str, str]) -> str:
    """Returns the digest of a header's entries in any order; `torch_model.header_digest` is a copy."""
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()[:16]


def parse_metadata(metadata: Any) -> FileMetadata:
    """Returns what untrusted metadata says about a network and its training.

    Raises:
      UserError: if an entry has the wrong type.
    """
    if not isinstance(metadata, Mapping):
        raise UserError(f"its metadata is a {type(metadata).__name__}, not a dictionary")
    version = metadata.get("format", FORMAT)
    if type(version) is not int or version != FORMAT:
        raise UserError(f"its metadata has format {str(version)[:20]}; this code reads format {FORMAT}")
    heads, digest = metadata.get("num_heads"), metadata.get("params_digest")
    if heads is not None and type(heads) is not int:
        raise UserError(f"its metadata has num_heads={str(heads)[:20]!r}, which is not an integer")
    if digest is not None and type(digest) is not str:
        raise UserError("its metadata has a params_digest that is not a string")
    base = metadata.get("rope_base")
    if base is not None and not (type(base) in (int, float) and math.isfinite(base) and base > 0):
        raise UserError(f"its metadata has rope_base={str(base)[:20]!r}, which is not a positive number")
    return FileMetadata(heads, base, digest, _provenance(metadata))


def _provenance(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what metadata records about the training, as JSON values; ignores malformed entries."""
    provenance: dict[str, Any] = {}
    step, metrics = metadata.get("step"), metadata.get("metrics")
    if type(step) is int and step >= 0:
        provenance["step"] = step
    if isinstance(metrics, Mapping) and (numbers := finite_numbers(metrics)):
        provenance["metrics"] = numbers
    for name in ("training", "origin"):
        if isinstance(metadata.get(name), Mapping):
            provenance[name] = to_json(metadata[name])
    if len(json.dumps(provenance)) > MAX_CHARACTERS:
        raise UserError(f"its metadata has over {MAX_CHARACTERS:,} characters")
    return provenance


def finite_numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Returns the finite numbers among metrics as Python numbers; JAX and numpy scalars count."""
    numbers = {}
    for name, value in metrics.items():
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            continue
        if math.isfinite(number) and not isinstance(value, str):
            numbers[str(name)] = int(number) if type(value) is int else number
    return numbers


def to_json(value: Any, depth: int = 0) -> Any:
    """Returns a copy that contains only JSON values; tuples become lists.

    Raises:
      UserError: if JSON cannot represent a value, or nesting is deeper than MAX_DEPTH.
    """
    if depth > MAX_DEPTH:
        raise UserError("its metadata is nested too deeply")
    if isinstance(value, Mapping):
        return {str(name): to_json(item, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item, depth + 1) for item in value]
    if value is None or isinstance(value, (str, bool)) or (isinstance(value, int) and abs(value) < 2**63):
        return value
    if isinstance(value, float) and math.isfinite(value):
        return value
    raise UserError(f"its metadata contains a {type(value).__name__}, which JSON cannot represent")


def shareable_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings that decide the weights, with paths cut to their last component.

    Full paths would disclose the folders of the training machine.
    """
    shared = to_json({name: config[name] for name in SHARED_SECTIONS if name in config})
    sources = shared.get("sources", {})
    if isinstance(sources, dict):
        shared["sources"] = {name: _without_folders(source) for name, source in sources.items()}
    if "reconstruct" in shared:
        shared["reconstruct"] = _without_folders(shared["reconstruct"])
    return shared


def _without_folders(source: Any) -> Any:
    if not isinstance(source, dict):
        return source
    last_component = lambda value: pathlib.PurePath(value).name if isinstance(value, str) else value
    return {
        name: last_component(value) if name in PATH_SETTINGS else value for name, value in source.items()
    }


def latest_evaluation(workdir: pathlib.Path, step: int) -> dict[str, float]:
    """Returns the newest evaluation in `metrics.jsonl` at or before a step; empty if there is none."""
    by_step = {at: values for at, values in evaluations(workdir).items() if at <= step}
    if not by_step:
        return {}
    newest = max(by_step)
    return finite_numbers({"step": newest} | by_step[newest])
