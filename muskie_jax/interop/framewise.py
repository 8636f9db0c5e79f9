"""Loads published weights of framewise networks, which process each image separately.

`muskie_jax.interop.framewise_names` has the tables of published names.
"""

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
    ANCHORS,
    HEADS,
    IGNORED,
    NAMINGS,
    PERIODS,
    FramewiseParameter,
    Naming,
    block_indices,
    parameters,
)
from muskie_jax.interop.hub import WEIGHTS, download, names_repository
from muskie_jax.interop.load import parse_compute_options
from muskie_jax.interop.names import READABLE_TYPES, check_heads, check_tensors, to_float32
from muskie_jax.interop.prefixes import network_tensors
from muskie_jax.interop.weights import INPUT_SUFFIXES, log_reading, read_tensors
from muskie_jax.models.framewise import FAMILIES, Framewise, Settings
from muskie_jax.writers import log

READABLE = (*INPUT_SUFFIXES, ".bin")  # `transformers` once named PyTorch files .bin; MAE's still is
# Head counts of networks whose heads do not have 64 channels, by kind and width: MAE ViT-H, DINOv3 7B.
HEAD_COUNTS = {("mae", 1280): 16, ("dinov3", 4096): 32}
CHANNELS_PER_HEAD = 64


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
    """Loads a framewise network and its parameters.

        model, params = load_framewise("dinov2", "facebook/dinov2-base")
        # images (N, H, W, 3) in [-1, 1] -> one (N, L, d) array of tokens per layer
        tokens = model.apply({"params": params}, images, method="features")

    Args:
      kind: "mae", "dinov2" (with or without registers), "dinov3" (the vision transformers trained on
        photographs) or "crocov2" (its encoder).
      source: a `.safetensors`, `.pth`, `.pt`, `.ckpt` or `.bin` file, with the names of the authors,
        `transformers` or timm; a folder with `model.safetensors`; or a repository of the Hugging Face hub
        (`user/name`). Prefixes of names, such as `vit.`, are removed, and heads are left out.
      num_heads: overrides the number of heads; needed for widths other than the published ones.
      revision, filename: branch, tag or commit of a repository, and the file in it.
      dtype: type of matrix products: "float32", or "bfloat16", which is faster on GPUs and TPUs.
      attention: see `muskie_jax.models.attention.Attention`.

    Returns:
      The model and its parameters, float32, on the default device.

    Raises:
      UserError: if the source has no weights, or they are damaged or belong to another network; one line.
    """
    one_of(kind, FAMILIES, "kind")
    product_dtype, kernel = parse_compute_options(dtype, attention)
    settings, params = open_framewise(kind, source, num_heads, revision, filename)
    return Framewise(settings, product_dtype, kernel), jax.device_put(params)


def open_framewise(
    kind: str,
    source: str | os.PathLike,
    num_heads: int | None = None,
    revision: str | None = None,
    filename: str | None = None,
) -> tuple[Settings, dict[str, Any]]:
    """Returns settings and parameters, float32 numpy arrays; see `load_framewise`, also for errors."""
    return read_framewise(kind, _find_file(source, revision, filename), num_heads)


def _find_file(source: str | os.PathLike, revision: str | None, filename: str | None) -> pathlib.Path:
    path = user_path(source)
    if path.is_dir() and (path / WEIGHTS).is_file():
        path = path / WEIGHTS
    if os.path.lexists(path):
        if revision or filename:
            raise UserError(
                f"{path} is a local path: revision= and filename= are for hub repositories only"
            )
        if not path.is_file() or path.suffix not in READABLE:
            raise UserError(
                f"{path} is not a weights file: its name must end with one of {', '.join(READABLE)}"
            )
        return path
    if not names_repository(source, READABLE):
        raise UserError(f"{str(path)!r} does not exist: choose a weights file, or user/name on the hub")
    log(f"Looking for {source} on the Hugging Face hub")
    return download(str(source), revision, filename, READABLE)


