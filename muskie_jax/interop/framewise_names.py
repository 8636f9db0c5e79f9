"""The names under which weights of MAE, DINOv2, DINOv3 and CroCo v2 are published, as tables.

Each was published under the names of its own repository (facebookresearch/mae, dinov2 and dinov3,
naver/croco), and all but CroCo v2 also under those of Hugging Face's `transformers`, which keeps queries,
keys and values apart. A table maps our names to theirs; where theirs are several, joined by " + ", they
are parts of one of ours, one after the other along its outputs.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from muskie_jax.models.framewise import Settings
from muskie_jax.models.muskie import CHANNELS


class Naming(NamedTuple):
    """How weights of a kind of network are named by somebody.

    Attributes:
      kind: a name from `muskie_jax.models.framewise.FAMILIES`.
      whole: what there is once.
      prefix: of what there is in every block; {i} is its number.
      block: what comes after it.
      gated: whether these are networks with gated MLPs.
    """

    kind: str
    whole: dict[str, str]
    prefix: str
    block: dict[str, str]
    gated: bool = False


_REPOSITORY = {"patch_embed": "patch_embed.proj", "norm": "norm"}
_WITH_TABLE = _REPOSITORY | {"class_token": "cls_token", "positions": "pos_embed"}
_DINOV2 = _WITH_TABLE | {"registers": "register_tokens"}
_DINOV3 = _REPOSITORY | {"class_token": "cls_token", "registers": "storage_tokens"}
_CROCO = {"patch_embed": "patch_embed.proj", "norm": "enc_norm"}
_BLOCK = {
    "norm1": "norm1",
    "attention/qkv": "attn.qkv",
    "attention/proj": "attn.proj",
    "norm2": "norm2",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}
_DINO_BLOCK = _BLOCK | {"scale1": "ls1.gamma", "scale2": "ls2.gamma"}
_DINOV2_GATED = _DINO_BLOCK | {"mlp/fc1": "mlp.w12", "mlp/fc2": "mlp.w3"}
_DINOV3_GATED = _DINO_BLOCK | {"mlp/fc1": "mlp.w1 + mlp.w2", "mlp/fc2": "mlp.w3"}

_HF = {
    "patch_embed": "embeddings.patch_embeddings.projection",
    "class_token": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "norm": "layernorm",
}
_HF_DINOV2 = _HF | {"registers": "embeddings.register_tokens"}
_HF_DINOV3 = {
    "patch_embed": "embeddings.patch_embeddings",
    "class_token": "embeddings.cls_token",
    "registers": "embeddings.register_tokens",
    "norm": "norm",
}
_HF_ATTENTION = {
    "attention/qkv": "attention.attention.query + attention.attention.key + attention.attention.value",
    "attention/proj": "attention.output.dense",
}
_HF_MAE_BLOCK = _HF_ATTENTION | {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp/fc1": "intermediate.dense",
    "mlp/fc2": "output.dense",
}
_HF_SCALES = {"scale1": "layer_scale1.lambda1", "scale2": "layer_scale2.lambda1"}
_HF_DINOV2_BLOCK = _BLOCK | _HF_ATTENTION | _HF_SCALES
_HF_DINOV2_GATED = _HF_DINOV2_BLOCK | {"mlp/fc1": "mlp.weights_in", "mlp/fc2": "mlp.weights_out"}
_HF_DINOV3_BLOCK = _HF_SCALES | {
    "norm1": "norm1",
    "attention/qkv": "attention.q_proj + attention.k_proj + attention.v_proj",
    "attention/proj": "attention.o_proj",
    "norm2": "norm2",
    "mlp/fc1": "mlp.up_proj",
    "mlp/fc2": "mlp.down_proj",
}
_HF_DINOV3_GATED = _HF_DINOV3_BLOCK | {"mlp/fc1": "mlp.gate_proj + mlp.up_proj"}

NAMINGS = (
    Naming("mae", _WITH_TABLE, "blocks.{i}.", _BLOCK),
    Naming("mae", _HF, "encoder.layer.{i}.", _HF_MAE_BLOCK),
    Naming("dinov2", _DINOV2, "blocks.{i}.", _DINO_BLOCK),
    Naming("dinov2", _DINOV2, "blocks.{i}.", _DINOV2_GATED, gated=True),
    Naming("dinov2", _HF_DINOV2, "encoder.layer.{i}.", _HF_DINOV2_BLOCK),
    Naming("dinov2", _HF_DINOV2, "encoder.layer.{i}.", _HF_DINOV2_GATED, gated=True),
    Naming("dinov3", _DINOV3, "blocks.{i}.", _DINO_BLOCK),
    Naming("dinov3", _DINOV3, "blocks.{i}.", _DINOV3_GATED, gated=True),
    Naming("dinov3", _HF_DINOV3, "layer.{i}.", _HF_DINOV3_BLOCK),
    Naming("dinov3", _HF_DINOV3, "layer.{i}.", _HF_DINOV3_GATED, gated=True),
    Naming("crocov2", _CROCO, "enc_blocks.{i}.", _BLOCK),
)
# What a file may hold besides: decoders, masked tokens, and a norm that only training uses.
IGNORED = {
    "mae": r"mask_token|decoder_pos_embed|decoder(_embed|_blocks|_norm|_pred)?\..+",
    "dinov2": r"(embeddings\.)?mask_token",
    "dinov3": r"(embeddings\.)?mask_token|local_cls_norm\.(weight|bias)",
    "crocov2": r"mask_token|(decoder_embed|dec_blocks|dec_norm|prediction_head)\..+",
}
PERIODS = "rope_embed.periods"  # of DINOv3's rotations, in its repository's files

# Shapes there, by the last word of our names; what is learned alone, then weights of modules.
_ALONE = {
    "class_token": "1 1 width",
    "registers": "1 registers width",
    "positions": "1 positions width",
    "scale1": "width",
    "scale2": "width",
}
_WEIGHTS = {
    "patch_embed": "width channels patch patch",
    "norm": "width",
    "norm1": "width",
    "norm2": "width",
    "qkv": "width width",
    "proj": "width width",
    "fc1": "hidden width",
    "fc2": "width hidden",
}


class FramewiseParameter(NamedTuple):
    """A parameter of ours, or a part of it: its name and shape there, its path in our tree.

    `name` is None for a bias that a file does not have, which is 0.
    """

    name: str | None
    shape: tuple[int, ...]
    path: tuple[str, ...]

    def to_jax(self, array: np.ndarray) -> np.ndarray:
        """A linear layer's kernel is (in, out) here and (out, in) there, or a convolution."""
        if self.path[-1] == "kernel":
            return array.reshape(len(array), -1).T
        return array[0] if array.ndim == 3 else array


