"""Writes folders of weights for the Hugging Face hub: the tensors, their metadata and a model card."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from muskie_jax.checks import require
from muskie_jax.errors import UserError
from muskie_jax.files import user_path
from muskie_jax.interop.hub import WEIGHTS, upload
from muskie_jax.interop.metadata import finite_numbers, shareable_config
from muskie_jax.interop.model_card import model_card
from muskie_jax.interop.names import Network
from muskie_jax.interop.reconstruction_names import ReconstructionNetwork
from muskie_jax.interop.weights import Weights, write_weights
from muskie_jax.models.muskie import Muskie
from muskie_jax.models.reconstruction import Reconstruction
from muskie_jax.storage.address import storage_path
from muskie_jax.storage.outputs import write_output

METADATA_FILE = "config.json"
CARD = "README.md"
ENTRIES = (WEIGHTS, METADATA_FILE, CARD)


def save_pretrained(
    folder: str | os.PathLike,
    model: Muskie | Reconstruction,
    params: Mapping[str, Any],
    *,
    training: Any = None,
    metrics: Mapping[str, float] | None = None,
    licence: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Writes a folder with `model.safetensors`, `config.json` and a model card, `README.md`.

    The folder appears once it is complete; a failed write leaves nothing behind.

    Args:
      folder: folder to create. If it exists and is not empty, it is replaced only with `force`.
      model, params: the network, as `load_pretrained` returns it.
      training: the training config, a ConfigDict or a mapping. Paths are cut to their last component.
      metrics: metrics such as {"mse": 0.09, "baseline_mse": 0.15}; only finite numbers are kept.
      licence: licence of the weights, as the hub names it, such as "cc-by-nc-4.0".
      force: replace an existing folder, unless it contains other files.

    Returns:
      The metadata in `config.json`.

    Raises:
      UserError: if the parameters do not fit the model, or the folder exists.
    """
    provenance: dict[str, Any] = {}
    if training is not None:
        config = training.to_dict() if hasattr(training, "to_dict") else training
        require(isinstance(config, Mapping), f"training is a {type(config).__name__}, not a config")
        provenance["training"] = shareable_config(config)
    if metrics is not None:
        provenance["metrics"] = finite_numbers(metrics)
    network = ReconstructionNetwork.of(model) if isinstance(model, Reconstruction) else Network.of(model)
    weights = Weights(network, jax.tree.map(np.asarray, dict(params)), provenance)
    return write_folder(storage_path(folder), weights, licence, force)


def write_folder(
    folder: pathlib.Path, weights: Weights, licence: str | None, force: bool, dtype: str = "float32"
) -> dict[str, Any]:
    """Writes the folder of `save_pretrained` for weights with their provenance; see `write_weights`."""
    with write_output(folder, force, ENTRIES) as part:
        part.mkdir()
        metadata = write_weights(part / WEIGHTS, weights, dtype=dtype)
        text = json.dumps({"model_type": "muskie"} | metadata, indent=2)
        (part / METADATA_FILE).write_text(text + "\n", encoding="utf-8")
        (part / CARD).write_text(model_card(metadata, licence), encoding="utf-8")
    return metadata


def push_to_hub(folder: str | os.PathLike, repo: str, *, private: bool = False) -> str:
    """Uploads a folder made by `save_pretrained` to the Hugging Face hub, with the user's access token.

    Args:
      folder: folder, as `save_pretrained` or `export` wrote it.
      repo: repository `user/name`; created if it does not exist.
      private: if the repository does not exist yet, create it as private.

    Returns:
      The URL of the commit.

    Raises:
      UserError: if the folder lacks a file, or the hub refuses.
    """
    folder = user_path(folder)
    missing = [name for name in ENTRIES if not (folder / name).is_file()]
    if missing:
        raise UserError(
            f"{folder} has no {missing[0]}: make the folder with export --out {folder} or save_pretrained"
        )
    return upload(folder, repo, private)
