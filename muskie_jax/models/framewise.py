"""Vision transformers that encode each image separately: MAE, DINOv2, DINOv3 and CroCo v2's encoder.

All four share one architecture: linear patch embedding, pre-norm transformer layers, final norm. They
differ in position encoding, in the tokens before the patches, and in the other fields of `Family`. Papers:
MAE arXiv 2111.06377, DINOv2 2304.07193 (registers 2309.16588), DINOv3 2508.10104, CroCo v2 2211.10408.

Axes: N images, H x W pixels, p patch size, L = (H/p)(W/p) patches, T tokens per image, d width, D
channels per head. Tokens are the class token and registers, if any, then L patches.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array
from jaxtyping import Float

from muskie_jax.models.attention import Attention
from muskie_jax.models.inputs import check_divisible, check_images
from muskie_jax.models.layers import SelfAttention, dense
from muskie_jax.models.muskie import patchify
from muskie_jax.models.normalization import gelu
from muskie_jax.models.rope import RotationTable, patch_positions, rotation_table

# ImageNet's mean and standard deviation, in [0, 1], with which all four normalise images.
MEAN = np.array((0.485, 0.456, 0.406), np.float32)
STD = np.array((0.229, 0.224, 0.225), np.float32)


@dataclasses.dataclass(frozen=True)
class Family:
    """Properties shared by all sizes of a network family.

    Attributes:
      title: display name.
      positions: kind of position encoding. "table": a learned or fixed vector for the class token and
        for each patch at the training resolution, interpolated for other sizes. "centers": RoPE by a
        patch's centre, with image coordinates from -1 to 1. "cells": RoPE by a patch's row and column.
      class_token: whether the network has a class token.
      layer_scale: whether a learned vector multiplies the output of each residual branch.
      epsilon: epsilon of layer norms.
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
    """Size and options of one network.

    Attributes:
      kind: a name from FAMILIES.
      width, depth, heads, patch: d, number of layers, number of attention heads, p.
      hidden: number of hidden channels of the MLP.
      gated: whether the MLP is a SwiGLU; if not, it has a GELU.
      registers: number of learned tokens between the class token and the patches.
      table: side of the square table of positions, in patches; 0 without a table.
      frequencies: RoPE frequencies (D/4,); None for the default of `muskie_jax.models.rope`.
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
    def num_prefix_tokens(self) -> int:
        """The number of tokens before the patches."""
        return self.family.class_token + self.registers


class Layer(nn.Module):
    """Pre-norm layer: x += scale1 Attention(LayerNorm(x)); x += scale2 ViTMLP(LayerNorm(x))."""

    settings: Settings
    dtype: jnp.dtype
    attend: Attention

    @nn.compact
    def __call__(self, x: Float[Array, "N T d"], rotation: RotationTable) -> Float[Array, "N T d"]:
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
    """Two linear layers around an exact GELU or, if gated, around SwiGLU: SiLU(gate) * value."""

    hidden: int
    gated: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "N T d"]) -> Float[Array, "N T d"]:
        hidden = dense(x.shape[-1], self.hidden * (2 if self.gated else 1), self.dtype, name="fc1")(x)
        if self.gated:
            gate, value = jnp.split(hidden, 2, axis=-1)
            hidden = nn.silu(gate) * value
        else:
            hidden = gelu(hidden)
        return dense(self.hidden, x.shape[-1], self.dtype, name="fc2")(hidden)


def layer_norm(settings: Settings, dtype: jnp.dtype, name: str) -> nn.LayerNorm:
    """Returns a layer norm with float32 statistics; call it within the module that owns it."""
    return nn.LayerNorm(settings.family.epsilon, dtype=dtype, name=name)


class Framewise(nn.Module):
    """A vision transformer of any of the families, as `settings` specify.

    Attributes:
      settings: size and options.
      dtype: dtype of matrix products and tokens. Parameters are float32.
      attention: the attention kernel.
    """

    settings: Settings
    dtype: jnp.dtype = jnp.dtype("float32")
    attention: Attention = Attention()

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Returns the number of rows and columns of patches in an image.

        Raises:
          ValueError: if a side is not divisible by the patch size.
        """
        patch = self.settings.patch
        check_divisible((height, width), patch)
        return height // patch, width // patch

    @nn.compact
    def features(self, images: Float[Array, "N H W 3"]) -> tuple[Float[Array, "N L d"], ...]:
        """Returns the patch tokens after every layer; the final norm is applied to the last layer's.

        Args:
          images: images in [-1, 1]; they are normalised here as the network expects. H and W must be
            divisible by the patch size.

        Returns:
          The tokens of each layer, with patches in row-major order.
        """
        s = self.settings
        check_images(images, "N, H, W, 3", s.patch)
        _, height, width, _ = images.shape
        grid = self.grid(height, width)
        pixels = (images.astype(jnp.float32) / 2 + 0.5 - MEAN) / STD
        patches = patchify(pixels, s.patch)
        x = dense(patches.shape[-1], s.width, self.dtype, name="patch_embed")(patches)
        x = self._add_positions_and_prefix(x, grid)
        rotation = rotations(s, grid)
        tokens = []
        for i in range(s.depth):
            x = Layer(s, self.dtype, self.attention, name=f"block_{i}")(x, rotation)
            tokens.append(x[:, s.num_prefix_tokens :])
        tokens[-1] = layer_norm(s, self.dtype, "norm")(tokens[-1])
        return tuple(tokens)

    def _add_positions_and_prefix(self, x: Array, grid: tuple[int, int]) -> Array:
        """Adds the table of positions, if any, and prepends class token and registers, to (N, T, d)."""
        s, normal = self.settings, nn.initializers.normal(0.02)
        prefix = []
        if s.family.class_token:
            prefix.append(self.param("class_token", normal, (1, s.width)))
        if s.registers:
            prefix.append(self.param("registers", normal, (s.registers, s.width)))
        if s.family.positions == "table":
            table = self.param("positions", normal, (1 + s.table**2, s.width))
            prefix[0] = prefix[0] + table[:1]
            # As published: networks with registers use antialiased interpolation.
            positions = interpolate_positions(table[1:], s.table, grid, antialias=s.registers > 0)
            x = x + positions.astype(x.dtype)
        prefix = [jnp.broadcast_to(y, (len(x), *y.shape)).astype(x.dtype) for y in prefix]
        return jnp.concatenate([*prefix, x], axis=1)


