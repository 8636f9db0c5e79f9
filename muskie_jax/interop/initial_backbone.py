"""The weights that the backbone of a training of the task "reconstruct" starts from."""

import dataclasses
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from muskie_jax.errors import UserError
from muskie_jax.interop.load import network_from_config, open_weights
from muskie_jax.reconstruction.settings import has_geometry, initial_backbone
from muskie_jax.writers import log_main


def read_backbone(config: ConfigDict, shapes: Any) -> dict[str, Any] | None:
    """Reads the weights that `config.reconstruct.backbone` names, onto the devices.

    Args:
      config: the config.
      shapes: shapes and shardings of the network's parameters, see `abstract_state`.

    Returns:
      The backbone's parameters, without its head of masked patches; None if the config names no weights.

    Raises:
      UserError: if they cannot be read, or belong to another network than `config.model`.
    """
    if not has_geometry(config):
        return None
    source = initial_backbone(config.reconstruct, config.seed)
    if not source:
        frozen = ", and keeps them" if config.reconstruct.freeze_backbone else ""
        log_main(
            f"The backbone starts from random weights{frozen}; config.reconstruct.backbone names others"
        )
        return None
    weights = open_weights(source).backbone()
    expected = network_from_config(config.to_dict()["model"])
    for name, value in dataclasses.asdict(expected).items():
        actual = getattr(weights.network, name)
        if actual != value and not (name == "max_views" and expected.view_embed == "none"):
            is_size = name in ("width", "depth", "heads")
            setting, theirs = ("variant", weights.network.variant) if is_size else (name, actual)
            raise UserError(
                f"config.reconstruct.backbone={source!r} has {name} {actual}, config.model has {value}: "
                f"pass --config.model.{setting}={theirs}, or choose other weights"
            )
    log_main(f"The backbone starts from {source}")

    def place(shape: jax.ShapeDtypeStruct, value: np.ndarray) -> jax.Array:
        value = np.asarray(value, shape.dtype)
        return jax.make_array_from_callback(value.shape, shape.sharding, lambda index: value[index])

    return jax.tree.map(place, shapes["backbone"], dict(weights.params))


def start_from(backbone: dict[str, Any] | None, state: Any) -> Any:
    """Returns a new training state whose backbone has the given parameters; None changes nothing.

    The optimizer's state, which is still 0 everywhere, does not depend on them.
    """
    if backbone is None:
        return state
    return state.replace(params=state.params | {"backbone": backbone})
