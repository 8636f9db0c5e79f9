"""Small networks of the `transformers` library with random weights, and the tensors of their files."""

import functools
import re
import tempfile

import numpy as np
import pytest
import safetensors.numpy

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
HEADS = 2


@functools.cache
def transformers_model(case: str):
    """A PyTorch module whose parameters are all random, so that each affects the output."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    if case == "mae":
        config = transformers.ViTMAEConfig(
            **SIZES, intermediate_size=80, image_size=32, patch_size=8, layer_norm_eps=1e-6, mask_ratio=0.0,
            decoder_hidden_size=16, decoder_num_hidden_layers=1, decoder_num_attention_heads=1,
            decoder_intermediate_size=16,
        )  # fmt: skip
        model = transformers.ViTMAEForPreTraining(config)
    elif case == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**SIZES, image_size=35, patch_size=7))
    elif case == "dinov2, registers, gated":
        config = transformers.Dinov2WithRegistersConfig(
            **SIZES, image_size=35, patch_size=7, num_register_tokens=3, use_swiglu_ffn=True
        )
        model = transformers.Dinov2WithRegistersModel(config)
    else:
        gate = {"use_gated_mlp": True, "hidden_act": "silu"} if "gated" in case else {}
        config = transformers.DINOv3ViTConfig(
            **SIZES, **gate, intermediate_size=80, patch_size=8, num_register_tokens=4
        )
        model = transformers.DINOv3ViTModel(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name and "weight" in name else 0.0
            parameter.copy_(centre + 0.2 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@functools.cache
def transformers_classifier(case: str) -> dict[str, np.ndarray]:
    """The tensors of a file of a classifier, under the names of `transformers`."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes = SIZES | {"image_size": 35, "patch_size": 7}
    name = {"mae": "ViT", "dinov2": "Dinov2", "dinov2, registers, gated": "Dinov2WithRegisters"}[case]
    options = {"num_register_tokens": 3, "use_swiglu_ffn": True} if "gated" in case else {}
    config = getattr(transformers, f"{name}Config")(**sizes, **options)
    torch.manual_seed(0)
    return _saved_tensors(getattr(transformers, f"{name}ForImageClassification")(config))


CASES = ("mae", "dinov2", "dinov2, registers, gated", "dinov3", "dinov3, gated")


def kind_of(case: str) -> str:
    return case.partition(",")[0]


@functools.cache
def transformers_tensors(case: str) -> dict[str, np.ndarray]:
    """The tensors of a file that `transformers` writes, under its names."""
    return _saved_tensors(transformers_model(case))


def _saved_tensors(model) -> dict[str, np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return safetensors.numpy.load_file(f"{folder}/model.safetensors")


# From names of `transformers` to names of the authors' repositories.
RENAMED = (
    (r"^vit\.", ""),
    (r"^decoder\.decoder_(encoder\.layer|layers)\.", "decoder_blocks."),
    (r"^decoder\.(mask_token|decoder_.*)", r"\1"),
    (r"^embeddings\.patch_embeddings(\.projection)?\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.", ""),
    (r"^(encoder\.)?layer\.", "blocks."),
    (r"^layernorm\.", "norm."),
    (r"layernorm_before", "norm1"),
    (r"layernorm_after", "norm2"),
    (r"attention\.attention\.(query|key|value)", r"attn.\1"),
    (r"attention\.q_proj", "attn.query"),
    (r"attention\.k_proj", "attn.key"),
    (r"attention\.v_proj", "attn.value"),
    (r"attention\.(output\.dense|o_proj)", "attn.proj"),
    (r"intermediate\.dense", "mlp.fc1"),
    (r"(blocks\.\d+)\.output\.dense", r"\1.mlp.fc2"),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    (r"weights_in", "w12"),
    (r"weights_out", "w3"),
)
RENAMED_DINOV3 = {
    "dinov3": (("up_proj", "fc1"), ("down_proj", "fc2")),
    "dinov3, gated": (("gate_proj", "w1"), ("up_proj", "w2"), ("down_proj", "w3")),
}


def repository_tensors(case: str) -> dict[str, np.ndarray]:
    """The same tensors as the authors' repository would write them."""
    tensors = {}
    for name, array in transformers_tensors(case).items():
        for pattern, new in (*RENAMED, *RENAMED_DINOV3.get(case, ())):
            name = re.sub(pattern, new, name)
        tensors[name.replace("register_tokens", "storage_tokens") if "dinov3" in case else name] = array
    rng = np.random.default_rng(0)
    for block in range(SIZES["num_hidden_layers"]):
        start = f"blocks.{block}.attn."
        for leaf in ("weight", "bias"):
            parts = [tensors.pop(f"{start}{part}.{leaf}", None) for part in ("query", "key", "value")]
            if parts[1] is None:  # the repository stores a bias, and a mask that zeroes it
                parts[1] = rng.standard_normal(parts[0].shape, np.float32)
                tensors[f"{start}qkv.bias_mask"] = np.repeat(np.float32([1, 0, 1]), len(parts[0]))
            tensors[f"{start}qkv.{leaf}"] = np.concatenate(parts)
    if "dinov3" in case:
        tensors["local_cls_norm.weight"] = tensors["local_cls_norm.bias"] = np.ones(32, np.float32)
        tensors["mask_token"] = tensors["mask_token"][0]
        channels = SIZES["hidden_size"] // HEADS // 4
        tensors["rope_embed.periods"] = (100 ** (np.arange(channels) / channels)).astype(np.float32)
    return tensors


TIMM = (
    (r"mlp\.w12", "mlp.fc1"),
    (r"mlp\.w3", "mlp.fc2"),
    (r"mlp\.w1\b", "mlp.fc1_g"),
    (r"mlp\.w2\b", "mlp.fc1_x"),
    (r"(register|storage)_tokens", "reg_token"),
)


def timm_tensors(case: str) -> dict[str, np.ndarray]:
    """The same tensors as timm would write them, with a classifier of three classes."""
    tensors = {}
    for name, array in repository_tensors(case).items():
        if re.match(r"mask_token|decoder|rope_embed|local_cls_norm", name) or name.endswith("bias_mask"):
            continue
        for pattern, new in TIMM:
            name = re.sub(pattern, new, name)
        tensors[re.sub(r"ls(\d)\.gamma", r"gamma_\1", name) if "dinov3" in case else name] = array
    if "dinov3" in case:  # keys have no bias, so the file has those of queries and values
        for block in range(SIZES["num_hidden_layers"]):
            query, _, value = np.split(tensors.pop(f"blocks.{block}.attn.qkv.bias"), 3)
            tensors |= {f"blocks.{block}.attn.q_bias": query, f"blocks.{block}.attn.v_bias": value}
    elif "reg_token" in tensors:
        positions = tensors["pos_embed"]
        tensors |= {"cls_token": tensors["cls_token"] + positions[:, :1], "pos_embed": positions[:, 1:]}
    rng = np.random.default_rng(1)
    head = {"head.weight": rng.standard_normal((3, 32), np.float32), "head.bias": np.zeros(3, np.float32)}
    return tensors | head
