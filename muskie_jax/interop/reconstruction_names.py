"""The published names of a backbone with its decoder of point maps and cameras.

The backbone's names follow `encoder.encoder.`, the decoder's blocks `encoder.additional_blocks.`. As
published, the file contains a residual unit that is never used, `refinenet4.resConfUnit1`.
"""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from muskie_jax.errors import UserError
from muskie_jax.interop.names import (
    MODULES,
    REQUIRED,
    Network,
    Parameter,
    module_parameters,
    network_from_tensors,
)
from muskie_jax.models.camera_head import STAGES
from muskie_jax.models.dpt import HIDDEN, LEVELS
from muskie_jax.models.reconstruction import Reconstruction, point_levels

BACKBONE = "encoder.encoder."
DECODER = "encoder.additional_blocks."
POINT_HEAD = "head.point_head."
CAMERA_HEAD = "head.camera_head."
# Tensors that identify the prefix of the network's names, such as `module.`.
ANCHORS = tuple(f"{BACKBONE}{name}" for name in REQUIRED)


@dataclasses.dataclass(frozen=True)
class ReconstructionNetwork(Network):
    """The sizes of a `Reconstruction`: those of its backbone, and the number of decoder blocks."""

    decoder_depth: int = 0

    @classmethod
    def of(cls, model: Reconstruction) -> "ReconstructionNetwork":
        return cls(**dataclasses.asdict(Network.of(model.backbone)), decoder_depth=model.decoder_depth)

    @property
    def backbone(self) -> Network:
        return Network(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Network)})

    def metadata(self) -> dict[str, Any]:
        return super().metadata() | {"decoder_depth": self.decoder_depth}

    def parameters(self) -> list[Parameter]:
        listed = [
            p._replace(torch_name=BACKBONE + p.torch_name, path=("backbone", *p.path))
            for p in self.backbone.parameters()
        ]
        for i in range(self.decoder_depth):
            for module, path, kind in MODULES:
                if "{i}" in module:
                    torch_module = module.replace("blocks.{i}.", f"{DECODER}{i}.")
                    listed += module_parameters(
                        torch_module, path.replace("block_{i}", f"decoder_{i}"), kind, self
                    )
        return listed + _point_head(self.width) + _camera_head(self.width)


def _point_head(width: int) -> list[Parameter]:
    listed = []

    def add(module: str, path: str, inputs: int, outputs: int, side: int, bias: bool = True):
        keys = ("point_head", *path.split("/"))
        torch_shape, shape = (outputs, inputs, side, side), (side, side, inputs, outputs)
        listed.append(Parameter(f"{POINT_HEAD}{module}.weight", torch_shape, (*keys, "kernel"), shape))
        if bias:
            listed.append(Parameter(f"{POINT_HEAD}{module}.bias", (outputs,), (*keys, "bias"), (outputs,)))

    level_channels = (width // 4, width // 2, width, width)
    resample_sides = (4, 2, None, 3)  # the first two are transposed convolutions
    for i, channels, side in zip(range(1, LEVELS + 1), level_channels, resample_sides):
        add(f"act_{i}_postprocess.0", f"level_{i}_reduce", width, channels, 1)
        if side is not None:
            add(f"act_{i}_postprocess.1", f"level_{i}_resample", channels, channels, side)
        add(f"scratch.layer{i}_rn", f"level_{i}_conv", channels, width, 3, bias=False)
        for unit in (1, 2):
            for conv in (1, 2):
                module = f"scratch.refinenet{i}.resConfUnit{unit}.conv{conv}"
                add(module, f"fusion_{i}/unit{unit}/conv{conv}", width, width, 3)
        add(f"scratch.refinenet{i}.out_conv", f"fusion_{i}/out", width, width, 1)
    add("head.0", "conv1", width, width // 2, 3)
    add("head.2", "conv2", width // 2, HIDDEN, 3)
    add("head.4", "out", HIDDEN, 4, 1)
    return listed


def _camera_head(width: int) -> list[Parameter]:
    modules = [
        (f"res_conv.{stage}.res_conv{i}", f"stage_{stage}/fc{i}", width)
        for stage in range(STAGES)
        for i in (1, 2, 3)
    ]
    modules += [("more_mlps.0", "fc1", width), ("more_mlps.2", "fc2", width)]
    modules += [("fc_t", "translation", 3), ("fc_rot", "rotation", 9)]
    listed = []
    for module, path, outputs in modules:
        keys = ("camera_head", *path.split("/"))
        weight, bias = f"{CAMERA_HEAD}{module}.weight", f"{CAMERA_HEAD}{module}.bias"
        listed.append(Parameter(weight, (outputs, width), (*keys, "kernel"), (width, outputs)))
        listed.append(Parameter(bias, (outputs,), (*keys, "bias"), (outputs,)))
    return listed


def is_reconstruction(names: Collection[str]) -> bool:
    """Returns whether a file contains a decoder or a head of a `Reconstruction`, under any prefix."""
    return any(f".{part}" in f".{name}" for name in names for part in (DECODER, POINT_HEAD, CAMERA_HEAD))


def reconstruction_from_tensors(
    tensors: Mapping[str, np.ndarray], num_heads: int | None = None
) -> ReconstructionNetwork:
    """Infers the network from the names and shapes of its tensors.

    Args:
      num_heads: number of heads of backbone and decoder; None takes it from the variant with the
        backbone's width and depth.

    Raises:
      UserError: if these are not such weights, the number of heads is unknown, or there are too few blocks.
    """
    encoder = {name.removeprefix(BACKBONE): x for name, x in tensors.items() if name.startswith(BACKBONE)}
    backbone = network_from_tensors(encoder, num_heads)
    depth = len({name.split(".")[2] for name in tensors if name.startswith(DECODER)})
    try:
        point_levels(backbone.width, backbone.depth, depth)
    except ValueError as error:
        raise UserError(str(error)) from error
    return ReconstructionNetwork(**dataclasses.asdict(backbone), decoder_depth=depth)
