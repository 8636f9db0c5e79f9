"""The commands of `python -m muskie_jax.interop`."""

import pathlib
import re
from collections.abc import Callable
from typing import Any

from absl import flags

from muskie_jax.checks import nearest_size
from muskie_jax.command_line import CONFIG, OUT, Command
from muskie_jax.errors import UserError
from muskie_jax.files import check_free, user_path
from muskie_jax.interop.load import open_weights
from muskie_jax.interop.onnx_program import write_onnx
from muskie_jax.interop.save import ENTRIES, push_to_hub, write_folder
from muskie_jax.interop.stablehlo import PROGRAM_ENTRIES, write_stablehlo
from muskie_jax.interop.weights import SUFFIXES, write_weights
from muskie_jax.interop.workdir import WORKDIR_ENTRIES, make_workdir
from muskie_jax.models.muskie import DTYPES
from muskie_jax.writers import log

_SOURCE = "a work directory, a checkpoint in it, a file or folder of weights, or user/name on the hub"
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, f"What to export: {_SOURCE}.")
_FROM = flags.DEFINE_string("from", None, f"Weights: {_SOURCE}.")
_REPO = flags.DEFINE_string("repo", None, "user/name on the Hugging Face hub.")
_PRIVATE = flags.DEFINE_bool("private", False, "If the repository is made, for its owner's eyes only.")
_NUM_HEADS = flags.DEFINE_integer(
    "num_heads", None, "Of files that do not say, if their size is that of no known network.", lower_bound=1
)
_BACKBONE_ONLY = flags.DEFINE_bool("backbone_only", False, "Leave the reconstruction head out.")
flags.DEFINE_alias("backbone-only", "backbone_only")
_FORCE = flags.DEFINE_bool("force", False, "Replace what is there.")
_LICENCE = flags.DEFINE_string("licence", None, "Of the weights, for the card, such as cc-by-nc-4.0.")
_VIEWS = flags.DEFINE_integer("views", 4, "Views of a group.", lower_bound=1)
_SIZE = flags.DEFINE_string("size", "224", "Of the images, pixels: 224, or 384x512 for height x width.")
_OUTPUT = flags.DEFINE_enum(
    "output", "features", ["features", "reconstruction"], "What the program computes."
)
_DTYPE = flags.DEFINE_enum("dtype", "float32", DTYPES, "Of matrix products.")

EXAMPLE = "runs/quickstart"
ROOT = pathlib.Path(__file__).parents[2]
# Suffixes of files that weights are not written as: a folder of such a name is not what is meant.
OTHER_FILES = (".bin", ".ckpt", ".h5", ".json", ".msgpack", ".npy", ".npz", ".onnx", ".pkl", ".tar", ".zip")


def run_export(arguments: list[str]) -> dict[str, Any]:
    """Writes weights as .safetensors or .pth, or as a folder for the Hugging Face hub."""
    del arguments
    out = user_path(OUT.value)
    if out.suffix in OTHER_FILES:
        raise UserError(f"--out={out}: write a name that ends with .safetensors or .pth, or a folder's")
    is_file = out.suffix in SUFFIXES
    if is_file and _LICENCE.value:
        raise UserError("--licence is for the card of a folder: write --out without .safetensors or .pth")
    check_free(out, _FORCE.value, None if is_file else ENTRIES)
    weights = open_weights(_CHECKPOINT.value, _NUM_HEADS.value)
    if _BACKBONE_ONLY.value:
        weights = weights.backbone()
    if is_file:
        described = write_weights(out, weights, _FORCE.value)
    else:
        described = write_folder(out, weights, _LICENCE.value, _FORCE.value)
    return _summary("export", described, out)


