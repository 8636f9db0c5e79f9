"""Exports Muskie as an ONNX file, through the PyTorch module."""

import importlib.util
import logging
import pathlib
import warnings
from typing import Any

from muskie_jax.errors import UserError
from muskie_jax.files import atomic_write
from muskie_jax.interop.weights import Weights, import_torch, state_dict

MAX_BYTES = 2 * 10**9  # limit of protocol buffers, the format of ONNX files
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
    """Writes an ONNX file that contains float32 weights, for any number of groups.

    The inputs are `images`, float32 (groups, views, 3, height, width) in [-1, 1], and `mask`, bool (groups,
    views, L), True = masked. The outputs are `tokens_0`, ... after every block, (groups, views, L, d); or
    `pred` and `conf`, (groups, views, L, p*p*3).

    Args:
      path: path of the file.
      weights: weights of the network.
      views: number of views per group.
      size: (height, width) of every image, pixels.
      output: "features" or "reconstruction".
      force: replace an existing file.

    Raises:
      UserError: if PyTorch or ONNX is not installed, the weights exceed MAX_BYTES, or the file exists and
        `force` is false.
    """
    torch = import_torch()
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"this needs {missing[0]}: install it with "
            'python -m pip install -e ".[onnx]" -c constraints.txt'
        )
    from muskie_jax.interop import torch_model

    tensors = state_dict(weights)
    if sum(tensor.nbytes for tensor in tensors.values()) > MAX_BYTES:
        raise UserError("these weights exceed the 2 GB limit of ONNX files: use stablehlo instead")
    network = weights.network
    model = torch_model.from_state_dict(tensors, network.heads, network.rope_base)
    names = (
        ["pred", "conf"] if output == "reconstruction" else [f"tokens_{i}" for i in range(network.depth)]
    )
    patches = (size[0] // network.patch) * (size[1] // network.patch)
    # With one group, the exporter would fix the group axis at size 1.
    examples = (torch.zeros(2, views, 3, *size), torch.zeros(2, views, patches, dtype=torch.bool))
    # The exporter warns that torchvision is missing, which Muskie does not use.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
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
    for node in content.graph.node:
        del node.metadata_props[:]  # source file names, which would disclose paths of this machine
    with atomic_write(path, force) as part:
        part.write_bytes(content.SerializeToString())


def _program(torch: Any, model: Any, output: str) -> Any:
    """Wraps the model in a module whose `forward` computes the exported output."""

    class Program(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, images, mask):
            return model.features(images, mask) if output == "features" else model(images, mask)

    return Program().eval()
