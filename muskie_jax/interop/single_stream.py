"""Starts a Muskie from a vision transformer that encodes single images, such as DINOv2 or MAE.

Layer 2i becomes the frame half of block i, layer 2i + 1 its global half, and the final norm that of the
reconstruction head, as in the published helper. Normalisation of images and layer scales are multiplied
into the weights, so that both networks compute the same layers. What a Muskie has in addition is drawn
anew, and what it lacks is left out; `Conversion` names both.
"""

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np

from muskie_jax.checks import one_of
from muskie_jax.errors import UserError
from muskie_jax.interop.framewise import open_framewise
from muskie_jax.interop.names import Network, check_params
from muskie_jax.interop.weights import Weights
from muskie_jax.models.framewise import FAMILIES, MEAN, STD, Settings
from muskie_jax.models.initial_params import init_params
from muskie_jax.models.layers import MLP
from muskie_jax.models.muskie import REGISTERS, VARIANTS, build_model

PREFIX = "muskie_"  # of targets


class Conversion(NamedTuple):
    """A Muskie made from a single-stream network.

    Attributes:
      weights: its weights, with the reconstruction head.
      fresh: parts with new values.
      left_out: parts of the other network that a Muskie does not have.
    """

    weights: Weights
    fresh: tuple[str, ...]
    left_out: tuple[str, ...]

    @property
    def note(self) -> str:
        """One line about what is new and what is missing."""
        left_out = f"; left out: {', '.join(self.left_out)}" if self.left_out else ""
        return f"new values: {', '.join(self.fresh)}{left_out}"


def split_source(source: str) -> tuple[str, str] | None:
    """Returns family and weights of a source such as "dinov2:weights.pth"; None for other sources."""
    family, colon, weights = source.partition(":")
    return (family, weights) if colon and family in FAMILIES else None


def parse_target(text: str) -> str:
    """Returns the variant of a target such as "muskie_base".

    Raises:
      UserError: if there is no such variant.
    """
    one_of(text, [f"{PREFIX}{variant}" for variant in VARIANTS], "--as")
    return text.removeprefix(PREFIX)


def convert_single_stream(
    family: str, source: str | os.PathLike, variant: str, num_heads: int | None = None, seed: int = 0
) -> Conversion:
    """Reads a single-stream network, and makes a Muskie from it.

    The patch size is that of the network read.

    Args:
      family: a name from `muskie_jax.models.framewise.FAMILIES`.
      source, num_heads: see `load_framewise`.
      variant: the size of the Muskie.
      seed: seed of new values.

    Raises:
      UserError: if the weights cannot be read, or do not have the sizes of the variant; one line.
    """
    settings, params = open_framewise(family, source, num_heads)
    check_sizes(settings, variant)
    return muskie_from_single_stream(settings, params, variant, seed)


def _expected_sizes(variant: str) -> dict[str, int]:
    """Returns the sizes that a single-stream network must have."""
    target = VARIANTS[variant]
    return {
        "width": target.width,
        "depth": 2 * target.depth,
        "heads": target.heads,
        "hidden": MLP.ratio * target.width,
    }


def check_sizes(settings: Settings, variant: str) -> None:
    """Raises UserError unless a network has the layers of a variant; the message names what differs."""
    title, expected = FAMILIES[settings.kind].title, _expected_sizes(variant)
    actual = {name: getattr(settings, name) for name in expected}
    if actual != expected:
        differing = [name for name in expected if actual[name] != expected[name]]
        text = lambda sizes: ", ".join(f"{name} {sizes[name]}" for name in differing)
        fitting = [name for name in VARIANTS if _expected_sizes(name) == actual]
        advice = f"use --as {PREFIX}{fitting[0]}" if fitting else "use other weights"
        raise UserError(
            f"{PREFIX}{variant} needs a vision transformer of {text(expected)}, but this {title} has "
            f"{text(actual)}: {advice}"
        )
    if settings.gated:
        raise UserError(f"this {title} has gated MLPs, which a Muskie does not have: use other weights")


def muskie_from_single_stream(
    settings: Settings, params: dict[str, Any], variant: str, seed: int = 0, registers: int = REGISTERS
) -> Conversion:
    """Makes a Muskie from the parameters of a single-stream network whose sizes fit.

    Args:
      settings, params: what `open_framewise` returns.
      variant: the size of the Muskie.
      seed: seed of new values.
      registers: number of registers of the Muskie.
    """
    model = build_model(variant, patch=settings.patch, registers=registers)
    result = {name: _as_numpy(value) for name, value in init_params(model, seed).items()}
    fresh, left_out = ["head", "mask_token"], []
    if settings.registers == model.registers and settings.registers:
        result["register_tokens"] = params["registers"]
    else:
        fresh.insert(0, "register_tokens")
        left_out += [f"{settings.registers} registers"] if settings.registers else []
    left_out += ["class token"] if "class_token" in params else []
    left_out += ["table of positions"] if "positions" in params else []
    left_out += ["its rotary frequencies"] if settings.family.positions == "centers" else []
    result["patch_embed"] = _for_our_images(params["patch_embed"], settings.patch)
    result["norm"] = params["norm"]
    for i in range(model.depth):
        frame, across = (_without_scales(params[f"block_{2 * i + half}"]) for half in (0, 1))
        result[f"block_{i}"] = {"frame": frame, "global": across}
    network = Network.of(model)
    check_params(result, network)
    provenance = {"single_stream": {"kind": settings.kind, "fresh": fresh, "left_out": left_out}}
    return Conversion(Weights(network, result, provenance), tuple(fresh), tuple(left_out))


def _as_numpy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _as_numpy(value) for name, value in tree.items()}
    return np.asarray(tree)


def _for_our_images(linear: dict[str, np.ndarray], patch: int) -> dict[str, np.ndarray]:
    """Returns a patch embedding of images in [-1, 1] instead of normalised ones.

    A pixel x becomes (x / 2 + 1 / 2 - MEAN) / STD in the networks read.
    """
    # Within a patch the order is channel, row, column, see `patchify`.
    scale, shift = (np.repeat(x, patch**2) for x in (0.5 / STD, (0.5 - MEAN) / STD))
    kernel = linear["kernel"].astype(np.float64)
    bias = linear["bias"] + shift @ kernel
    return {
        "kernel": (scale[:, None] * kernel).astype(np.float32),
        "bias": bias.astype(np.float32),
    }


def _without_scales(layer: dict[str, Any]) -> dict[str, Any]:
    """Multiplies layer scales, if any, into the last linear layers of both branches."""
    layer = {name: dict(value) if isinstance(value, dict) else value for name, value in layer.items()}
    for name, branch, last in (("scale1", "attention", "proj"), ("scale2", "mlp", "fc2")):
        scale = layer.pop(name, None)
        if scale is not None:
            linear = layer[branch][last]
            layer[branch][last] = {leaf: linear[leaf] * scale for leaf in ("kernel", "bias")}
    return layer


def settings_of_network(network: Network) -> str:
    """Returns the flags that give a variant's config the other sizes of a network; often none."""
    if network.variant is None:
        return ""
    default = Network.of(build_model(network.variant))
    differing = [
        f"--config.model.{field.name}={getattr(network, field.name)}"
        for field in dataclasses.fields(Network)
        if getattr(network, field.name) != getattr(default, field.name)
    ]
    return " ".join(differing)
