"""Weights files: `.safetensors`, and PyTorch's `.pth`, written here, published, or of another trainer.

Files are untrusted, and nothing in them is executed. Safetensors files contain plain numbers, and the
restricted unpickler of PyTorch reads `.pth` and `.ckpt` files. The table in `names` checks names and
shapes. The digests stored in a file check its numbers and its metadata.
"""

import argparse
import contextlib
import dataclasses
import functools
import pathlib
import threading
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

import muskie_jax
from muskie_jax.errors import UserError, first_line
from muskie_jax.fingerprint import digest_of, examine
from muskie_jax.interop.metadata import (
    FORMAT,
    METADATA_KEY,
    FileMetadata,
    from_header,
    parse_metadata,
    to_header,
)
from muskie_jax.interop.names import REQUIRED, Network, network_from_tensors, to_jax, to_torch
from muskie_jax.interop.prefixes import NetworkTensors, network_tensors, reading_note
from muskie_jax.interop.reconstruction_names import ANCHORS, is_reconstruction, reconstruction_from_tensors
from muskie_jax.storage.outputs import write_output
from muskie_jax.writers import log

SUFFIXES = (".safetensors", ".pth", ".pt")  # of files that are written
INPUT_SUFFIXES = (*SUFFIXES, ".ckpt")
STORED_TYPES = ("float32", "float16")  # of numbers in files that are written
PICKLE_START = b"\x80"  # first byte since pickle protocol 2; old torch.save files are a series of pickles
ZIP_START = b"PK\x03\x04"  # of newer torch.save files
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_HEADER = 10**8  # bytes; safetensors refuses longer headers
MAX_PICKLE = 2**26  # limit on non-tensor bytes in a PyTorch file; published checkpoints have about 0.1 MB
UNREADABLE = "it cannot be read: it is damaged, or not a weights file"
_SAFE_GLOBALS_LOCK = threading.Lock()  # torch.serialization.safe_globals applies to the whole process


@dataclasses.dataclass(frozen=True)
class Weights:
    """The parameters of a network, with their provenance.

    Attributes:
      network: the sizes of the network.
      params: our tree, float32 numpy arrays; a backbone alone lacks `norm` and `head`. With a decoder of
        point maps and cameras, the backbone's tree is under `backbone`.
      provenance: what is known about the training, see `muskie_jax.interop.metadata`.
    """

    network: Network
    params: dict[str, Any]
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def params_digest(self) -> str:
        """The digest that a training run prints for the same parameters.

        Raises:
          UserError: if a number is not finite.
        """
        fingerprints, finite, _ = examine(self.params)
        if not finite:
            raise UserError("the weights contain infinite or undefined numbers, so they cannot be used")
        return digest_of(fingerprints)

    @property
    def backbone_only(self) -> bool:
        """Whether these are the weights of a backbone without a reconstruction head or a decoder."""
        return not self.params.keys() & {"head", "backbone"}

    def backbone(self) -> "Weights":
        """Returns the weights of the backbone alone, without its reconstruction head."""
        params = self.params.get("backbone", self.params)
        kept = {name: value for name, value in params.items() if name not in ("norm", "head")}
        return dataclasses.replace(self, network=self.network.backbone, params=kept)

    def rounded(self, dtype: str) -> "Weights":
        """Returns these weights with every number rounded to `dtype`, one of STORED_TYPES; still float32.

        Raises:
          UserError: if a number is too large for `dtype`.
        """
        with np.errstate(over="ignore"):
            params = jax.tree.map(lambda x: np.asarray(x).astype(dtype).astype(np.float32), self.params)
        result = dataclasses.replace(self, params=params)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params)):
            _ = self.params_digest  # raises if they were not finite before
            raise UserError(f"a number of the weights is too large for {dtype}: export float32")
        return result

    def metadata(self) -> dict[str, Any]:
        """Returns the metadata that is written with these weights.

        Raises:
          UserError: if a number is not finite.
        """
        return {
            "format": FORMAT,
            "muskie_jax": muskie_jax.__version__,
            **self.network.metadata(),
            "backbone_only": self.backbone_only,
            "params_digest": self.params_digest,
        } | self.provenance


