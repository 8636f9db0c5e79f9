"""The commands of `python -m muskie_jax.interop`."""

import pathlib
import re
from collections.abc import Callable
from typing import Any

from absl import flags

from muskie_jax.checks import nearest_sizes, one_of
from muskie_jax.command_line import CONFIG, OUT, Command
from muskie_jax.errors import UserError
from muskie_jax.files import check_free, user_path
from muskie_jax.interop.bundled import CHOICES
from muskie_jax.interop.load import open_weights
from muskie_jax.interop.onnx_program import write_onnx
from muskie_jax.interop.save import ENTRIES, push_to_hub, write_folder
from muskie_jax.interop.single_stream import (
    convert_single_stream,
    parse_target,
    settings_of_network,
    split_source,
)
from muskie_jax.interop.stablehlo import PROGRAM_ENTRIES, write_stablehlo
from muskie_jax.interop.weights import STORED_TYPES, SUFFIXES, Weights, write_weights
from muskie_jax.interop.workdir import WORKDIR_ENTRIES, make_workdir
from muskie_jax.models.framewise import FAMILIES
from muskie_jax.models.muskie import DTYPES
from muskie_jax.storage.address import storage_path
from muskie_jax.storage.outputs import check_free as check_output
from muskie_jax.writers import log

_SOURCE = (
    f"{CHOICES}, a work directory, a checkpoint in it, a weights file or folder, or user/name on the hub"
)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, f"The weights to export: {_SOURCE}.")
_FROM = flags.DEFINE_string("from", None, f"Weights: {_SOURCE}. For push: an exported folder.")
_AS = flags.DEFINE_string(
    "as",
    None,
    f"Size of the Muskie that starts from a vision transformer of single images, such as muskie_base; "
    f"--from is then {' or '.join(f'{family}:FILE' for family in FAMILIES)}.",
)
_REPO = flags.DEFINE_string("repo", None, "Repository on the Hugging Face hub, as user/name.")
_PRIVATE = flags.DEFINE_bool("private", False, "Make the repository private, if it does not exist yet.")
_NUM_HEADS = flags.DEFINE_integer(
    "num_heads",
    None,
    "Number of attention heads; needed if the file does not store it and its size matches no variant.",
    lower_bound=1,
)
_BACKBONE_ONLY = flags.DEFINE_bool("backbone_only", False, "Leave out everything but the backbone.")
flags.DEFINE_alias("backbone-only", "backbone_only")
_FORCE = flags.DEFINE_bool("force", False, "Replace an existing output.")
_LICENCE = flags.DEFINE_string(
    "licence", None, "Licence of the weights, for the model card, such as cc-by-nc-4.0."
)
_VIEWS = flags.DEFINE_integer("views", 4, "Views per group.", lower_bound=1)
_SIZE = flags.DEFINE_string("size", "224", "Image size in pixels: 224, or 384x512 for height x width.")
_OUTPUT = flags.DEFINE_enum(
    "output", "features", ["features", "reconstruction"], "What the program computes."
)
_DTYPE = flags.DEFINE_string(
    "dtype",
    "float32",
    f"Type of stored numbers for export ({' or '.join(STORED_TYPES)}), of matrix products for stablehlo "
    f"({' or '.join(DTYPES)}).",
)

EXAMPLE = "runs/quickstart"
ROOT = pathlib.Path(__file__).parents[2]
# Suffixes of unsupported file formats. A user who writes one of them does not mean a folder.
OTHER_FILES = (".bin", ".ckpt", ".h5", ".json", ".msgpack", ".npy", ".npz", ".onnx", ".pkl", ".tar", ".zip")


def run_export(arguments: list[str]) -> dict[str, Any]:
    """Writes weights to a .safetensors or .pth file, or to a folder for the Hugging Face hub."""
    del arguments
    one_of(_DTYPE.value, STORED_TYPES, "--dtype")
    out = storage_path(_required(OUT))
    if out.suffix in OTHER_FILES:
        raise UserError(
            f"--out={out} is not a supported file: choose a folder, or a name that ends with .safetensors "
            "or .pth"
        )
    is_file = out.suffix in SUFFIXES
    if is_file and _LICENCE.value:
        raise UserError(
            "--licence is for the model card of a folder: choose an --out without .safetensors or .pth"
        )
    check_output(out, _FORCE.value, None if is_file else ENTRIES)
    weights = open_weights(_required(_CHECKPOINT), _NUM_HEADS.value, with_decoder=True)
    if _BACKBONE_ONLY.value:
        weights = weights.backbone()
    if is_file:
        metadata = write_weights(out, weights, _FORCE.value, _DTYPE.value)
    else:
        metadata = write_folder(out, weights, _LICENCE.value, _FORCE.value, _DTYPE.value)
    return _summary("export", metadata, out)