def run_import(arguments: list[str]) -> dict[str, Any]:
    """Makes a work directory of weights, to train on from them, or to evaluate them."""
    del arguments
    workdir = user_path(OUT.value)
    check_free(workdir, _FORCE.value, WORKDIR_ENTRIES)
    weights = open_weights(_FROM.value, _NUM_HEADS.value)
    make_workdir(workdir, weights, CONFIG.value, _FORCE.value)
    variant = weights.network.variant
    own = ROOT / "configs" / f"muskie_{variant}.py"
    config = f"configs/{own.name}" if own.is_file() else f"<a config> --config.model.variant={variant}"
    log(f"Trains on with: python -m muskie_jax.main --config {config} --workdir {workdir}")
    described = weights.described()
    described.pop("step", None)  # of the training before: this is step 0 of one to come
    return _summary("import", described, workdir)


def run_push(arguments: list[str]) -> dict[str, Any]:
    """Uploads a folder of export to the Hugging Face hub."""
    del arguments
    commit = push_to_hub(_FROM.value, _REPO.value, private=_PRIVATE.value)
    return {"job": "push", "repo": _REPO.value, "commit": commit}


def run_stablehlo(arguments: list[str]) -> dict[str, Any]:
    """Writes a folder with a program for CPUs, GPUs and TPUs, its weights, and what runs it."""
    del arguments
    return _write_program("stablehlo", write_stablehlo, PROGRAM_ENTRIES, dtype=_DTYPE.value)


def run_onnx(arguments: list[str]) -> dict[str, Any]:
    """Writes a program for ONNX runtimes."""
    del arguments
    if not OUT.value.endswith(".onnx"):
        raise UserError(f"--out={OUT.value}: write a name that ends with .onnx")
    return _write_program("onnx", write_onnx, None)


def _write_program(
    job: str, write: Callable[..., None], entries: tuple[str, ...] | None, **options: Any
) -> dict[str, Any]:
    out, size = user_path(OUT.value), parse_size(_SIZE.value)
    check_free(out, _FORCE.value, entries)
    weights = open_weights(_CHECKPOINT.value, _NUM_HEADS.value)
    check_size(size, weights.network.patch)
    if _OUTPUT.value == "reconstruction" and weights.backbone_only:
        raise UserError(f"{_CHECKPOINT.value} has no reconstruction head: write --output features")
    write(out, weights, _VIEWS.value, size, _OUTPUT.value, force=_FORCE.value, **options)
    return _summary(job, weights.described(), out)


def parse_size(text: str) -> tuple[int, int]:
    """ "224" or "384x512" -> (height, width).

    Raises:
      UserError: if it is neither.
    """
    match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", text)
    if not match:
        raise UserError(f"--size={text}: write pixels, as in 224, or 384x512 for height x width")
    height, width = match[1], match[2] or match[1]
    return int(height), int(width)


def check_size(size: tuple[int, int], patch: int) -> None:
    """Raises UserError for an image size that cannot be cut into patches."""
    nearest = nearest_size(size, patch)
    if nearest != size:
        said = "x".join(map(str, nearest))
        raise UserError(f"--size: sides must be multiples of the patch size {patch}: write {said}")


def _summary(job: str, described: dict[str, Any], out: pathlib.Path) -> dict[str, Any]:
    told = ("variant", "backbone_only", "step", "params_digest")
    return {"job": job} | {name: described[name] for name in told if name in described} | {"out": str(out)}


_PROGRAM_FLAGS = ("views", "size", "output", "num_heads", "force")
EXPORT = Command(
    run_export,
    {"checkpoint": EXAMPLE, "out": "muskie.safetensors"},
    ("backbone_only", "backbone-only", "num_heads", "licence", "force"),
)
IMPORT = Command(
    run_import, {"from": "muskie-base.pth", "out": "runs/imported"}, ("config", "num_heads", "force")
)
PUSH = Command(run_push, {"from": "exported", "repo": "user/name"}, ("private",))
STABLEHLO = Command(
    run_stablehlo, {"checkpoint": EXAMPLE, "out": "muskie_program"}, (*_PROGRAM_FLAGS, "dtype")
)
ONNX = Command(run_onnx, {"checkpoint": EXAMPLE, "out": "muskie.onnx"}, _PROGRAM_FLAGS)
