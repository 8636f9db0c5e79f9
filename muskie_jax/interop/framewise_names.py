"""Tables of published parameter names of MAE, DINOv2, DINOv3 and CroCo v2.

Each model uses its own repository's names (facebookresearch/mae, dinov2 and dinov3, naver/croco); all but
CroCo v2 are also published under `transformers` names, which store queries, keys and values separately, and
under timm's. timm's names of MAE, and of DINOv2 without registers, are those of the repositories. A table
maps our names to published names. Tensors whose names are joined by " + " are concatenated along the output
axis into one of our parameters.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

import numpy as np

from muskie_jax.models.framewise import Settings
from muskie_jax.models.muskie import CHANNELS


class Naming(NamedTuple):
    """One naming scheme for the weights of one kind of network.

    Attributes:
      kind: a name from `muskie_jax.models.framewise.FAMILIES`.
      shared: modules outside the blocks, our name -> published name.
      prefix: prefix of the names in a block; {i} is the block index.
      block: modules of a block, our name -> published name after the prefix.
      gated: whether the scheme belongs to networks with gated MLPs.
      class_position: whether the table of positions has a row for the class token. Without it, the class
        token includes its position.
    """

    kind: str
    shared: dict[str, str]
    prefix: str
    block: dict[str, str]
    gated: bool = False
    class_position: bool = True


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

_TIMM_DINOV2 = _WITH_TABLE | {"registers": "reg_token"}
_TIMM_DINOV3 = _DINOV3 | {"registers": "reg_token"}
_TIMM_DINOV3_BLOCK = _BLOCK | {"scale1": "gamma_1", "scale2": "gamma_2"}
_TIMM_DINOV3_GATED = _TIMM_DINOV3_BLOCK | {"mlp/fc1": "mlp.fc1_g + mlp.fc1_x"}

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
    # timm's gated MLPs of DINOv2 have the names of plain ones, and other shapes.
    Naming("dinov2", _DINOV2, "blocks.{i}.", _DINO_BLOCK, gated=True),
    Naming("dinov2", _TIMM_DINOV2, "blocks.{i}.", _DINO_BLOCK, class_position=False),
    Naming("dinov2", _TIMM_DINOV2, "blocks.{i}.", _DINO_BLOCK, gated=True, class_position=False),
    Naming("dinov3", _TIMM_DINOV3, "blocks.{i}.", _TIMM_DINOV3_BLOCK),
    Naming("dinov3", _TIMM_DINOV3, "blocks.{i}.", _TIMM_DINOV3_GATED, gated=True),
    Naming("crocov2", _CROCO, "enc_blocks.{i}.", _BLOCK),
)
# Tensors that identify a network's prefix, such as `vit.`.
ANCHORS = sorted(
    {f"{each.shared['patch_embed']}.{leaf}" for each in NAMINGS for leaf in ("weight", "bias")}
)
# Other tensors that a file may contain: decoders, mask tokens, and a norm that only training uses.
IGNORED = {
    "mae": r"mask_token|decoder_pos_embed|decoder(_embed|_blocks|_norm|_pred)?\..+",
    "dinov2": r"(embeddings\.)?mask_token",
    "dinov3": r"(embeddings\.)?mask_token|local_cls_norm\.(weight|bias)",
    "crocov2": r"mask_token|(decoder_embed|dec_blocks|dec_norm|prediction_head)\..+",
}
# Heads of classifiers and of self-supervised losses, which are left out.
HEADS = r"(\w+_)?(head|classifier)\..+"
PERIODS = "rope_embed.periods"  # DINOv3's rotation periods in files of its repository

# Published shapes by the last component of our name: single parameters, then weights of modules.
_SINGLE_SHAPES = {
    "class_token": "1 1 width",
    "registers": "1 registers width",
    "positions": "1 positions width",
    "scale1": "width",
    "scale2": "width",
}
_WEIGHT_SHAPES = {
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
    """A published tensor that is one of our parameters, or part of one.

    Attributes:
      name: published name; None for a bias that the file lacks, which is then 0.
      shape: published shape.
      path: path of our parameter in the tree.
    """

    name: str | None
    shape: tuple[int, ...]
    path: tuple[str, ...]

    def to_jax(self, array: np.ndarray) -> np.ndarray:
        """Converts from PyTorch's layout, where a kernel is (out, in) or a convolution, to (in, out)."""
        if self.path[-1] == "kernel":
            return array.reshape(len(array), -1).T
        return array[0] if array.ndim == 3 else array


def block_indices(naming: Naming, names: Collection[str]) -> list[int]:
    """Returns the sorted indices of the blocks that have tensors among `names`."""
    number = re.compile(re.escape(naming.prefix).replace(re.escape("{i}"), r"(\d{1,4})"))
    return sorted({int(match[1]) for name in names if (match := number.match(name))})


def parameters(naming: Naming, settings: Settings, names: Collection[str]) -> list[FramewiseParameter]:
    """Lists every tensor that a network needs; parts of one parameter are consecutive.

    Args:
      naming: the naming scheme.
      settings: settings of the network.
      names: names of the tensors in the file. DINOv3 files may lack biases of queries, keys or values.
    """
    sizes = {
        "width": settings.width,
        "channels": CHANNELS,
        "patch": settings.patch,
        "hidden": settings.hidden,
        "registers": settings.registers,
        "positions": naming.class_position + settings.table**2,
    }
    listed = []
    for ours, theirs in naming.shared.items():
        if ours != "registers" or settings.registers:
            listed += _module_parameters(ours, theirs, sizes)
    without_bias = set()
    if settings.kind == "dinov3":
        qkv_parts = naming.block["attention/qkv"].split(" + ")
        without_bias = {part for part in qkv_parts if not _any_bias(part, names)}
    for i in range(settings.depth):
        prefix = naming.prefix.format(i=i)
        absent = {f"{prefix}{part}.bias" for part in without_bias}
        for ours, theirs in naming.block.items():
            parts = _module_parameters(f"block_{i}/{ours}", theirs, sizes, prefix, settings.gated)
            listed += [p._replace(name=None) if p.name in absent else p for p in parts]
    return listed


def _any_bias(part: str, names: Collection[str]) -> bool:
    return any(name.endswith(f".{part}.bias") for name in names)


def _module_parameters(
    ours: str, theirs: str, sizes: Mapping[str, int], prefix: str = "", gated: bool = False
) -> list[FramewiseParameter]:
    path = tuple(ours.split("/"))
    last = path[-1]
    shape_of = lambda words: tuple(int(sizes.get(word, word)) for word in words.split())
    if last in _SINGLE_SHAPES:
        return [FramewiseParameter(prefix + theirs, shape_of(_SINGLE_SHAPES[last]), path)]
    leaf = "scale" if last.startswith("norm") else "kernel"
    outputs, *inputs = shape_of(_WEIGHT_SHAPES[last])
    parts = theirs.split(" + ")
    # Our qkv has 3 * width outputs, and our gated fc1 has 2 * hidden. A file may store them in parts.
    outputs *= {"qkv": 3, "fc1": 1 + gated}.get(last, 1)
    outputs //= len(parts)
    weights = [
        FramewiseParameter(f"{prefix}{part}.weight", (outputs, *inputs), (*path, leaf)) for part in parts
    ]
    biases = [FramewiseParameter(f"{prefix}{part}.bias", (outputs,), (*path, "bias")) for part in parts]
    return weights + biases
