"""The weights that a training of the task "reconstruct" starts from: of the backbone, or of all."""

import dataclasses
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from muskie_jax.errors import UserError
from muskie_jax.interop.load import network_from_config, open_weights
from muskie_jax.interop.weights import Network
from muskie_jax.reconstruction.settings import has_geometry, initial_backbone
from muskie_jax.writers import log_main


def read_backbone(config: ConfigDict, shapes: Any) -> dict[str, Any]:
    """Reads the weights that `config.reconstruct.backbone` names, onto the devices.

    Args:
      config: the config.
      shapes: shapes and shardings of the network's parameters, see `abstract_state`.

    Returns:
      Parameters of the network: those of the `backbone`, without its head of masked patches; all of them
      with `config.reconstruct.reuse_decoder`; none if the config names no weights.

    Raises:
      UserError: if they cannot be read, or belong to another network than the config's.
    """
    if not has_geometry(config):
        return {}
    settings = config.reconstruct
    source = initial_backbone(settings, config.seed)
    if not source:
        frozen = ", and keeps them" if settings.freeze_backbone else ""
        log_main(
            f"The backbone starts from random weights{frozen}; config.reconstruct.backbone names others"
        )
        return {}
    try:
        weights = open_weights(source, with_decoder=True)
    except UserError as error:
        raise UserError(f"config.reconstruct.backbone: {error}") from error
    depth = getattr(weights.network, "decoder_depth", None)
    backbone = weights.backbone()
    _require_same_backbone(config, source, backbone.network)
    if not settings.reuse_decoder:
        other = (
            "; its decoder is not used, see config.reconstruct.reuse_decoder" if depth is not None else ""
        )
        log_main(f"The backbone starts from {source}{other}")
        return _place({"backbone": shapes["backbone"]}, {"backbone": dict(backbone.params)})
    if depth != settings.decoder_depth:
        found = "no decoder" if depth is None else f"a decoder of {depth} blocks"
        other = "reuse_decoder=False" if depth is None else f"decoder_depth={depth}"
        raise UserError(
            f"config.reconstruct.backbone={source!r} has {found}, but config.reconstruct.reuse_decoder "
            f"needs one of {settings.decoder_depth}: pass --config.reconstruct.{other}, or choose others"
        )
    log_main(f"Backbone and decoder start from {source}")
    return _place(shapes, weights.params)


def _require_same_backbone(config: ConfigDict, source: str, network: Network) -> None:
    """Raises UserError if weights are not those of the network `config.model`."""
    expected = network_from_config(config.to_dict()["model"])
    for name, value in dataclasses.asdict(expected).items():
        actual = getattr(network, name)
        if actual != value and not (name == "max_views" and expected.view_embed == "none"):
            is_size = name in ("width", "depth", "heads")
            setting, theirs = ("variant", network.variant) if is_size else (name, actual)
            raise UserError(
                f"config.reconstruct.backbone={source!r} has {name} {actual}, config.model has {value}: "
                f"pass --config.model.{setting}={theirs}, or choose other weights"
            )


def _place(shapes: Any, params: Any) -> Any:
    """Returns parameters as arrays with the given shapes, dtypes and shardings."""

    def place(shape: jax.ShapeDtypeStruct, value: np.ndarray) -> jax.Array:
        value = np.asarray(value, shape.dtype)
        return jax.make_array_from_callback(value.shape, shape.sharding, lambda index: value[index])

    return jax.tree.map(place, shapes, params)


def start_from(params: dict[str, Any], state: Any) -> Any:
    """Returns a new training state with the given parameters in the place of its own.

    The optimizer's state, which is still 0 everywhere, does not depend on them.
    """
    return state.replace(params=state.params | params)