def read_framewise(
    kind: str, path: pathlib.Path, num_heads: int | None = None
) -> tuple[Settings, dict[str, Any]]:
    """Reads settings and parameters, float32 numpy arrays, from a file.

    See `load_framewise` for arguments and errors.
    """
    try:
        tensors, prefix, outside = network_tensors(read_tensors(path)[0], ANCHORS)
        match = _best_match(kind, tensors)
        expected = {p.name: p.shape for p in match.table if p.name is not None}
        title = f"the weights, read as {FAMILIES[kind].title},"
        check_tensors(expected, match.tensors, title, READABLE_TYPES)
        settings = _with_heads(match, num_heads)
        params = _params(match, settings.heads)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    left_out = [name for name in outside if not _is_ignored(kind, name)]
    left_out += [prefix + name for name in tensors if _is_head(kind, name)]
    log_reading(path, prefix, left_out, match.tensors)
    return settings, params


def _is_ignored(kind: str, name: str) -> bool:
    """Returns whether a tensor is one that published files contain and the network does not use."""
    return re.fullmatch(IGNORED[kind], name) is not None


def _is_head(kind: str, name: str) -> bool:
    return re.fullmatch(HEADS, name) is not None and not _is_ignored(kind, name)


class _Match(NamedTuple):
    """The tensors of a file, interpreted under one naming scheme.

    Attributes:
      settings: settings of the network, without its number of heads.
      tensors: tensors that are parameters.
      table: parameters that a network with these settings has.
      class_position: see `Naming`.
      periods: periods of DINOv3's rotations, if the file has them.
    """

    settings: Settings
    tensors: dict[str, np.ndarray]
    table: list[FramewiseParameter]
    class_position: bool
    periods: np.ndarray | None

    @property
    def mismatches(self) -> int:
        """The number of missing and unknown tensors."""
        return len({p.name for p in self.table if p.name is not None} ^ self.tensors.keys())

    @property
    def wrong_shapes(self) -> int:
        """The number of tensors with an unexpected shape."""
        shapes = {name: x.shape for name, x in self.tensors.items()}
        return sum(p.name in shapes and shapes[p.name] != p.shape for p in self.table)


def _best_match(kind: str, tensors: dict[str, np.ndarray]) -> _Match:
    """Returns the match with the fewest mismatches, then wrong shapes, among a kind's naming schemes.

    Raises:
      UserError: if the tensors belong to Muskie or to another kind.
    """
    matches = [_match(naming, tensors) for naming in NAMINGS]
    of_kind = (m for m in matches if m.settings.kind == kind)
    best = min(of_kind, key=lambda m: (m.mismatches, m.wrong_shapes))
    if not best.mismatches:
        return best
    title = FAMILIES[kind].title
    if "mask_placeholder" in tensors:
        raise UserError(f"these are Muskie weights, not {title} weights")
    for other in matches:
        if not other.mismatches:
            actual = other.settings.kind
            raise UserError(
                f"these are {FAMILIES[actual].title} weights, not {title} weights: use {actual!r} as kind"
            )
    return best


def _match(naming: Naming, tensors: dict[str, np.ndarray]) -> _Match:
    """Infers the settings from shapes under one naming scheme; missing tensors count as size 0."""
    unused = lambda name: _is_ignored(naming.kind, name) or _is_head(naming.kind, name)
    kept = {name: x for name, x in tensors.items() if not unused(name)}
    periods = None
    if naming.kind == "dinov3":
        periods = kept.pop(PERIODS, None)
        _apply_bias_masks(kept)
        _join_biases(kept)

    def size(name: str | None, axis: int) -> int:
        return kept[name].shape[axis] if name in kept and kept[name].ndim > axis else 0

    shared, first_block = naming.shared, naming.prefix.format(i=0)
    patches = f"{shared['patch_embed']}.weight"
    settings = Settings(
        kind=naming.kind,
        width=size(patches, 0),
        depth=max(1, len(block_indices(naming, kept))),
        heads=0,
        patch=size(patches, 2),
        hidden=size(f"{first_block}{naming.block['mlp/fc2']}.weight", 1),
        gated=naming.gated,
        registers=size(shared.get("registers"), 1),
        table=math.isqrt(max(0, size(shared.get("positions"), 1) - naming.class_position)),
    )
    return _Match(settings, kept, parameters(naming, settings, kept), naming.class_position, periods)


