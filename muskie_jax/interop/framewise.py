"""Networks that see each image on its own, with their published weights; see `framewise_names`."""

import dataclasses
import math
import os
import pathlib
import re
from typing import Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from muskie_jax.checks import one_of
from muskie_jax.errors import UserError
from muskie_jax.files import user_path
from muskie_jax.interop.framewise_names import (
    IGNORED,
    NAMINGS,
    PERIODS,
    FramewiseParameter,
    Naming,
    numbers_of_blocks,
    parameters,
)
from muskie_jax.interop.hub import WEIGHTS, download, names_repository
from muskie_jax.interop.load import checked_choices
from muskie_jax.interop.names import WIDENED, check_heads, check_tensors, widened
from muskie_jax.interop.weights import SUFFIXES, read_tensors
from muskie_jax.models.framewise import FAMILIES, Framewise, Settings
from muskie_jax.writers import log

READABLE = (*SUFFIXES, ".bin")  # the last is what `transformers` called PyTorch's files: MAE's are such
# Heads, which no shape tells, by kind and width, where they have not 64 channels: MAE's ViT-H, DINOv3's 7B.
HEADS = {("mae", 1280): 16, ("dinov3", 4096): 32}
CHANNELS_OF_A_HEAD = 64
TYPES = (*WIDENED, "float32")


def load_framewise(
    kind: str,
    source: str | os.PathLike,
    *,
    num_heads: int | None = None,
    revision: str | None = None,
    filename: str | None = None,
    dtype: str = "float32",
    attention: str = "auto",
) -> tuple[Framewise, dict[str, Any]]:
    """A network and its parameters.

        model, params = load_framewise("dinov2", "facebook/dinov2-base")
        # images (N, H, W, 3) in [-1, 1] -> of every layer (N, L, d)
        tokens = model.apply({"params": params}, images, method="features")

    Args:
      kind: "mae", "dinov2" (with registers or without), "dinov3" (the vision transformers, trained on
        photographs) or "crocov2" (its encoder).
      source: a `.safetensors`, `.pth`, `.pt` or `.bin` file, as published by the authors or for
        `transformers`; a folder with `model.safetensors`; or a repository of the Hugging Face hub
        (`user/name`).
      num_heads: for networks of other widths than the published ones; or to override.
      revision, filename: of a repository, the branch, tag or commit, and the file.
      dtype: of matrix products: "float32", or "bfloat16", faster on GPUs and TPUs.
      attention: see `muskie_jax.models.attention.Attention`.

    Returns:
      The model and its parameters, float32, on the default device.

    Raises:
      UserError: one line, if there are no weights, or they are damaged or of something else.
    """
    one_of(kind, FAMILIES, "kind")
    dtype, kernel = checked_choices(dtype, attention)
    path = _file(source, revision, filename)
    settings, params = read_framewise(kind, path, num_heads)
    return Framewise(settings, dtype, kernel), jax.device_put(params)


def _file(source: str | os.PathLike, revision: str | None, filename: str | None) -> pathlib.Path:
    path = user_path(source)
    if path.is_dir() and (path / WEIGHTS).is_file():
        path = path / WEIGHTS
    if os.path.lexists(path):
        if revision or filename:
            raise UserError(f"{path} is here, and revision= and filename= are for repositories of the hub")
        if not path.is_file() or path.suffix not in READABLE:
            raise UserError(f"{path} is no file of weights: write one that ends with {', '.join(READABLE)}")
        return path
    if not names_repository(source, READABLE):
        raise UserError(f"there is no {str(path)!r}: write a file of weights, or user/name of the hub")
    log(f"Looking for {source} on the Hugging Face hub")
    return download(str(source), revision, filename, READABLE)


def read_framewise(
    kind: str, path: pathlib.Path, num_heads: int | None = None
) -> tuple[Settings, dict[str, Any]]:
    """Settings and parameters, float32 numpy arrays, of a file; for arguments and errors see above."""
    try:
        # `transformers` puts this before the names of MAE's encoder where there is a decoder too.
        tensors = {name.removeprefix("vit."): x for name, x in read_tensors(path)[0].items()}
        reading = _fitting(kind, tensors)
        wanted = {p.name: p.shape for p in reading.table if p.name is not None}
        title = FAMILIES[kind].title
        check_tensors(wanted, reading.tensors, f"the weights, read as {title},", TYPES)
        settings = _with_heads(reading, num_heads)
        return settings, _params(reading, settings.heads)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


class _Reading(NamedTuple):
    """Tensors, read under somebody's names.

    Attributes:
      settings: of the network, its heads aside.
      tensors: those that are parameters.
      table: which parameters there should be.
      periods: of DINOv3's rotations, if a file has them.
    """

    settings: Settings
    tensors: dict[str, np.ndarray]
    table: list[FramewiseParameter]
    periods: np.ndarray | None

    @property
    def misfits(self) -> int:
        """How many tensors are missing or unknown."""
        return len({p.name for p in self.table if p.name is not None} ^ self.tensors.keys())


