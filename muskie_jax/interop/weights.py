"""Weights in files: `.safetensors`, and PyTorch's `.pth`, ours or the published ones.

Files come from distractors. Nothing in a file is run: safetensors are plain numbers, and a `.pth` is read
by PyTorch's restricted unpickler alone. What a file says of itself is checked: names and shapes by the
table in `names`, and numbers by the digest that was written with them.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import threading
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

import muskie_jax
from muskie_jax.errors import UserError, first_line
from muskie_jax.files import atomic_write
from muskie_jax.fingerprint import digest_of, examine
from muskie_jax.interop.description import FORMAT, checked_description
from muskie_jax.interop.names import Network, network_of, to_jax, to_torch

SUFFIXES = (".safetensors", ".pth", ".pt")
KEY = "muskie"  # of a file's description of itself
MAX_PICKLE = 2**26  # bytes of what is no tensors in a PyTorch file; a published checkpoint has 0.1 MB
UNREADABLE = "it cannot be read: it is damaged, or not a file of weights"
_ALLOWING = threading.Lock()  # what PyTorch is allowed to make is told to the whole process


@dataclasses.dataclass(frozen=True)
class Weights:
    """A network's parameters, and what is known of them.

    Attributes:
      network: whose they are.
      params: our tree, float32 numpy arrays; without `norm` and `head` if only the backbone is there.
      about: what is known of them, see `muskie_jax.interop.description`.
    """

    network: Network
    params: dict[str, Any]
    about: dict[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def params_digest(self) -> str:
        """The digest that a training run prints of the same parameters.

        Raises:
          UserError: if a number is not finite.
        """
        fingerprints, finite = examine(self.params)
        if not finite:
            raise UserError("the weights hold numbers that are not finite, and are of no use")
        return digest_of(fingerprints)

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
            "params_digest": self.params_digest,
        } | self.about


def write_weights(path: pathlib.Path, weights: Weights, force: bool = False) -> dict[str, Any]:
    """Writes a `.safetensors` or `.pth` file of float32 tensors by their published names.

    Returns:
      The description that was written with them.

    Raises:
      UserError: if the file is there and not `force`, cannot be written, or its suffix is unknown.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: write a name that ends with .safetensors, .pth or .pt")
    described = weights.described()
    with atomic_write(path, force) as part:
        if path.suffix == ".safetensors":
            metadata = {"format": "pt", KEY: json.dumps(described)}
            save_safetensors(part, to_torch(weights.params, weights.network), metadata)
        else:
            save_pth(part, {"model": state_dict(weights), KEY: described})
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
    """Writes a file as readable as the user's others; the library alone would make it private.

    Raises:
      OSError: if it cannot be written.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        safetensors.numpy.save_file(tensors, path, metadata)
    except safetensors.SafetensorError as error:
        raise OSError(str(error)) from error
    path.chmod(mode)


def save_pth(path: pathlib.Path, content: dict[str, Any]) -> None:
    """Writes a file for `torch.load`.

    Raises:
      OSError: if it cannot be written.
    """
    try:
        import_torch().save(content, path)
    except RuntimeError as error:
        raise OSError(first_line(error)) from error


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
        tensors, described = read_tensors(path)
        heads, digest, about = checked_description(described)
        network = network_of(tensors, heads if num_heads is None else num_heads)
        weights = Weights(network, to_jax(tensors, network), about)
        if digest not in (None, weights.params_digest):
            raise UserError("its numbers are not those that were written: get it again")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    return weights


def read_tensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], Any]:
    """The tensors of a `.safetensors` file, or else of one of PyTorch's, by name; nothing in it is run.

    Returns:
      Also what the file says of itself, unchecked.

    Raises:
      UserError: if it cannot be read, is damaged, or holds something else.
    """
    tensors, described = (_read_safetensors if path.suffix == ".safetensors" else _read_pth)(path)
    return _unwrapped(tensors), described


def _unwrapped(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors without what DistributedDataParallel and torch.compile, in either order, put before names."""
    for wrapper in ("module.", "_orig_mod.", "module."):
        if all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): tensor for name, tensor in tensors.items()}
    return tensors


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], Any]:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            described = json.loads((file.metadata() or {}).get(KEY, "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # safetensors raises its own kind, and others for broken headers
        raise UserError(f"{UNREADABLE}: {str(error)[:200]}") from error
    return tensors, described


def _read_pth(path: pathlib.Path) -> tuple[dict[str, np.ndarray], Any]:
    torch = import_torch()
    is_archive = zipfile.is_zipfile(path)
    if is_archive:
        _check_archive(path)
    try:
        # Published checkpoints hold the training's arguments too, an argparse.Namespace, which is a plain
        # record of names and values. Anything else that is no tensor, number or text is refused.
        with _ALLOWING, torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # of an unpickler fed with anything
        raise UserError(_why_not_loaded(str(error))) from error
    content = _dictionary(content)
    state = _dictionary(content.get("model", content.get("state_dict", content)))
    others = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others or not state:
        said = f"{str(others[0])[:80]!r} is no tensor" if others else "it holds no tensor"
        raise UserError(f"no state dict, neither itself nor under the key 'model': {said}")
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UserError(f"{str(name)[:80]} is no plain tensor of numbers")
    # A few bytes of a file can stand for a tensor of any size, all of whose numbers are one.
    if sum(tensor.nbytes for tensor in state.values()) > path.stat().st_size:
        raise UserError("its tensors are larger than the file")
    tensors = {str(name): _array(str(name), tensor, torch) for name, tensor in state.items()}
    return tensors, content.get(KEY, {})


def _check_archive(path: pathlib.Path) -> None:
    """Raises UserError unless a zip archive is as PyTorch writes them, and intact.

    PyTorch maps tensors into memory and does not compare them with the archive's checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise UserError("its archive is compressed, as PyTorch never does")
            if any(entry.filename.endswith(".pkl") and entry.file_size > MAX_PICKLE for entry in entries):
                raise UserError("the part of it that is no tensors is too large")
            if archive.testzip():
                raise UserError("it is damaged: a checksum does not match")
    except (OSError, ValueError, zipfile.BadZipFile, RuntimeError) as error:
        raise UserError(f"{UNREADABLE}: {str(error)[:200]}") from error


def _why_not_loaded(message: str) -> str:
    """PyTorch's errors are pages of advice, such as how to run a file all the same."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    telling = [line for line in lines if "GLOBAL" in line or "Unsupported class" in line]
    if telling:
        reason = telling[0].partition(" was not an allowed global")[0].partition(". Please")[0]
        return (
            f"it holds more than plain weights, and nothing of it was run: {reason[:120]} (if you trust "
            "it, save its state dict alone in PyTorch)"
        )
    return UNREADABLE


def _array(name: str, tensor: Any, torch: Any) -> np.ndarray:
    """A tensor's numbers, without a copy."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # which numpy does not have
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    try:
        return tensor.numpy()
    except TypeError as error:
        raise UserError(f"{name[:80]} is of type {tensor.dtype}, not float32") from error


def _dictionary(value: Any) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"it holds a {type(value).__name__}, where a dictionary should be")
    return dict(value)


def import_torch() -> Any:
    """PyTorch, which only those need who read or write its files.

    Raises:
      UserError: if it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            'this needs PyTorch: python -m pip install -e ".[torch]" -c constraints.txt gets it; '
            ".safetensors files need none"
        ) from error
    return torch