def write_weights(
    path: pathlib.Path, weights: Weights, force: bool = False, dtype: str = "float32"
) -> dict[str, Any]:
    """Writes tensors under their published names to a `.safetensors` or `.pth` file.

    Args:
      path: the file.
      weights: what to write.
      force: replace an existing file.
      dtype: type of the numbers in the file, one of STORED_TYPES. The digest in the metadata is that of the
        rounded weights, so reading the file checks every number.

    Returns:
      The metadata in the file.

    Raises:
      UserError: if the file exists and `force` is false, it cannot be written, or its suffix is unknown.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: the name must end with .safetensors, .pth or .pt")
    if dtype != "float32":
        weights = weights.rounded(dtype)
    metadata = weights.metadata()
    with write_output(path, force) as part:
        if path.suffix == ".safetensors":
            save_safetensors(part, _stored(weights, dtype), to_header(metadata))
        else:
            save_pth(part, {"model": state_dict(weights, dtype), METADATA_KEY: metadata})
    return metadata


def _stored(weights: Weights, dtype: str) -> dict[str, np.ndarray]:
    """Returns arrays of `dtype` under their PyTorch names."""
    tensors = to_torch(weights.params, weights.network)
    return {name: tensor.astype(dtype, copy=False) for name, tensor in tensors.items()}


def state_dict(weights: Weights, dtype: str = "float32") -> dict[str, Any]:
    """Returns PyTorch tensors of `dtype` under their published names.

    Raises:
      UserError: if PyTorch is not installed.
    """
    torch = import_torch()
    tensors = _stored(weights, dtype)
    # torch.from_numpy needs writable arrays, but arrays from JAX are read-only.
    return {name: torch.from_numpy(np.require(x, requirements="W")) for name, x in tensors.items()}


def save_safetensors(
    path: pathlib.Path, tensors: dict[str, np.ndarray], header: dict[str, str] | None = None
) -> None:
    """Writes a `.safetensors` file with the user's default permissions; safetensors would make it private.

    Raises:
      OSError: if it cannot be written.
    """
    path.touch()
    mode = path.stat().st_mode
    try:
        safetensors.numpy.save_file(tensors, path, header)
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


def read_weights(path: pathlib.Path, num_heads: int | None = None, with_decoder: bool = False) -> Weights:
    """Reads a weights file that uses the published names.

    Args:
      path: a `.safetensors`, `.pth`, `.pt` or `.ckpt` file. Names may have a prefix, see `prefixes`.
      num_heads: overrides the file's metadata. By default, a file without metadata gets the number of
        heads of the variant with its size.
      with_decoder: whether to read the decoder of point maps and cameras too, if the file has one.

    Raises:
      UserError: if the file is unreadable or damaged, or does not contain Muskie weights; one line.
    """
    if path.suffix not in INPUT_SUFFIXES:
        raise UserError(
            f"{path} is not a weights file: its name must end with one of {', '.join(INPUT_SUFFIXES)}"
        )
    try:
        everything, metadata = read_tensors(path)
        known = parse_metadata(metadata)
        heads = known.heads if num_heads is None else num_heads
        weights, found = whole, all_found = _find_weights(everything, known, heads, with_decoder)
        if known.digest is not None and found.left_out:  # a decoder, which the digest covers
            whole, all_found = _find_weights(everything, known, heads)
        # The digest of a larger model does not fit its backbone.
        if not all_found.left_out and known.digest not in (None, whole.params_digest):
            raise UserError("it is damaged: its contents do not match its digest; download it again")
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    log_reading(path, found.prefix, found.left_out, found.tensors)
    return weights


def _find_weights(
    everything: Mapping[str, np.ndarray], known: FileMetadata, heads: int | None, with_decoder: bool = True
) -> tuple[Weights, NetworkTensors]:
    """Returns the weights among all tensors of a file, and which tensors they are."""
    if with_decoder and is_reconstruction(everything):
        found = network_tensors(everything, ANCHORS)
        network: Network = reconstruction_from_tensors(found.tensors, heads)
    else:
        found = network_tensors(everything, REQUIRED)
        network = network_from_tensors(found.tensors, heads)
    if known.rope_base is not None:
        network = dataclasses.replace(network, rope_base=float(known.rope_base))
    return Weights(network, to_jax(found.tensors, network), known.provenance), found


def log_reading(
    path: pathlib.Path, prefix: str, left_out: list[str], tensors: Mapping[str, np.ndarray]
) -> None:
    """Logs one line if names had a prefix, or if tensors were left out or rounded."""
    rounded = sum(tensor.dtype == np.float64 for tensor in tensors.values())
    if note := reading_note(prefix, left_out, rounded):
        log(f"{path}: {note}")


def read_provenance(path: pathlib.Path) -> dict[str, Any]:
    """Returns the provenance of a weights file; see `Weights` and, for errors, `read_tensors`."""
    if path.suffix != ".safetensors":
        return parse_metadata(read_tensors(path)[1]).provenance
    _check_format(path)
    with _opened(path) as file:
        metadata = from_header(file.metadata() or {})
    return parse_metadata(metadata).provenance


def read_tensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], Any]:
    """Reads the tensors of a `.safetensors` or PyTorch file; executes nothing in it.

    Returns:
      Tensors by name, and the file's metadata, unchecked.

    Raises:
      UserError: if the file cannot be read, is damaged, or contains anything but tensors and plain values.
    """
    _check_format(path)
    return (_read_safetensors if path.suffix == ".safetensors" else _read_pth)(path)


def _check_format(path: pathlib.Path) -> None:
    """Raises UserError for a web page, or if a file is of another format than its suffix says.

    `torch_model.format_mistake` is a copy of this for PyTorch.
    """
    start, is_safetensors = _first_bytes(path), path.suffix == ".safetensors"
    # A safetensors file begins with the length of its header, 8 bytes, and the header, which is JSON.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= MAX_HEADER:
        if not is_safetensors:
            raise UserError("it is a safetensors file: rename it to .safetensors")
    elif start.removeprefix(BYTE_ORDER_MARK).lstrip().startswith(b"<"):
        raise UserError("it is a web page, not a weights file: download the file itself")
    elif is_safetensors and start.startswith((ZIP_START, PICKLE_START)):
        raise UserError("it is a PyTorch file: rename it to .pth")


def _read_safetensors(path: pathlib.Path) -> tuple[dict[str, np.ndarray], Any]:
    with _opened(path) as file:
        metadata = from_header(file.metadata() or {})
        return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
    """Opens a `.safetensors` file; errors of reading become a UserError."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            yield file
    except UserError:
        raise
    except OSError as error:
        raise _unreadable(error) from error
    except Exception as error:  # safetensors raises several kinds
        raise UserError(f"{UNREADABLE}: {str(error)[:200]}") from error