def run_import(arguments: list[str]) -> dict[str, Any]:
    """Makes a work directory from weights, to continue training from them or to evaluate them."""
    del arguments
    workdir = user_path(_required(OUT))
    check_free(workdir, _FORCE.value, WORKDIR_ENTRIES)
    weights = _weights_to_import(_required(_FROM))
    make_workdir(workdir, weights, CONFIG.value, _FORCE.value)
    variant = weights.network.variant
    config_file = ROOT / "configs" / f"muskie_{variant}.py"
    if config_file.is_file():
        config = f"configs/{config_file.name}"
    else:
        config = f"<a config> --config.model.variant={variant}"
    flags_of_network = settings_of_network(weights.network)
    more = f" {flags_of_network}" if flags_of_network else ""
    log(f"To continue training: python -m muskie_jax.main --config {config}{more} --workdir {workdir}")
    metadata = weights.metadata()
    metadata.pop("step", None)  # of the earlier training run; this one starts at step 0
    return _summary("import", metadata, workdir)


def _weights_to_import(source: str) -> Weights:
    """Returns the weights of `--from`; those of a single-stream network become a Muskie of size `--as`."""
    single_stream = split_source(source)
    if single_stream is None:
        if _AS.value is not None:
            families = " or ".join(f"{family}:..." for family in FAMILIES)
            raise UserError(f"--as is for --from {families}: leave it out for weights of a Muskie")
        return open_weights(source, _NUM_HEADS.value)
    if _AS.value is None:
        raise UserError(f"--from {source} needs the size of the Muskie: pass --as muskie_base, for example")
    family, path = single_stream
    conversion = convert_single_stream(family, path, parse_target(_AS.value), _NUM_HEADS.value)
    log(f"{path}: {conversion.note}")
    return conversion.weights


def run_push(arguments: list[str]) -> dict[str, Any]:
    """Uploads an exported folder to the Hugging Face hub."""
    del arguments
    repo = _required(_REPO)
    commit = push_to_hub(_required(_FROM), repo, private=_PRIVATE.value)
    return {"job": "push", "repo": repo, "commit": commit}


def run_stablehlo(arguments: list[str]) -> dict[str, Any]:
    """Writes a folder with a program for CPUs, GPUs and TPUs, its weights, and a script that loads it."""
    del arguments
    one_of(_DTYPE.value, DTYPES, "--dtype")
    return _write_program("stablehlo", write_stablehlo, PROGRAM_ENTRIES, dtype=_DTYPE.value)


def run_onnx(arguments: list[str]) -> dict[str, Any]:
    """Writes a program for ONNX runtimes."""
    del arguments
    out = _required(OUT)
    if not out.endswith(".onnx"):
        raise UserError(f"--out={out} must end with .onnx")
    return _write_program("onnx", write_onnx, None)


def _write_program(
    job: str, write: Callable[..., None], entries: tuple[str, ...] | None, **options: Any
) -> dict[str, Any]:
    out, size = user_path(_required(OUT)), parse_size(_SIZE.value)
    check_free(out, _FORCE.value, entries)
    weights = open_weights(_required(_CHECKPOINT), _NUM_HEADS.value)
    check_size(size, weights.network.patch)
    if _OUTPUT.value == "reconstruction" and weights.backbone_only:
        raise UserError(f"{_CHECKPOINT.value} has no reconstruction head: pass --output features")
    write(out, weights, _VIEWS.value, size, _OUTPUT.value, force=_FORCE.value, **options)
    return _summary(job, weights.metadata(), out)


def parse_size(text: str) -> tuple[int, int]:
    """Parses "224" or "384x512" into (height, width).

    Raises:
      UserError: if the text has neither form.
    """
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if not match:
        raise UserError(f"--size={text} must be pixels, such as 224, or 384x512 for height x width")
    height, width = match[1], match[2] or match[1]
    return int(height), int(width)


def check_size(size: tuple[int, int], patch: int) -> None:
    """Raises UserError unless both sides are multiples of the patch size."""
    nearest = nearest_sizes(size, patch)
    if nearest != (size,):
        height, width = size
        choices = " or ".join(f"{h}x{w}" for h, w in nearest)
        raise UserError(
            f"--size: {height}x{width} is not divisible by the patch size {patch}: use {choices}"
        )


def _required(flag: flags.FlagHolder[str | None]) -> str:
    """Returns the value of a flag listed in `Command.needed`, which the parser requires."""
    assert flag.value is not None
    return flag.value


def _summary(job: str, metadata: dict[str, Any], out: pathlib.Path) -> dict[str, Any]:
    shown = ("variant", "backbone_only", "step", "params_digest")
    return {"job": job} | {name: metadata[name] for name in shown if name in metadata} | {"out": str(out)}


_PROGRAM_FLAGS = ("views", "size", "output", "num_heads", "force")
EXPORT = Command(
    run_export,
    {"checkpoint": EXAMPLE, "out": "muskie.safetensors"},
    ("backbone_only", "backbone-only", "num_heads", "licence", "dtype", "force"),
)
IMPORT = Command(
    run_import, {"from": "muskie-base.pth", "out": "runs/imported"}, ("as", "config", "num_heads", "force")
)
PUSH = Command(run_push, {"from": "exported", "repo": "user/name"}, ("private",))
STABLEHLO = Command(
    run_stablehlo, {"checkpoint": EXAMPLE, "out": "muskie_program"}, (*_PROGRAM_FLAGS, "dtype")
)
ONNX = Command(run_onnx, {"checkpoint": EXAMPLE, "out": "muskie.onnx"}, _PROGRAM_FLAGS)
