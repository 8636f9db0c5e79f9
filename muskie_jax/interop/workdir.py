"""Work directories made of weights: training goes on from them with a fresh optimizer."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from muskie_jax.checkpoint import Checkpointer
from muskie_jax.config import default_config, validate
from muskie_jax.errors import UserError, first_line
from muskie_jax.files import atomic_write
from muskie_jax.interop.load import ORIGIN, network_of_config
from muskie_jax.interop.weights import Weights
from muskie_jax.optim import make_optimizer
from muskie_jax.train_step import TrainState

WORKDIR_ENTRIES = ("checkpoints", ORIGIN)  # of one in which nothing was trained yet


def make_workdir(path: pathlib.Path, weights: Weights, config: ConfigDict | None, force: bool) -> None:
    """Writes a work directory whose one checkpoint, of step 0, holds the weights.

    What they said of themselves is kept in `imported.json`, so that weights trained on from there tell.

    Args:
      path: of the work directory.
      weights: with the reconstruction head, which training needs.
      config: that training will be started with; None is the published recipe. Only its `model` and its
        optimizer matter.
      force: replace a work directory that is there, as long as nothing was trained in it.

    Raises:
      UserError: if the weights cannot be trained, are not the config's, or the folder is taken.
    """
    network = weights.network
    if weights.backbone_only:
        raise UserError("there is no reconstruction head in these weights, and training needs one")
    if network.variant is None:
        raise UserError(
            f"no variant has width {network.width}, {network.depth} blocks and {network.heads} heads: "
            "add one to VARIANTS in muskie_jax/models/muskie.py"
        )
    if config is None:
        config = _config_of(weights)
    else:
        validate(config)
        _check_same_network(config, weights)
    params = jax.tree.map(jnp.asarray, weights.params)
    state = TrainState(jnp.zeros((), jnp.int32), params, make_optimizer(config).init(params))
    with atomic_write(path, force, WORKDIR_ENTRIES) as part:
        part.mkdir()
        described = {name: value for name, value in weights.described().items() if name != "origin"}
        (part / ORIGIN).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        checkpoints = Checkpointer(part, keep=1)
        try:
            checkpoints.save(state, config)
            checkpoints.close()
        except ValueError as error:  # Orbax's, of a full disk
            raise OSError(first_line(error)) from error


def _config_of(weights: Weights) -> ConfigDict:
    config, network = default_config(), weights.network
    config.model.variant = network.variant
    for name in ("patch", "registers", "view_embed", "max_views"):
        config.model[name] = getattr(network, name)
    return config


def _check_same_network(config: ConfigDict, weights: Weights) -> None:
    asked, got = network_of_config(config.model), weights.network
    for name, value in dataclasses.asdict(asked).items():
        found = getattr(got, name)
        if value != found and not (name == "max_views" and got.view_embed == "none"):
            raise UserError(
                f"the weights have {name} {found} and the config's network has {value}: write "
                f"--config.model.variant={got.variant}, or what else differs"
            )