def numbers_of_blocks(naming: Naming, names: Collection[str]) -> list[int]:
    """The numbers of the blocks that there are parameters of."""
    number = re.compile(re.escape(naming.prefix).replace(re.escape("{i}"), r"(\d{1,4})"))
    return sorted({int(match[1]) for name in names if (match := number.match(name))})


def parameters(naming: Naming, settings: Settings, names: Collection[str]) -> list[FramewiseParameter]:
    """Every parameter of a network, those in several parts part by part.

    Args:
      names: of a file: registers, and in DINOv3 biases of queries, keys and values, may be none at all.
    """
    sizes = {
        "width": settings.width,
        "channels": CHANNELS,
        "patch": settings.patch,
        "hidden": settings.hidden,
        "registers": settings.registers,
        "positions": 1 + settings.table**2,
    }
    found = []
    for ours, theirs in naming.whole.items():
        if ours != "registers" or settings.registers:
            found += _of_one(ours, theirs, sizes)
    no_bias = set()
    if settings.kind == "dinov3":
        no_bias = {p for p in naming.block["attention/qkv"].split(" + ") if not _any_bias(p, names)}
    for i in range(settings.depth):
        for ours, theirs in naming.block.items():
            place = naming.prefix.format(i=i)
            parts = _of_one(f"block_{i}/{ours}", theirs, sizes, place, settings.gated)
            absent = {f"{place}{part}.bias" for part in no_bias}
            found += [p._replace(name=None) if p.name in absent else p for p in parts]
    return found


def _any_bias(part: str, names: Collection[str]) -> bool:
    return any(name.endswith(f".{part}.bias") for name in names)


def _of_one(
    ours: str, theirs: str, sizes: Mapping[str, int], place: str = "", gated: bool = False
) -> list[FramewiseParameter]:
    path = tuple(ours.split("/"))
    last = path[-1]
    shape_of = lambda words: tuple(int(sizes.get(word, word)) for word in words.split())
    if last in _ALONE:
        return [FramewiseParameter(place + theirs, shape_of(_ALONE[last]), path)]
    leaf = "scale" if last.startswith("norm") else "kernel"
    outputs, *inputs = shape_of(_WEIGHTS[last])
    parts = theirs.split(" + ")
    # Ours has three times the width, or two hidden halves, in one or several parts there.
    outputs *= {"qkv": 3, "fc1": 1 + gated}.get(last, 1)
    outputs //= len(parts)
    weights = [
        FramewiseParameter(f"{place}{part}.weight", (outputs, *inputs), (*path, leaf)) for part in parts
    ]
    biases = [FramewiseParameter(f"{place}{part}.bias", (outputs,), (*path, "bias")) for part in parts]
    return weights + biases
