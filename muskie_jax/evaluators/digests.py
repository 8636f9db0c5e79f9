"""Identifies what an evaluation measured, so that finished units are recognised and results comparable.

Digests outlive versions of this package: what changes no result must not change them.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ml_collections import ConfigDict

from muskie_jax.data.synthetic.scenes import LIMITS, WorldConfig
from muskie_jax.evaluators.model_specs import ModelSpec
from muskie_jax.evaluators.reconstruction_curves import ReconstructionCurves
from muskie_jax.evaluators.results import Setting, SweepEvaluator

# Version of the evaluation. Raise it when results of evaluators change; finished units are then repeated.
# Version 2: points of row or column 0 count in the first view, draws do not depend on names of folders, and
# the other masks are drawn as published.
# Version 3: refined correspondences use wider neighbourhoods on grids of more than 8 patches.
# Version 4: the softmax over cosine similarities of features has half the temperature.
# Version 5: refined features match in both directions, and scores are averaged over angles.
VERSION = 5
UNCHANGED_MASKS = ("random", "rectangle")
# Renamed settings keep their original name in digests, so that finished units are not repeated.
DIGEST_NAMES = {
    "distractors": "strangers",
    "photo_texture_fraction": "photo_texture_share",
    "floating_fraction": "floating_share",
}
NOT_IN_DIGESTS = ("check",)  # settings of datasets that do not change results
# Settings that a reader did not have at first. At their default they are left out of digests.
ADDED_SETTINGS = {
    "cameras": {"depth_unit": 0.0},
    "scannet": {"pairs": ""},
    "navi": {"collections": "multiview"},
}
ADDED_TO_WORLD = {name: getattr(WorldConfig(), name) for name in (*LIMITS, "orbit")}


def protocol_digest(evaluator: SweepEvaluator, setting: Setting, config: ConfigDict) -> str:
    """Returns a digest of everything except the model that affects results.

    Results with equal digests are comparable.
    """
    datasets = {setting["dataset"], *(text.rpartition(" ")[0] for text in setting.get("distractors", ()))}
    data = {name: config.posed.get(name) or config.sources.get(name) for name in datasets}
    protocol = {name: value for name, value in setting.items() if name not in evaluator.reporting_keys}
    return _digest(
        {
            "version": _version(evaluator.name, setting, data.values()),
            "evaluator": evaluator.name,
            "setting": protocol,
            "data": {name: _data_settings(each) for name, each in data.items()} | {"": config.data.root},
        }
    )


def _data_settings(settings: ConfigDict | None) -> dict[str, Any] | None:
    if settings is None:
        return None
    values = _without(settings.to_dict(), ADDED_SETTINGS.get(settings.get("reader", ""), {}))
    if "world" in values:
        values["world"] = _without(values["world"], ADDED_TO_WORLD)
    return {name: value for name, value in values.items() if name not in NOT_IN_DIGESTS}


def _without(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values that are not at their defaults; those without one are kept."""
    return {
        name: value for name, value in values.items() if name not in defaults or value != defaults[name]
    }


def _version(evaluator: str, setting: Setting, data: Iterable[ConfigDict | None]) -> int:
    """Returns the version in which results last changed."""
    if evaluator != ReconstructionCurves.name:
        return VERSION
    is_synthetic = lambda each: each is not None and "synthetic" in (each.get("reader"), each.get("kind"))
    unchanged = setting.get("mask") in UNCHANGED_MASKS and all(map(is_synthetic, data))
    return 1 if unchanged else 2


def unit_identity(protocol: str, setting: Setting, model: ModelSpec, dtype: str) -> str:
    """Returns a digest of a unit of work, given the digest of its protocol."""
    # Earlier versions also rounded the residual stream to bfloat16.
    dtype = dtype if dtype == "float32" else f"{dtype}, float32 stream"
    weights = [model.name, model.kind, model.step, model.source, model.version, dtype]
    return _digest([protocol, setting, weights])


def _digest(value: Any) -> str:
    text = json.dumps(_with_digest_names(value), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _with_digest_names(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {DIGEST_NAMES.get(name, name): _with_digest_names(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_with_digest_names(each) for each in value]
    return value
