"""Vision transformers that see each image on its own: MAE, DINOv2, DINOv3 and the encoder of CroCo v2.

All four are one network: patches through a linear layer, pre-norm transformer layers, a last norm. They
differ in how a patch's place is told, in the tokens in front, and in a few details, named below. Papers:
MAE arXiv 2111.06377, DINOv2 2304.07193 (registers 2309.16588), DINOv3 2508.10104, CroCo v2 2211.10408.

Letters: N images, H x W pixels, p patch size, L = (H/p)(W/p) patches, T tokens: the class token and the
registers, if there are any, then L patches; d width, D channels of a head.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from muskie_jax.models.attention import Attention
from muskie_jax.models.layers import SelfAttention, dense
from muskie_jax.models.muskie import CHANNELS, patchify
from muskie_jax.models.normalization import gelu
from muskie_jax.models.rope import RotationTable, patch_positions, rotation_table

# Of ImageNet's pixels in [0, 1]: all four were trained on images that were normalised by these.
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Family:
    """What all sizes of a kind of network have in common.

    Attributes:
      title: its name in print.
      positions: how patches know where they are. "table": a learned or fixed vector for each patch of the
        images it was trained on, and one for the class token, interpolated for other sizes. "centers":
        rotations by the centre of a patch, the image going from -1 to 1. "cells": rotations by its row and
        column.
      class_token: whether there is one.
      layer_scale: whether what a layer adds is first multiplied by a learned vector.
      epsilon: of layer norms.
    """

    title: str
    positions: str
    class_token: bool
    layer_scale: bool
    epsilon: float


FAMILIES = {
    "mae": Family("MAE", "table", class_token=True, layer_scale=False, epsilon=1e-6),
    "dinov2": Family("DINOv2", "table", class_token=True, layer_scale=True, epsilon=1e-6),
    "dinov3": Family("DINOv3", "centers", class_token=True, layer_scale=True, epsilon=1e-5),
    "crocov2": Family("CroCo v2", "cells", class_token=False, layer_scale=False, epsilon=1e-6),
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """One network.

    Attributes:
      kind: a name from FAMILIES.
      width, depth, heads, patch: d, layers, heads of attention, p.
      hidden: width of the MLP, between its linear layers.
      gated: whether the MLP is a SwiGLU; else it has one GELU.
      registers: learned tokens between the class token and the patches.
      table: positions in a table along each side, 0 without one.
      frequencies: (D/4,) of the rotations, if they are not those of `muskie_jax.models.rope`.
    """

    kind: str
    width: int
    depth: int
    heads: int
    patch: int
    hidden: int
    gated: bool = False
    registers: int = 0
    table: int = 0
    frequencies: tuple[float, ...] | None = None

    @property
    def family(self) -> Family:
        return FAMILIES[self.kind]

    @property
    def first(self) -> int:
        """How many tokens are in front of the patches."""
        return self.family.class_token + self.registers


class Layer(nn.Module):
    """Pre-norm layer: x += scale1 Attention(LayerNorm(x)); x += scale2 ViTMLP(LayerNorm(x))."""

    settings: Settings
    dtype: jnp.dtype
    attend: Attention

    @nn.compact
    def __call__(self, x: Array, rotation: RotationTable) -> Array:
        """x (N, T, d) -> (N, T, d)."""
        s = self.settings
        attention = SelfAttention(s.heads, False, self.dtype, self.attend, name="attention")
        mixed, _ = attention(layer_norm(s, self.dtype, "norm1")(x), rotation)
        x = x + self._scaled(mixed, "scale1")
        hidden = ViTMLP(s.hidden, s.gated, self.dtype, name="mlp")(layer_norm(s, self.dtype, "norm2")(x))
        return x + self._scaled(hidden, "scale2")

    def _scaled(self, x: Array, name: str) -> Array:
        if not self.settings.family.layer_scale:
            return x
        return x * self.param(name, nn.initializers.ones, x.shape[-1:]).astype(x.dtype)


class ViTMLP(nn.Module):
    """Two linear layers around an exact GELU; or, gated, around SiLU(first half) * second half."""

    hidden: int
    gated: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        hidden = dense(self.hidden * (2 if self.gated else 1), self.dtype, "fc1")(x)
        if self.gated:
            gate, value = jnp.split(hidden, 2, axis=-1)
            hidden = nn.silu(gate) * value
        else:
            hidden = gelu(hidden)
        return dense(x.shape[-1], self.dtype, "fc2")(hidden)


def layer_norm(settings: Settings, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """A layer norm of the module whose `__call__` makes it; its statistics are float32."""
    return nn.LayerNorm(settings.family.epsilon, dtype=dtype, name=name)


class Framewise(nn.Module):
    """The network of some settings.

    Attributes:
      dtype: of matrix products and tokens; parameters are float32 always.
      attention: the kernel.
    """

    settings: Settings
    dtype: jnp.dtype = jnp.float32
    attention: Attention = Attention()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of an image's patches.

        Raises:
          ValueError: if a side is not divisible by the patch size.
        """
        patch = self.settings.patch
        if height % patch or width % patch:
            raise ValueError(f"image size {height}x{width} is not divisible by the patch size {patch}")
        return height // patch, width // patch

    @nn.compact
    def features(self, images: Array) -> tuple[Array, ...]:
        """Patch tokens after every layer, those of the last one after the last norm, as they are used.

        Args:
          images: float (N, H, W, 3) in [-1, 1]; H and W divisible by the patch size. They are normalised
            here as the network expects it.

        Returns:
          (N, L, d) for each layer, patches row by row.
        """
        s = self.settings
        if images.ndim != 4 or images.shape[-1] != CHANNELS:
            raise ValueError(f"images must have shape (N, H, W, 3), got {images.shape}")
        grid = self.grid(*images.shape[1:3])
        pixels = (images.astype(jnp.float32) / 2 + 0.5 - np.float32(MEAN)) / np.float32(DEVIATION)
        x = dense(s.width, self.dtype, "patch_embed")(patchify(pixels, s.patch))
        x = self._with_tokens(x, grid)
        rotation = rotations(s, grid)
        tokens = []
        for i in range(s.depth):
            x = Layer(s, self.dtype, self.attention, name=f"block_{i}")(x, rotation)
            tokens.append(x[:, s.first :])
        tokens[-1] = layer_norm(s, self.dtype, "norm")(tokens[-1])
        return tuple(tokens)

    def _with_tokens(self, x: Array, grid: tuple[int, int]) -> Array:
        """Patches (N, L, d) -> (N, T, d): places are added, the other tokens put in front."""
        s, normal = self.settings, nn.initializers.normal(0.02)
        front = []
        if s.family.class_token:
            front.append(self.param("class_token", normal, (1, s.width)))
        if s.registers:
            front.append(self.param("registers", normal, (s.registers, s.width)))
        if s.family.positions == "table":
            table = self.param("positions", normal, (1 + s.table**2, s.width))
            front[0] = front[0] + table[:1]
            # As published: networks with registers came with interpolation that averages.
            x = x + interpolated(table[1:], s.table, grid, average=s.registers > 0).astype(x.dtype)
        front = [jnp.broadcast_to(y, (len(x), *y.shape)).astype(x.dtype) for y in front]
        return jnp.concatenate([*front, x], axis=1)


