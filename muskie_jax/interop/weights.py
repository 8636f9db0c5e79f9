"""Weights in files: `.safetensors`, and PyTorch's `.pth`, ours or the published ones.

Files come from strangers. Nothing in a file is run: safetensors are plain numbers, and a `.pth` is read
by PyTorch's restricted unpickler alone. What a file says of itself is checked: names and shapes by the
table in `names`, and numbers by the digest that was written with them.
"""

import argparse
import dataclasses
import json
import pathlib
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

import muskie_jax
from muskie_jax.errors import UserError
from muskie_jax.files import made_whole
from muskie_jax.fingerprint import digest_of, examine
from muskie_jax.interop.names import Network, network_of, to_jax, to_torch

SUFFIXES = (".safetensors", ".pth", ".pt")
KEY = "muskie"  # of a file's description of itself
FORMAT = 1  # of the description; raised whenever older code could not use a file


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network's parameters, and what is known of them.

    Attributes:
      network: whose they are.
      params: our tree, float32 numpy arrays; without `norm` and `head` if only the backbone is there.
      about: plain values: `step`, `training` (the config), `metrics`; whatever is known.
    """

    network: Network
    params: dict[str, Any]
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def backbone_only(self) -> bool:
        return "head" not in self.params

    def backbone(self) -> "Weights":
        """The same without the reconstruction head."""
        kept = {name: value for name, value in self.params.items() if name not in ("norm", "head")}
        return dataclasses.replace(self, params=kept)

    def described(self) -> dict[str, Any]:
        """What a file says of itself.

        Raises:
          UserError: if a number is not finite.
        """
        network = self.network
        return {
            "format": FORMAT,
            "muskie_jax": muskie_jax.__version__,
            "variant": network.variant,
            "width": network.width,
            "depth": network.depth,
            "num_heads": network.heads,
            "patch": network.patch,
            "registers": network.registers,
            "view_embed": network.view_embed,
            "backbone_only": self.backbone_only,
            "params_digest": params_digest(self.params),
        } | self.about


def params_digest(params: Mapping[str, Any]) -> str:
    """The digest that a training run prints of the same parameters.

    Raises:
      UserError: if a number is not finite.
    """
    fingerprints, finite = examine(params)
    if not finite:
        raise UserError("the weights hold numbers that are not finite, and are of no use")
    return digest_of(fingerprints)


def write_weights(path: pathlib.Path, weights: Weights, force: bool = False) -> dict[str, Any]:
    """Writes a `.safetensors` or `.pth` file of float32 tensors by their published names.

    Returns:
      The description that was written with them.

    Raises:
      UserError: if the file is there and not `force`, cannot be written, or its suffix is unknown.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: write a name that ends with .safetensors or .pth")
    described = weights.described()
    with made_whole(path, force) as part:
        if path.suffix == ".safetensors":
            metadata = {"format": "pt", KEY: json.dumps(described)}
            save_safetensors(part, to_torch(weights.params, weights.network), metadata)
        else:
            import_torch().save({"model": state_dict(weights), KEY: described}, part)
    return described


def state_dict(weights: Weights) -> dict[str, Any]:
    """Weights as PyTorch's tensors, by their published names.

    Raises:
      UserError: if PyTorch is not installed.
    """
    torch = import_torch()
    tensors = to_torch(weights.params, weights.network)
    # Arrays that JAX made cannot be written to, and PyTorch's tensors always can.
    return {name: torch.from_numpy(np.require(x, requirements="W")) for name, x in tensors.items()}


def save_safetensors(
    path: pathlib.Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Writes a file as readable as the user's others; the library alone would make it private."""
    path.touch()
    mode = path.stat().st_mode
    safetensors.numpy.save_file(tensors, path, metadata)
    path.chmod(mode)


def read_weights(path: pathlib.Path, num_heads: int | None = None) -> Weights:
    """Reads a file of weights by their published names.

    Args:
      path: `.safetensors`, `.pth` or `.pt`.
      num_heads: overrides what the file says, or, for files that say nothing, what the published
        network of its size has.

    Raises:
      UserError: one line, for a file that cannot be read, is damaged, or holds something else.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path} is no file of weights: its name ends with none of {', '.join(SUFFIXES)}")
    try:
        tensors, described = (_read_safetensors if path.suffix == ".safetensors" else _read_pth)(path)
        if described.get("format", FORMAT) != FORMAT:
            raise UserError(f"it has format {described['format']}, and this code reads {FORMAT}")
        tensors = _unwrapped(tensors)
        network = network_of(tensors, num_heads or _heads(described))
        weights = Weights(network, to_jax(tensors, network), _about(described))
        found = params_digest(weights.params)
        if described.get("params_digest", found) != found:
            raise UserError("its numbers are not those that were written: get it again")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return weights


def _unwrapped(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors without what DistributedDataParallel and torch.compile put in front of every name."""
    for wrapper in ("module.", "_orig_mod.", "module."):
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def _heads(described: Mapping[str, Any]) -> int | None:
    heads = described.get("num_heads")
    if heads is not None and type(heads) is not int:
        raise UserError(f"its description says num_heads={heads!r}, which is no number")
    return heads


def _about(described: Mapping[str, Any]) -> dict[str, Any]:
    """Of a description, what the network and its numbers do not tell."""
    return {name: described[name] for name in ("step", "training", "metrics") if name in described}


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            described = json.loads((file.metadata() or {}).get(KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own kind, and others for broken headers
        raise _unreadable(error) from error
    return tensors, _dictionary(described)


def _read_pth(path: pathlib.Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    torch = import_torch()
    try:
        # PyTorch maps tensors into memory and does not compare them with the archive's checksums.
        if zipfile.is_zipfile(path):
            damaged = zipfile.ZipFile(path).testzip()
            if damaged:
                raise UserError("it is damaged: a checksum does not match")
        # Published checkpoints hold the training's arguments too, an argparse.Namespace, which is a plain
        # record of names and values. Anything else that is no tensor, number or text is refused.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UserError:
        raise
    except Exception as error:  # of an unpickler fed with anything
        raise _unreadable(error) from error
    content = _dictionary(content)
    state = _dictionary(content.get("model", content))
    others = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others or not state:
        said = f"{others[0]!r} is no tensor" if others else "it holds no tensor"
        raise UserError(f"no state dict, neither itself nor under the key 'model': {said}")
    return {str(name): _array(value, torch) for name, value in state.items()}, _dictionary(
        content.get(KEY, {})
    )


def _array(tensor: Any, torch: Any) -> np.ndarray:
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # which numpy does not have
        tensor = tensor.float()
    return tensor.numpy()


def _dictionary(value: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"it holds a {type(value).__name__}, where a dictionary should be")
    return dict(value)


def _unreadable(error: Exception) -> UserError:
    """One line out of a reader's error: PyTorch's are pages of advice on how to run a file all the same."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if "GLOBAL" in line or "Unsupported" in line]
    if telling:
        return UserError(f"it is not plain weights, and nothing of it was run: {telling[0][:200]}")
    reason = (lines or [type(error).__name__])[0]
    return UserError(f"it cannot be read, and is damaged or no file of weights: {reason[:200]}")


def import_torch() -> Any:
    """PyTorch, which only those need who read or write its files.

    Raises:
      UserError: if it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            'this needs PyTorch: python -m pip install ".[torch]" -c constraints.txt gets it; '
            ".safetensors files need none"
        ) from error
    return torch
