"""The DPT head, which turns four levels of patch tokens into an image (arXiv 2103.13413, section 3).

Each level becomes a feature map of its own resolution: 4, 2, 1 and 1/2 times the patch grid. From coarse to
fine, maps are merged into one and enlarged. Axes: N images, h x w patches, H x W pixels, d width.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jaxtyping import Float, Float32

from muskie_jax.models.layers import uniform_within

HIDDEN = 32  # channels before the last convolution
LEVELS = 4


def convolution(
    name: str,
    fan_in: int,
    features: int,
    side: int,
    dtype: jnp.dtype,
    stride: int = 1,
    use_bias: bool = True,
) -> nn.Conv:
    """Returns a convolution that keeps the size of its input, divided by the stride and rounded up.

    Kernel and bias start uniform in ±1/sqrt(fan_in * side²), PyTorch's default.

    Args:
      name: name of the layer.
      fan_in, features: numbers of input and output channels.
      side: side of the kernel, odd.
      dtype: dtype of the product.
      stride: stride along both axes.
      use_bias: whether to add a bias.
    """
    init = uniform_within(1 / math.sqrt(fan_in * side**2))
    return nn.Conv(
        features,
        (side, side),
        strides=stride,
        padding=side // 2,
        use_bias=use_bias,
        dtype=dtype,
        kernel_init=init,
        bias_init=init,
        name=name,
    )


def enlarging_convolution(name: str, features: int, factor: int, dtype: jnp.dtype) -> nn.ConvTranspose:
    """Returns a transposed convolution, from `features` to `features` channels, without overlap.

    Kernel and bias start uniform in ±1/sqrt(features * factor²), PyTorch's default.
    """
    init = uniform_within(1 / math.sqrt(features * factor**2))
    return nn.ConvTranspose(
        features,
        (factor, factor),
        strides=(factor, factor),
        padding="VALID",
        transpose_kernel=True,  # as in PyTorch
        dtype=dtype,
        kernel_init=init,
        bias_init=init,
        name=name,
    )


def resize_aligned(x: Float[Array, "N h w c"], size: tuple[int, int]) -> Float[Array, "N rows columns c"]:
    """Resizes feature maps bilinearly; the centres of corner pixels stay in the corners.

    Args:
      x: feature maps.
      size: rows and columns of the result.
    """
    olds = x.shape[1:3]
    # A line of one pixel has no corners to align. Its pixel covers the result.
    scale = [(new - 1) / (old - 1) if old > 1 else float(new) for old, new in zip(olds, size)]
    shift = [(1 - each) / 2 if old > 1 else 0.0 for old, each in zip(olds, scale)]
    return jax.image.scale_and_translate(
        x, (len(x), *size, x.shape[-1]), (1, 2), jnp.array(scale), jnp.array(shift), "linear", False
    )


class ResidualUnit(nn.Module):
    """x + conv(relu(conv(relu(x)))), with 3x3 convolutions."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "N h w d"]) -> Float[Array, "N h w d"]:
        width = x.shape[-1]
        y = convolution("conv1", width, width, 3, self.dtype)(nn.relu(x))
        return x + convolution("conv2", width, width, 3, self.dtype)(nn.relu(y))


class Fusion(nn.Module):
    """Adds a finer map to a coarser one, and enlarges the sum."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, coarse: Float[Array, "N h w d"], fine: Float[Array, "N h w d"] | None, size: tuple[int, int]
    ) -> Float[Array, "N rows columns d"]:
        """Returns the merged map.

        Args:
          coarse: the map of the coarser levels.
          fine: the map of the next level; None for the coarsest level.
          size: rows and columns of the result.
        """
        width = coarse.shape[-1]
        finer_unit = ResidualUnit(self.dtype, name="unit1")
        if fine is not None:
            coarse = coarse + finer_unit(fine)
        elif self.is_initializing():
            finer_unit(coarse)  # published weights contain this unit of the coarsest level, unused
        merged = ResidualUnit(self.dtype, name="unit2")(coarse)
        # As published, the convolution comes after enlarging. Both are linear and the weights of enlarging
        # sum to 1, so the result is the same, at a quarter of the cost.
        return resize_aligned(convolution("out", width, width, 1, self.dtype)(merged), size)


class DPTHead(nn.Module):
    """Turns four levels of patch tokens into an image of `channels` channels.

    Attributes:
      channels: number of output channels.
      dtype: dtype of products, except for the last convolution, which is float32.
    """

    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, levels: tuple[Float[Array, "N h w d"], ...], size: tuple[int, int]
    ) -> Float32[Array, "N H W channels"]:
        """Returns an image.

        Args:
          levels: four maps of patch tokens, from the level that gives the finest map to the coarsest.
          size: height and width of the result, in pixels.
        """
        maps = [self._resample(i, x) for i, x in enumerate(levels, start=1)]
        rows, columns = maps[0].shape[1:3]
        sizes = [(2 * rows, 2 * columns), *(x.shape[1:3] for x in maps)]  # of what each fusion returns
        merged = Fusion(self.dtype, name="fusion_4")(maps[3], None, sizes[3])
        for i in (3, 2, 1):
            merged = Fusion(self.dtype, name=f"fusion_{i}")(merged, maps[i - 1], sizes[i - 1])
        width = merged.shape[-1]
        x = convolution("conv1", width, width // 2, 3, self.dtype)(merged)
        x = convolution("conv2", width // 2, HIDDEN, 3, self.dtype)(resize_aligned(x, size))
        return convolution("out", HIDDEN, self.channels, 1, jnp.dtype("float32"))(nn.relu(x))

    def _resample(self, level: int, x: Array) -> Array:
        """Returns a level's map of `d` channels, at 4, 2, 1 or 1/2 times the patch grid."""
        width = x.shape[-1]
        channels = (width // 4, width // 2, width, width)[level - 1]
        prefix = f"level_{level}_"
        x = convolution(f"{prefix}reduce", width, channels, 1, self.dtype)(x)
        if level < 3:
            x = enlarging_convolution(f"{prefix}resample", channels, (4, 2)[level - 1], self.dtype)(x)
        elif level == 4:
            x = convolution(f"{prefix}resample", channels, channels, 3, self.dtype, stride=2)(x)
        return convolution(f"{prefix}conv", channels, width, 3, self.dtype, use_bias=False)(x)
