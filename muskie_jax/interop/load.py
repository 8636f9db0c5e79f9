"""Weights from wherever they are: work directories, checkpoints, files, folders, the Hugging Face hub."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from muskie_jax.checkpoint import read_params
from muskie_jax.checks import one_of
from muskie_jax.errors import UserError
from muskie_jax.interop.description import metrics_of, plain, shareable
from muskie_jax.interop.hub import WEIGHTS, download
from muskie_jax.interop.names import Network, check_heads, check_params
from muskie_jax.interop.sources import CHECKPOINTS, SourceKind, identify_source
from muskie_jax.interop.weights import Weights, read_weights
from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import DTYPES, REMAT, Muskie, build_model
from muskie_jax.writers import log

ORIGIN = "imported.json"  # of a work directory made of weights: what they said of themselves
OPTIONS = ("remat", "scan_blocks")  # attributes of a network that change no parameter
TRIES = 10  # of listing checkpoints, when a training deletes them meanwhile


def load_pretrained(
    source: str | os.PathLike,
    *,
    num_heads: int | None = None,
    revision: str | None = None,
    filename: str | None = None,
    dtype: str = "float32",
    attention: str = "auto",
    **options: Any,
) -> tuple[Muskie, dict[str, Any]]:
    """A network and its parameters.

        model, params = load_pretrained("runs/quickstart")
        output = model.apply({"params": params}, images, mask)  # images (B, V, H, W, 3) in [-1, 1]
        tokens = model.apply({"params": params}, images, method="features")  # of every block

    Args:
      source: a work directory (its newest intact checkpoint), one checkpoint in it (`runs/x/5000` or
        `runs/x/checkpoints/5000`), a `.safetensors` or `.pth` file (ours or published), a folder made by
        `save_pretrained`, or a repository of the Hugging Face hub (`user/name`).
      num_heads: for files without a description whose size is that of no known network; or to override.
      revision, filename: of a repository, the branch, tag or commit, and the file.
      dtype: of matrix products: "float32", or "bfloat16", faster on GPUs and TPUs.
      attention: see `muskie_jax.models.attention.Attention`.
      options: `remat` and `scan_blocks`, see `Muskie`.

    Returns:
      The model and its parameters, float32, on the default device. Parameters of a file without the
      reconstruction head are those of `features` only.

    Raises:
      UserError: one line, if there are no weights, or they are damaged or of something else.
    """
    weights = open_weights(source, num_heads, revision, filename)
    model = model_of(weights.network, dtype, attention, **options)
    return model, jax.device_put(weights.params)


def model_of(network: Network, dtype: Any = "float32", attention: str = "auto", **options: Any) -> Muskie:
    """The module of a network; for arguments and errors see `load_pretrained`."""
    dtype, kernel = checked_choices(dtype, attention)
    for name in options:
        one_of(name, OPTIONS, "load_pretrained")
    one_of(options.get("remat", "none"), REMAT, "remat")
    return Muskie(**dataclasses.asdict(network), dtype=dtype, attention=kernel, **options)


def checked_choices(dtype: Any, attention: str) -> tuple[Any, Attention]:
    """The type of matrix products and the kernel; for arguments and errors see `load_pretrained`."""
    with contextlib.suppress(TypeError):  # of what is no type: the message below names it
        dtype = jax.numpy.dtype(dtype)
    one_of(getattr(dtype, "name", dtype), DTYPES, "dtype")
    try:
        return dtype, Attention(attention)
    except ValueError as error:
        raise UserError(str(error)) from error


def open_weights(
    source: str | os.PathLike,
    num_heads: int | None = None,
    revision: str | None = None,
    filename: str | None = None,
) -> Weights:
    """Reads weights and their metadata into host memory; for arguments and errors see `load_pretrained`."""
    found = identify_source(source)
    if found.is_local and (revision or filename):
        raise UserError(
            f"{found.path} is here, and revision= and filename= are for repositories of the hub"
        )
    match found.kind:
        case SourceKind.WORKDIR:
            return _newest_intact(found.path / CHECKPOINTS, num_heads)
        case SourceKind.CHECKPOINT:
            return _of_checkpoint(found.path, num_heads)
        case SourceKind.FILE | SourceKind.EXPORT:
            return read_weights(found.path, num_heads)
        case SourceKind.REPOSITORY:
            log(f"Looking for {source} on the Hugging Face hub")
            return read_weights(download(str(source), revision, filename), num_heads)
        case SourceKind.NO_WEIGHTS:
            raise UserError(
                f"{found.path} is neither a work directory nor a checkpoint, and has no {WEIGHTS}"
            )
    raise UserError(
        f"there is no {str(found.path)!r}: write a work directory, a checkpoint, a file of weights, or "
        "user/name of the hub"
    )


def _newest_intact(checkpoints: pathlib.Path, num_heads: int | None) -> Weights:
    damaged: dict[pathlib.Path, UserError] = {}
    vanished = 0
    while vanished < TRIES:
        steps = [path for path in checkpoints.iterdir() if path.name.isdigit() and path not in damaged]
        if not steps:
            break
        newest = max(steps, key=lambda path: int(path.name))
        try:
            return _of_checkpoint(newest, num_heads)
        except UserError as error:
            if not newest.is_dir():
                vanished += 1  # a training that goes on has deleted it, and has a newer one
                continue
            log(f"{error}; taking the one before")
            damaged[newest] = error
    if not damaged and not vanished:
        raise UserError(f"{checkpoints} has no checkpoint yet")
    reason = next(iter(damaged.values()), "they change too fast to be read")
    raise UserError(f"{checkpoints} has no intact checkpoint; of the newest: {reason}")


def _of_checkpoint(folder: pathlib.Path, num_heads: int | None) -> Weights:
    params, step, config = read_params(folder)
    network = network_of_config(config["model"])
    if num_heads is not None:
        check_heads(network.width, num_heads)
        network = dataclasses.replace(network, heads=num_heads)
    check_params(params, network)
    workdir = folder.absolute().parent.parent
    about = {"origin": _origin(workdir)}
    if step > 0:  # else it was imported, and its config is that of a training to come
        about |= {"step": step, "training": shareable(config), "metrics": metrics_of(workdir, step)}
    return Weights(
        network, params, {name: value for name, value in about.items() if value not in (None, {})}
    )


def _origin(workdir: pathlib.Path) -> dict[str, Any] | None:
    """What the weights said of themselves that a work directory was made of, if it was."""
    try:
        return plain(json.loads((workdir / ORIGIN).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{workdir / ORIGIN} cannot be read: {error}") from error


def network_of_config(model: Mapping[str, Any]) -> Network:
    """The network of a config's section `model`.

    Raises:
      UserError: if this code has no such variant.
    """
    sizes = ("patch", "registers", "view_embed", "max_views")
    try:
        return Network.of(build_model(model["variant"], **{name: model[name] for name in sizes}))
    except ValueError as error:
        raise UserError(f"config.model.{error}") from error