def rotations(settings: Settings, grid: tuple[int, int]) -> RotationTable:
    """Returns the RoPE table of all tokens; angles are 0 if positions are a table of vectors."""
    if settings.family.positions == "table":
        positions = np.zeros((settings.num_prefix_tokens + grid[0] * grid[1], 2))
    elif settings.family.positions == "cells":
        # Positions start at 1, in the published code at 0. Only differences matter: all tokens are patches.
        positions = patch_positions(grid, settings.num_prefix_tokens)
    else:
        centers = (np.indices(grid).reshape(2, -1).T + 0.5) / grid  # (L, 2) in [0, 1]
        positions = np.pad(2 * np.pi * (2 * centers - 1), ((settings.num_prefix_tokens, 0), (0, 0)))
    frequencies = None if settings.frequencies is None else np.array(settings.frequencies)
    return rotation_table(positions, settings.width // settings.heads, frequencies)


def interpolate_positions(
    table: Float[Array, "side*side d"], side: int, grid: tuple[int, int], antialias: bool
) -> Float[Array, "rows*columns d"]:
    """Interpolates a table of positions bicubically to another grid, as PyTorch and `transformers` do.

    For networks without registers, DINOv2's own code enlarges the grid by a tenth of a patch, to avoid a
    rounding error. That error does not occur here.

    Args:
      table: one vector per patch of a square grid, in row-major order.
      antialias: whether to low-pass filter when downsampling. PyTorch then uses a different cubic kernel.
    """
    if grid == (side, side):
        return table
    table = table.reshape(side, side, -1)
    if antialias:
        table = jax.image.resize(table, (*grid, table.shape[-1]), "cubic")
    else:
        rows, columns = (cubic_weights(side, n).astype(np.float32) for n in grid)
        table = jnp.einsum("rh,cw,hwd->rcd", rows, columns, table, precision="highest")
    return table.reshape(grid[0] * grid[1], -1)


def cubic_weights(old: int, new: int) -> np.ndarray:
    """Returns resampling weights (new, old): cubic convolution (Keys 1981), a = -0.75, edges repeated."""
    a = -0.75
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    taps = np.arange(-2, old + 2)  # indices into the line with its edges repeated
    x = np.abs(centres[:, None] - taps)
    inner = (a + 2) * x**3 - (a + 3) * x**2 + 1
    outer = a * (x**3 - 5 * x**2 + 8 * x - 4)
    weights = np.where(x <= 1, inner, np.where(x < 2, outer, 0.0))
    return weights @ (np.clip(taps, 0, old - 1)[:, None] == np.arange(old))
