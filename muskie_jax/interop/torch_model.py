"""Muskie in PyTorch, for weights that were exported: this file needs PyTorch and safetensors, and no JAX.

    model = load("muskie.safetensors")  # or a .pth file, ours or the published one
    with torch.inference_mode():
        output = model(images, mask)  # images (B, V, 3, H, W) in [-1, 1]; mask (B, V, L), True = hidden
        tokens = model.features(images)  # after every block: (B, V, L, d)

Names of parameters are the published ones (arXiv 2511.18115), so state dicts fit both ways. Letters:
B groups, V views, L = (H/p)(W/p) patches per view, R registers, T = R + L tokens per view, d width, D
channels of a head.
"""

import argparse
import json
import os
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BASE = 100.0  # of the wavelengths of the rotary embedding
EPSILON = 1e-5  # of layer norms
# Heads of networks with names, by width and number of blocks.
HEADS = {(48, 2): 4, (192, 3): 3, (384, 6): 6, (768, 6): 12, (1024, 12): 16, (1280, 16): 16}


class Output(NamedTuple):
    """What the network says of every patch: (B, V, L, p*p*3) each, inside a patch channel, row, column.

    `pred` are pixels in [-1, 1], `conf` the confidence of each in (0, 1).
    """

    pred: Tensor
    conf: Tensor


class PatchEmbed(nn.Module):
    def __init__(self, width: int, patch: int):
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, images: Tensor) -> Tensor:
        """(N, 3, H, W) -> (N, L, d), patches row by row."""
        return self.proj(images).flatten(2).transpose(1, 2)