def rotations(settings: Settings, grid: tuple[int, int]) -> RotationTable:
    """By which angles the queries and keys of every token turn; 0 where positions are a table."""
    if settings.family.positions == "table":
        positions = np.zeros((settings.first + grid[0] * grid[1], 2))
    elif settings.family.positions == "cells":
        # Without other tokens it does not matter that these count from 1 and the published code from 0.
        positions = patch_positions(grid, settings.first)
    else:
        centers = (np.indices(grid).reshape(2, -1).T + 0.5) / grid  # (L, 2) in [0, 1]
        positions = np.pad(2 * np.pi * (2 * centers - 1), ((settings.first, 0), (0, 0)))
    frequencies = None if settings.frequencies is None else np.array(settings.frequencies)
    return rotation_table(positions, settings.width // settings.heads, frequencies)


def interpolated(table: Array, side: int, grid: tuple[int, int], average: bool) -> Array:
    """A table of positions for another grid, bicubic, as PyTorch and so `transformers` do it.

    (DINOv2's own code, for networks without registers, stretches the grid by a tenth of a patch more,
    against an error of rounding that is not made here.)

    Args:
      table: (side * side, d), row by row.
      average: whether a smaller grid takes averages ("antialias"). PyTorch has another cubic for it.

    Returns:
      (rows * columns, d).
    """
    if grid == (side, side):
        return table
    table = table.reshape(side, side, -1)
    if average:
        table = jax.image.resize(table, (*grid, table.shape[-1]), "cubic")
    else:
        rows, columns = (cubic_weights(side, n).astype(np.float32) for n in grid)
        table = jnp.einsum("rh,cw,hwd->rcd", rows, columns, table, precision="highest")
    return table.reshape(grid[0] * grid[1], -1)


def cubic_weights(old: int, new: int) -> np.ndarray:
    """(new, old): the weights of cubic convolution (Keys 1981) with a = -0.75, edges repeated."""
    a = -0.75
    places = (np.arange(new) + 0.5) * old / new - 0.5
    taps = np.arange(-2, old + 2)  # of the line with its edges repeated
    x = np.abs(places[:, None] - taps)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    weights = np.where(x <= 1, near, np.where(x < 2, far, 0.0))
    return weights @ (np.clip(taps, 0, old - 1)[:, None] == np.arange(old))