def _fitting(kind: str, tensors: dict[str, np.ndarray]) -> _Reading:
    """The reading that fits best."""
    readings = [_read(naming, tensors) for naming in NAMINGS]
    best = min((r for r in readings if r.settings.kind == kind), key=lambda r: r.misfits)
    if best.misfits:
        if "mask_placeholder" in tensors:
            raise UserError(f"these are weights of Muskie, not of {FAMILIES[kind].title}")
        for other in readings:
            if not other.misfits:
                theirs, title = other.settings.kind, FAMILIES[kind].title
                raise UserError(
                    f"these are weights of {FAMILIES[theirs].title}, not of {title}: say {theirs!r}"
                )
    return best


def _read(naming: Naming, tensors: dict[str, np.ndarray]) -> _Reading:
    kept = {name: x for name, x in tensors.items() if not re.fullmatch(IGNORED[naming.kind], name)}
    periods = None
    if naming.kind == "dinov3":
        periods = kept.pop(PERIODS, None)
        _apply_masks(kept)

    def size(name: str | None, axis: int) -> int:
        return kept[name].shape[axis] if name in kept and kept[name].ndim > axis else 0

    whole, first_block = naming.whole, naming.prefix.format(i=0)
    patches = f"{whole['patch_embed']}.weight"
    settings = Settings(
        kind=naming.kind,
        width=size(patches, 0),
        depth=max(1, len(numbers_of_blocks(naming, kept))),
        heads=0,
        patch=size(patches, 2),
        hidden=size(f"{first_block}{naming.block['mlp/fc2']}.weight", 1),
        gated=naming.gated,
        registers=size(whole.get("registers"), 1),
        table=math.isqrt(max(0, size(whole.get("positions"), 1) - 1)),
    )
    return _Reading(settings, kept, parameters(naming, settings, kept), periods)


def _apply_masks(tensors: dict[str, np.ndarray]) -> None:
    """Multiplies biases by what DINOv3's own files have for it: 0 for those of keys, which it has not."""
    for name in [name for name in tensors if name.endswith(".qkv.bias_mask")]:
        bias = name.removesuffix("_mask")
        if bias in tensors and tensors[bias].shape == tensors[name].shape:
            tensors[bias] = widened(tensors[bias]) * widened(tensors.pop(name))


def _with_heads(reading: _Reading, num_heads: int | None) -> Settings:
    """The settings with the number of heads, and what depends on it.

    Raises:
      UserError: if it is not known, or does not fit.
    """
    width, kind = reading.settings.width, reading.settings.kind
    if num_heads is None:
        num_heads = HEADS.get((kind, width), width / CHANNELS_OF_A_HEAD)
        if num_heads != int(num_heads):
            title = FAMILIES[kind].title
            raise UserError(f"no {title} has width {width}: say how many heads this one has (num_heads=)")
        num_heads = int(num_heads)
    check_heads(width, num_heads)
    frequencies = None
    if reading.periods is not None:
        wanted, found = {PERIODS: (width // num_heads // 4,)}, {PERIODS: reading.periods}
        check_tensors(wanted, found, "the rotations", TYPES)
        if not (reading.periods > 0).all():
            raise UserError(f"{PERIODS} are not all positive")
        frequencies = tuple(float(1 / x) for x in reading.periods.astype(np.float64))
    return dataclasses.replace(reading.settings, heads=num_heads, frequencies=frequencies)


def _params(reading: _Reading, heads: int) -> dict[str, Any]:
    """Our tree of parameters.

    Raises:
      UserError: if a number is not finite.
    """
    flat: dict[tuple[str, ...], list[np.ndarray]] = {}
    for p in reading.table:
        array = np.zeros(p.shape, np.float32) if p.name is None else widened(reading.tensors[p.name])
        if not np.isfinite(array).all():
            raise UserError(f"{p.name} holds numbers that are not finite")
        flat.setdefault(p.path, []).append(p.to_jax(array))
    joined = {path: np.concatenate(parts, axis=-1) for path, parts in flat.items()}
    if reading.settings.kind == "dinov3":
        joined = {path: _paired(x, heads) if "qkv" in path else x for path, x in joined.items()}
    return unflatten_dict(joined)


def _paired(qkv: np.ndarray, heads: int) -> np.ndarray:
    """Outputs (..., 3d) with the channels of queries and keys in the order in which ours are rotated.

    A head of DINOv3 has rows and columns in each half of its channels, and pairs one half with the other;
    ours has rows in one half and columns in the other (`muskie_jax.models.rope`). Attention does not ask
    for the order.
    """
    x = qkv.reshape(*qkv.shape[:-1], 3, heads, 2, 2, -1)
    rotated, values = np.split(x, [2], axis=-5)
    return np.concatenate([rotated.swapaxes(-3, -2), values], axis=-5).reshape(qkv.shape)