class TorchAttention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """Attention over x (N, tokens, d), given the rotations (tokens, D) of its queries and keys."""
        n, tokens, width = x.shape
        qkv = self.qkv(x).reshape(n, tokens, 3, self.heads, width // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (N, heads, tokens, D) each
        query, key = rotate(query, cosines, sines), rotate(key, cosines, sines)
        out = F.scaled_dot_product_attention(query, key, value)
        return self.proj(out.transpose(1, 2).reshape(n, tokens, width))


class TorchMLP(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A layer whose attention stays inside each view, then one whose attention sees all views."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, EPSILON)
        self.frame_attn = TorchAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, EPSILON)
        self.frame_mlp = TorchMLP(width)
        self.norm3 = nn.LayerNorm(width, EPSILON)
        self.global_atten = TorchAttention(width, heads)  # spelt as published
        self.norm4 = nn.LayerNorm(width, EPSILON)
        self.global_mlp = TorchMLP(width)

    def forward(self, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """x (B, V, T, d) -> the same; `cosines` and `sines` (T, D) are those of one view's tokens."""
        groups, views, tokens, width = x.shape
        x = x.reshape(groups * views, tokens, width)
        x = x + self.frame_attn(self.norm1(x), cosines, sines)
        x = x + self.frame_mlp(self.norm2(x))
        x = x.reshape(groups, views * tokens, width)
        x = x + self.global_atten(self.norm3(x), cosines.repeat(views, 1), sines.repeat(views, 1))
        x = x + self.global_mlp(self.norm4(x))
        return x.reshape(groups, views, tokens, width)


class TorchMuskie(nn.Module):
    """The backbone with its reconstruction head.

    Args:
      width, depth, heads: 768, 6, 12 for Muskie-B; each block has two transformer layers.
      patch, registers: pixels along a patch's side, and learned tokens in front of each view.
      max_views: of networks that were trained with a learned vector per view index; 0 for others.
      head: whether there is a reconstruction head; without it only `features` can be used.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        patch: int = 16,
        registers: int = 4,
        max_views: int = 0,
        head: bool = True,
    ):
        super().__init__()
        self.patch, self.head_size = patch, width // heads
        self.register_tokens = nn.Parameter(torch.randn(1, 1, registers, width))
        self.mask_placeholder = nn.Parameter(torch.zeros(1, 1, 1, width))
        if max_views:
            self.view_embedding = nn.Parameter(0.02 * torch.randn(1, max_views, 1, width))
        self.patch_embed = PatchEmbed(width, patch)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        if head:
            self.decoder_norm = nn.LayerNorm(width, EPSILON)
            self.decoder_pred = nn.Linear(width, 2 * 3 * patch**2)

    def forward(self, images: Tensor, mask: Tensor | None = None) -> Output:
        """Reconstructs every patch of every view.

        Args:
          images: (B, V, 3, H, W) in [-1, 1]; H and W divisible by the patch size.
          mask: bool (B, V, L), True = hidden from the network; None hides nothing.
        """
        if not hasattr(self, "decoder_pred"):
            raise ValueError("these weights have no reconstruction head: call features()")
        x = self.decoder_pred(self.decoder_norm(self.features(images, mask)[-1])).float()
        pred, logit = x.chunk(2, dim=-1)
        return Output(pred, logit.sigmoid())

    def features(self, images: Tensor, mask: Tensor | None = None) -> list[Tensor]:
        """Patch tokens after every block, (B, V, L, d) each, without a final norm."""
        groups, views, _, height, width = images.shape
        if height % self.patch or width % self.patch:
            raise ValueError(f"image size {height}x{width} is not divisible by the patch size {self.patch}")
        x = self.patch_embed(images.flatten(0, 1)).unflatten(0, (groups, views))
        if mask is not None:
            x = torch.where(mask.unsqueeze(-1), self.mask_placeholder, x)
        # Under autocast these are of float32, and so is all that layers add to, from here on.
        registers = self.register_tokens.expand(groups, views, -1, -1)
        first = registers.shape[2]
        x = torch.cat([registers, x], dim=2)
        if hasattr(self, "view_embedding"):
            x = x + self.view_embedding[:, :views]
        grid = (height // self.patch, width // self.patch)
        cosines, sines = rotations(grid, first, self.head_size, x.device)
        tokens = []
        for block in self.blocks:
            x = block(x, cosines, sines)
            tokens.append(x[:, :, first:])
        return tokens


def rotations(
    grid: tuple[int, int], registers: int, head_size: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosines and sines (T, D) of the angles by which each token's queries and keys turn.

    The first half of D turns by a patch's row + 1, the second by its column + 1; registers do not turn.
    """
    rows, columns = torch.meshgrid(*(torch.arange(1, n + 1, device=device) for n in grid), indexing="ij")
    positions = torch.stack([rows, columns], dim=-1).reshape(-1, 2)
    positions = F.pad(positions, (0, 0, registers, 0)).double()  # (T, 2)
    half = head_size // 2
    frequencies = BASE ** (-torch.arange(0, half, 2, device=device, dtype=torch.float64) / half)
    angles = (positions[:, :, None] * frequencies).repeat(1, 1, 2).flatten(1)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Turns x (..., T, D): in each half of D, channel i together with channel i + D/4."""
    wide = x.float()
    first, second = wide.unflatten(-1, (2, 2, -1)).unbind(-2)  # (..., T, 2, D/4) each
    turned = torch.stack([-second, first], dim=-2).flatten(-3)
    return (wide * cosines + turned * sines).to(x.dtype)


def load(path: str | os.PathLike, num_heads: int | None = None) -> TorchMuskie:
    """The network of a .safetensors or .pth file, with its weights, in float32.

    Args:
      num_heads: overrides what the file says; needed for files without a description whose width is
        that of no known network.

    Raises:
      ValueError: if the number of heads is not known.
    """
    weights, described = read(path)
    return from_state_dict(weights, described.get("num_heads") if num_heads is None else num_heads)


def from_state_dict(weights: dict[str, Tensor], num_heads: int | None = None) -> TorchMuskie:
    """The network that tensors belong to, by their published names; see `load`."""
    width, _, patch, _ = weights["patch_embed.proj.weight"].shape
    depth = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    heads = HEADS.get((width, depth)) if num_heads is None else num_heads
    if heads is None:
        raise ValueError(f"say how many heads a network of width {width} has, with num_heads=")
    model = TorchMuskie(
        width,
        depth,
        heads,
        patch=patch,
        registers=weights["register_tokens"].shape[2],
        max_views=weights["view_embedding"].shape[1] if "view_embedding" in weights else 0,
        head="decoder_pred.weight" in weights,
    )
    model.load_state_dict(weights, strict=True)
    return model.eval()


def read(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict]:
    """The tensors of a file by name, and what the file says of itself; no code of a file is run.

    Names and shapes are checked when they are put into a network. That no number has changed is not
    checked here, and is by `muskie_jax.load_pretrained`.
    """
    if str(path).endswith(".safetensors"):
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            described = json.loads((file.metadata() or {}).get("muskie", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, described  # noqa: SIM118
    # Published files also hold the training's arguments, which are no more than names and values.
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(path, map_location="cpu", weights_only=True)
    return content.get("model", content), content.get("muskie", {})