def _read_pth(path: pathlib.Path) -> tuple[dict[str, np.ndarray], Any]:
    # These checks come before the import, so that a damaged file is reported without PyTorch too.
    is_archive = _first_bytes(path).startswith(ZIP_START)
    if is_archive:
        _check_archive(path)
    elif not _first_bytes(path).startswith(PICKLE_START):
        raise UserError(UNREADABLE)
    torch = import_torch()
    from muskie_jax.interop import torch_model  # imports PyTorch

    try:
        # Published checkpoints also contain the training arguments, an argparse.Namespace of plain values.
        # Objects of settings become empty objects, see `ignored_classes`. Other objects are refused.
        allowed = [argparse.Namespace, *torch_model.ignored_classes()]
        with _SAFE_GLOBALS_LOCK, torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except Exception as error:  # the unpickler may raise anything on arbitrary bytes
        raise UserError(torch_model.why_not_loaded(str(error))) from error
    try:
        state, metadata = torch_model.find_state(content)
    except ValueError as error:
        raise UserError(str(error)) from error
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise UserError(f"{name[:80]} is not a plain dense tensor")
    # A few bytes can declare an expanded tensor of any size, which would fill the memory. Larger models may
    # share tensors, which count once.
    sizes = {tensor.data_ptr(): tensor.nbytes for tensor in state.values()}
    if max(sum(sizes.values()), *(tensor.nbytes for tensor in state.values())) > path.stat().st_size:
        raise UserError("its tensors are larger than the file")
    return {name: _to_numpy(name, tensor, torch) for name, tensor in state.items()}, metadata


def _check_archive(path: pathlib.Path) -> None:
    """Raises UserError unless a zip archive has the layout that PyTorch writes and is intact.

    PyTorch maps tensors into memory without comparing them with the archive's checksums.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise UserError("its archive is compressed, which PyTorch never does")
            if any(entry.filename.endswith(".pkl") and entry.file_size > MAX_PICKLE for entry in entries):
                raise UserError(f"its pickled part is larger than {MAX_PICKLE:,} bytes")
            if archive.testzip():
                raise UserError("it is damaged: a checksum does not match")
    except OSError as error:
        raise _unreadable(error) from error
    except (ValueError, zipfile.BadZipFile, RuntimeError) as error:
        raise UserError(f"{UNREADABLE}: {str(error)[:200]}") from error


def _first_bytes(path: pathlib.Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(1024)
    except OSError as error:
        raise _unreadable(error) from error


def _unreadable(error: OSError) -> UserError:
    return UserError(f"it cannot be read: {error.strerror or first_line(error)[:200]}")


def _to_numpy(name: str, tensor: Any, torch: Any) -> np.ndarray:
    """Returns the tensor as a numpy array without copying it."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:  # numpy lacks this type
        return tensor.contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    try:
        return tensor.numpy()
    except TypeError as error:
        raise UserError(f"{name[:80]} is of type {tensor.dtype}, not float32") from error


def import_torch() -> Any:
    """Imports PyTorch, an optional dependency that only PyTorch files and ONNX exports need.

    Raises:
      UserError: if it is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise UserError(
            'this needs PyTorch: install it with python -m pip install -e ".[torch]" -c constraints.txt; '
            ".safetensors files do not need it"
        ) from error
    return torch
