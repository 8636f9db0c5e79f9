"""Converts the golden network's parameters to our parameter tree."""

import numpy as np


def golden_params(golden: dict[str, np.ndarray], prefix: str, depth: int = 2) -> dict:
    """Returns the tree of the arrays `<prefix>/<PyTorch name>`; PyTorch's linear weights are (out, in)."""
    get = lambda name: golden[f"{prefix}/{name}"]
    norm = lambda name: {"scale": get(f"{name}.weight"), "bias": get(f"{name}.bias")}

    def linear(name):
        weight = get(f"{name}.weight")
        return {"kernel": weight.reshape(len(weight), -1).T, "bias": get(f"{name}.bias")}

    def half(block, norms, attention, mlp):
        return {
            "norm1": norm(f"{block}.{norms[0]}"),
            "norm2": norm(f"{block}.{norms[1]}"),
            "attention": {part: linear(f"{block}.{attention}.{part}") for part in ("qkv", "proj")},
            "mlp": {part: linear(f"{block}.{mlp}.{part}") for part in ("fc1", "fc2")},
        }

    params = {
        "register_tokens": get("register_tokens")[0, 0],
        "mask_token": get("mask_placeholder")[0, 0, 0],
        "patch_embed": linear("patch_embed.proj"),
        "norm": norm("decoder_norm"),
        "head": linear("decoder_pred"),
    }
    for i in range(depth):
        params[f"block_{i}"] = {
            "frame": half(f"blocks.{i}", ("norm1", "norm2"), "frame_attn", "frame_mlp"),
            "global": half(f"blocks.{i}", ("norm3", "norm4"), "global_atten", "global_mlp"),
        }
    return params
