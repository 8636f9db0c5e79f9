"""Makes work directories from weights, to continue training with a fresh optimizer."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from muskie_jax.checkpoint import Checkpointer
from muskie_jax.checkpoints.newest import FILE as NEWEST
from muskie_jax.config import default_config, validate
from muskie_jax.errors import SaveFailed, UserError, first_line
from muskie_jax.files import atomic_write
from muskie_jax.interop.load import ORIGIN, network_from_config
from muskie_jax.interop.weights import Weights
from muskie_jax.optim import make_optimizer
from muskie_jax.reconstruction.settings import has_geometry
from muskie_jax.storage.address import require_literal
from muskie_jax.train_step import TrainState

WORKDIR_ENTRIES = ("checkpoints", NEWEST, ORIGIN)  # entries before any training


def make_workdir(path: pathlib.Path, weights: Weights, config: ConfigDict | None, force: bool) -> None:
    """Writes a work directory whose only checkpoint, at step 0, contains the weights.

    `imported.json` keeps the metadata of the weights, so that later exports name their origin.

    Args:
      path: path of the work directory.
      weights: weights with the reconstruction head, which training needs.
      config: config of the later training run; None is the published recipe. Only its `model` and its
        optimizer matter here.
      force: replace an existing work directory, unless something was trained in it.

    Raises:
      UserError: if the weights cannot be trained or do not fit the config, or the folder exists.
    """
    require_literal(path)
    network = weights.network
    if weights.backbone_only:
        raise UserError(
            "these weights have no reconstruction head, and pre-training needs one: use complete weights; "
            "to train a decoder on them, pass --config.reconstruct.backbone=<weights>"
        )
    if network.variant is None:
        raise UserError(
            f"no variant has width {network.width}, {network.depth} blocks and {network.heads} heads: "
            "add one to VARIANTS in muskie_jax/models/muskie.py"
        )
    if config is None:
        config = _default_config_for(weights)
    else:
        validate(config)
        if has_geometry(config):
            raise UserError(
                "config.task='reconstruct' reads weights itself: train with "
                "--config.reconstruct.backbone=<weights>, without a work directory made by import"
            )
        _check_same_network(config, weights)
    params = jax.tree.map(jnp.asarray, weights.params)
    state = TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(config).init(params))
    with atomic_write(path, force, WORKDIR_ENTRIES) as part:
        part.mkdir()
        # The origin's own origin is left out, or metadata would grow with every import.
        metadata = {name: value for name, value in weights.metadata().items() if name != "origin"}
        (part / ORIGIN).write_text(json.dumps(metadata, indent=2) + "\n", encoding="utf-8")
        checkpoints = Checkpointer(part, keep=1)
        try:
            checkpoints.save(state, config)
            checkpoints.close()
        except SaveFailed as error:  # `atomic_write` names the work directory, not the temporary one
            raise OSError(first_line(error.__cause__ or error)) from error


def _default_config_for(weights: Weights) -> ConfigDict:
    config, network = default_config(), weights.network
    names = ("variant", "patch", "registers", "view_embed", "max_views", "rope_base")
    config.update({"model": {name: getattr(network, name) for name in names}})
    return config


def _check_same_network(config: ConfigDict, weights: Weights) -> None:
    configured, actual = network_from_config(config.to_dict()["model"]), weights.network
    for name, value in dataclasses.asdict(configured).items():
        weights_value = getattr(actual, name)
        if value != weights_value and not (name == "max_views" and actual.view_embed == "none"):
            raise UserError(
                f"the weights have {name} {weights_value}, but the config's network has {value}: pass "
                f"--config.model.variant={actual.variant}, or change the setting that differs"
            )
