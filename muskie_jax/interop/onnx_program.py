"""Muskie as an ONNX file, by way of the PyTorch module."""

import importlib.util
import logging
import pathlib
import warnings
from typing import Any

from muskie_jax.errors import UserError
from muskie_jax.files import atomic_write
from muskie_jax.interop.weights import Weights, import_torch, state_dict

MAX_BYTES = 2 * 10**9  # an ONNX file is one protocol buffer
OPSET = 20


def write_onnx(
    path: pathlib.Path,
    weights: Weights,
    views: int,
    size: tuple[int, int],
    output: str,
    *,
    force: bool = False,
) -> None:
    """Writes an ONNX file with its weights inside, in float32, for any number of groups.

    Its inputs are `images`, float32 (groups, views, 3, height, width) in [-1, 1], and `mask`, bool (groups,
    views, L), True = hidden. Its outputs are `tokens_0`, ... after every block, (groups, views, L, d); or
    `pred` and `conf`, (groups, views, L, p*p*3).

    Args:
      views, size: of every group, and (height, width) of every image.
      output: "features" or "reconstruction".

    Raises:
      UserError: if PyTorch or ONNX are not installed, the network is too large for a file, or the file is
        there and not `force`.
    """
    torch = import_torch()
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f'this needs {missing[0]}: python -m pip install -e ".[onnx]" -c constraints.txt gets it'
        )
    from muskie_jax.interop import torch_model

    tensors = state_dict(weights)
    if sum(tensor.nbytes for tensor in tensors.values()) > MAX_BYTES:
        raise UserError("these weights are over 2 GB, which an ONNX file cannot hold: use stablehlo")
    network = weights.network
    model = torch_model.from_state_dict(tensors, network.heads)
    names = (
        ["pred", "conf"] if output == "reconstruction" else [f"tokens_{i}" for i in range(network.depth)]
    )
    patches = (size[0] // network.patch) * (size[1] // network.patch)
    # Two groups, since of one the exporter would take it that there is always one.
    examples = (torch.zeros(2, views, 3, *size), torch.zeros(2, views, patches, dtype=torch.bool))
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which is not used
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _program(torch, model, output),
            examples,
            input_names=["images", "mask"],
            output_names=names,
            dynamic_shapes=[{0: torch.export.Dim("groups")}] * 2,
            dynamo=True,
            opset_version=OPSET,
            verbose=False,
        )
    content = program.model_proto
    for node in content.graph.node:  # they tell which lines of which files they come from
        del node.metadata_props[:]
    with atomic_write(path, force) as part:
        part.write_bytes(content.SerializeToString())


def _program(torch: Any, model: Any, output: str) -> Any:
    """A module whose `forward` is what the file should compute."""

    class Program(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images, mask):
            return model.features(images, mask) if output == "features" else model(images, mask)

    return Program().eval()