def _apply_bias_masks(tensors: dict[str, np.ndarray]) -> None:
    """Multiplies each qkv bias by its mask, which files of DINOv3's repository contain.

    The mask is 0 for the biases of keys, which the network does not have.
    """
    for name in [name for name in tensors if name.endswith(".qkv.bias_mask")]:
        bias = name.removesuffix("_mask")
        if bias in tensors and tensors[bias].shape == tensors[name].shape:
            tensors[bias] = to_float32(tensors[bias]) * to_float32(tensors.pop(name))


def _join_biases(tensors: dict[str, np.ndarray]) -> None:
    """Joins timm's biases of queries and values to one of qkv; keys have none."""
    for name in [name for name in tensors if name.endswith(".attn.q_bias")]:
        start = name.removesuffix("q_bias")
        if f"{start}v_bias" in tensors:
            query, value = (to_float32(tensors.pop(f"{start}{part}_bias")) for part in "qv")
            tensors[f"{start}qkv.bias"] = np.concatenate([query, np.zeros_like(query), value])


def _with_heads(match: _Match, num_heads: int | None) -> Settings:
    """Completes the settings with the number of heads and the rotation frequencies.

    Raises:
      UserError: if the number of heads is unknown or does not fit.
    """
    width, kind = match.settings.width, match.settings.kind
    if num_heads is None:
        num_heads = _published_heads(kind, width)
    check_heads(width, num_heads)
    frequencies = None
    if match.periods is not None:
        expected = {PERIODS: (width // num_heads // 4,)}
        check_tensors(expected, {PERIODS: match.periods}, "the rotation periods", READABLE_TYPES)
        if not (match.periods > 0).all():
            raise UserError(f"{PERIODS} must be positive")
        frequencies = tuple(float(1 / x) for x in match.periods.astype(np.float64))
    return dataclasses.replace(match.settings, heads=num_heads, frequencies=frequencies)


def _published_heads(kind: str, width: int) -> int:
    if (kind, width) in HEAD_COUNTS:
        return HEAD_COUNTS[kind, width]
    if width % CHANNELS_PER_HEAD:
        title = FAMILIES[kind].title
        raise UserError(f"no published {title} has width {width}: set num_heads=")
    return width // CHANNELS_PER_HEAD


def _params(match: _Match, heads: int) -> dict[str, Any]:
    """Builds our tree of parameters.

    Raises:
      UserError: if a number is not finite.
    """
    parts: dict[tuple[str, ...], list[np.ndarray]] = {}
    for p in match.table:
        array = np.zeros(p.shape, np.float32) if p.name is None else to_float32(match.tensors[p.name])
        if not np.isfinite(array).all():
            raise UserError(f"{p.name} contains infinite or undefined numbers")
        parts.setdefault(p.path, []).append(p.to_jax(array))
    flat = {path: np.concatenate(arrays, axis=-1) for path, arrays in parts.items()}
    if not match.class_position:
        flat["positions",] = np.pad(flat["positions",], ((1, 0), (0, 0)))
    if match.settings.kind == "dinov3":
        flat = {path: _reorder_rotated(x, heads) if "qkv" in path else x for path, x in flat.items()}
    return unflatten_dict(flat)


def _reorder_rotated(qkv: np.ndarray, heads: int) -> np.ndarray:
    """Reorders the query and key channels of qkv outputs (..., 3d) for our rotary embedding.

    A DINOv3 head has row and column channels in each half, and its rotation pairs the two halves. Our heads
    have row channels in one half and column channels in the other (`muskie_jax.models.rope`). Attention
    does not depend on the order.
    """
    x = qkv.reshape(*qkv.shape[:-1], 3, heads, 2, 2, -1)
    rotated, values = np.split(x, [2], axis=-5)
    return np.concatenate([rotated.swapaxes(-3, -2), values], axis=-5).reshape(qkv.shape)
