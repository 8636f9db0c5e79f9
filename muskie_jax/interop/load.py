"""Weights from wherever they are: work directories, checkpoints, files, folders, the Hugging Face hub."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax

from muskie_jax.checkpoint import read_params
from muskie_jax.errors import UserError
from muskie_jax.interop.hub import WEIGHTS, download
from muskie_jax.interop.model_card import metrics_of, shareable
from muskie_jax.interop.names import Network, check_heads, to_torch
from muskie_jax.interop.weights import SUFFIXES, Weights, read_weights
from muskie_jax.models.attention import Attention
from muskie_jax.models.muskie import DTYPES, Muskie, build_model
from muskie_jax.writers import say

REPO = re.compile(r"[\w.-]+/[\w.-]+")


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
      attention, options: further attributes of `Muskie`, such as `scan_blocks=True`.

    Returns:
      The model and its parameters, float32, on the default device. Parameters of a file without the
      reconstruction head are those of `features` only.

    Raises:
      UserError: one line, if there are no weights, or they are damaged or of something else.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype!r}: write one of {', '.join(DTYPES)}")
    weights = open_weights(source, num_heads, revision, filename)
    model = model_of(weights.network, dtype=dtype, attention=Attention(attention), **options)
    return model, jax.device_put(weights.params)


def model_of(network: Network, *, dtype: str = "float32", **options: Any) -> Muskie:
    """The module of a network; `options` are attributes that change no parameter."""
    sizes = {name: getattr(network, name) for name in network.__dataclass_fields__}
    return Muskie(**sizes, dtype=jax.numpy.dtype(dtype), **options)


def open_weights(
    source: str | os.PathLike,
    num_heads: int | None = None,
    revision: str | None = None,
    filename: str | None = None,
) -> Weights:
    """Weights and what is known of them, in memory; for arguments and errors see `load_pretrained`."""
    path = pathlib.Path(source).expanduser()
    step = path.parent / "checkpoints" / path.name
    if path.is_file():
        return read_weights(path, num_heads)
    if (path / "checkpoints").is_dir():
        return _newest_intact(path / "checkpoints", num_heads)
    if path.name == "checkpoints" and path.is_dir():
        return _newest_intact(path, num_heads)
    if (path / "meta").is_dir():
        return _of_checkpoint(path, num_heads)
    if step.is_dir():
        return _of_checkpoint(step, num_heads)
    if (path / WEIGHTS).is_file():
        return read_weights(path / WEIGHTS, num_heads)
    if path.is_dir():
        raise UserError(f"{path} is neither a work directory nor a checkpoint, and has no {WEIGHTS}")
    if path.suffix in SUFFIXES or not REPO.fullmatch(str(source)):
        raise UserError(
            f"there is no {path}: write a work directory, a checkpoint, a file of weights, or user/name"
        )
    return read_weights(download(str(source), revision, filename), num_heads)


def _newest_intact(checkpoints: pathlib.Path, num_heads: int | None) -> Weights:
    steps = [path for path in checkpoints.iterdir() if path.name.isdigit()]
    if not steps:
        raise UserError(f"{checkpoints} has no checkpoint yet")
    errors = []
    for folder in sorted(steps, key=lambda path: int(path.name), reverse=True):
        try:
            return _of_checkpoint(folder, num_heads)
        except UserError as error:
            say(f"{error}; taking the one before")
            errors.append(error)
    raise UserError(f"{checkpoints} has no intact checkpoint; of the newest: {errors[0]}")


def _of_checkpoint(folder: pathlib.Path, num_heads: int | None) -> Weights:
    params, step, config = read_params(folder)
    network = network_of_config(config["model"])
    if num_heads is not None:
        check_heads(network.width, num_heads)
        network = dataclasses.replace(network, heads=num_heads)
    to_torch(params, network)  # checks names and shapes
    if step == 0:  # imported: its config is that of a training to come
        return Weights(network, params)
    about = {"step": step, "training": shareable(config)}
    metrics = metrics_of(folder.parent.parent, step)
    return Weights(network, params, about | ({"metrics": metrics} if metrics else {}))


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
