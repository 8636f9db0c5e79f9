"""Folders of weights as the Hugging Face hub likes them: numbers, description and a card."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from muskie_jax.checks import require
from muskie_jax.errors import UserError
from muskie_jax.files import atomic_write, user_path
from muskie_jax.interop.description import finite, shareable
from muskie_jax.interop.hub import WEIGHTS, upload
from muskie_jax.interop.model_card import model_card
from muskie_jax.interop.names import Network
from muskie_jax.interop.weights import Weights, write_weights
from muskie_jax.models.muskie import Muskie

DESCRIPTION = "config.json"
CARD = "README.md"
ENTRIES = (WEIGHTS, DESCRIPTION, CARD)


def save_pretrained(
    folder: str | os.PathLike,
    model: Muskie,
    params: Mapping[str, Any],
    *,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, float] | None = None,
    licence: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Writes `model.safetensors`, `config.json` and a model card, `README.md`; all or nothing.

    Args:
      folder: to be made; one that is there, and not empty, is replaced with `force` alone.
      model, params: as `load_pretrained` returns them.
      training: the config that they were trained with (a ConfigDict, say); of paths the last part is kept.
      metrics: what was measured, such as {"mse": 0.09, "baseline_mse": 0.15}; finite numbers are kept.
      licence: of the weights, as the hub names it, such as "cc-by-nc-4.0".

    Returns:
      What is in `config.json`.

    Raises:
      UserError: if the parameters are not those of the model, or the folder is taken.
    """
    about: dict[str, Any] = {}
    if training is not None:
        training = getattr(training, "to_dict", lambda: training)()
        require(isinstance(training, Mapping), f"training is a {type(training).__name__}, and no config")
        about["training"] = shareable(training)
    if metrics is not None:
        about["metrics"] = finite(metrics)
    weights = Weights(Network.of(model), jax.tree.map(np.asarray, dict(params)), about)
    return write_folder(user_path(folder), weights, licence, force)


def write_folder(
    folder: pathlib.Path, weights: Weights, licence: str | None, force: bool
) -> dict[str, Any]:
    """`save_pretrained` of weights that bring along what is known of them."""
    with atomic_write(folder, force, ENTRIES) as part:
        part.mkdir()
        described = write_weights(part / WEIGHTS, weights)
        text = json.dumps({"model_type": "muskie"} | described, indent=2)
        (part / DESCRIPTION).write_text(text + "\n", encoding="utf-8")
        (part / CARD).write_text(model_card(described, licence), encoding="utf-8")
    return described


def push_to_hub(folder: str | os.PathLike, repo: str, *, private: bool = False) -> str:
    """Uploads a folder made by `save_pretrained` to the Hugging Face hub, as its token allows.

    Args:
      repo: `user/name`, made if it is not there.
      private: if it is made, for its owner's eyes only.

    Returns:
      The address of the commit.

    Raises:
      UserError: if the folder is of something else, or the hub refuses.
    """
    folder = user_path(folder)
    missing = [name for name in ENTRIES if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} has no {missing[0]}: make it with export --out {folder}, or save_pretrained"
        )
    return upload(folder, repo, private)
