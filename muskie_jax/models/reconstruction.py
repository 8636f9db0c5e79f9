"""A Muskie backbone with a decoder of point maps and cameras (arXiv 2511.18115; constants as published).

    tokens = backbone blocks(images), then decoder blocks             patch tokens, without registers
    local_points, confidence = DPT(four levels of tokens)             each view in its own camera's frame
    camera_to_world = camera head(last level)
    points = camera_to_world local_points

Axes: B groups, V views, H x W pixels, L patches per view, d width.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import Array
from jaxtyping import Float, Float32

from muskie_jax.models import initial_params
from muskie_jax.models.camera_head import CameraHead
from muskie_jax.models.dpt import LEVELS, DPTHead
from muskie_jax.models.layers import block_class
from muskie_jax.models.muskie import VARIANTS, Muskie
from muskie_jax.models.rope import patch_positions, rotation_table

# Backbone blocks that would feed the point head of Muskie-L without a decoder; each decoder block shifts
# them by one. Other sizes use the last four.
LARGE_LEVELS = (3, 5, 8, 11)


@struct.dataclass
class ReconstructionOutput:
    """Point maps and cameras, all float32, up to one scale per group.

    Attributes:
      local_points: the point that each pixel shows, in its view's camera frame: x right, y down, z forward.
      confidence: confidence of every point, above 1. The published losses do not train it.
      camera_to_world: rigid transform from each view's camera frame to a frame common to the group.
      points: `local_points` in the common frame.
    """

    local_points: Float32[Array, "B V H W 3"]
    confidence: Float32[Array, "B V H W"]
    camera_to_world: Float32[Array, "B V 4 4"]
    points: Float32[Array, "B V H W 3"]


class Reconstruction(nn.Module):
    """Predicts a point map and a camera for every view.

    Attributes:
      backbone: the network whose tokens are decoded. The decoder has its width, heads, dtypes, attention
        and `remat`; its blocks are always unrolled.
      decoder_depth: number of alternating blocks after the backbone.
      freeze_backbone: whether the backbone gets no gradient.
    """

    backbone: Muskie
    decoder_depth: int = 2
    freeze_backbone: bool = False

    def setup(self):
        backbone = self.backbone
        build = block_class(backbone.remat)
        self.decoder = [
            build(
                backbone.heads,
                backbone.dtype,
                backbone.attention,
                backbone.initial_values,
                name=f"decoder_{i}",
            )
            for i in range(self.decoder_depth)
        ]
        self.point_head = DPTHead(4, backbone.dtype)
        self.camera_head = CameraHead(backbone.dtype)

    def __call__(self, images: Float[Array, "B V H W 3"]) -> ReconstructionOutput:
        """Reconstructs the scene of each group.

        Args:
          images: images in [-1, 1]; H and W must be divisible by the patch size.
        """
        tokens = self.features(images)
        batch, views, height, width = images.shape[:4]
        patch = self.backbone.patch
        grid = (height // patch, width // patch)
        read = point_levels(self.backbone.width, self.backbone.depth, self.decoder_depth)
        maps = tuple(tokens[i].reshape(batch * views, *grid, -1) for i in read)
        values = self.point_head(maps, (height, width)).reshape(batch, views, height, width, 4)
        depth = jnp.exp(values[..., 2:3])
        local_points = jnp.concatenate([values[..., :2] * depth, depth], axis=-1)
        camera_to_world = self.camera_head(tokens[-1])
        points = transform_points(camera_to_world, local_points)
        return ReconstructionOutput(local_points, 1 + jnp.exp(values[..., 3]), camera_to_world, points)

    def features(self, images: Float[Array, "B V H W 3"]) -> tuple[Float[Array, "B V L d"], ...]:
        """Returns the patch tokens after every backbone block, then after every decoder block.

        None of them is normalised, and the point head reads some of them, see `point_levels`.
        """
        levels = self.backbone.features(images)
        if self.freeze_backbone:
            levels = jax.lax.stop_gradient(levels)
        patch, width = self.backbone.patch, self.backbone.width
        grid = (images.shape[2] // patch, images.shape[3] // patch)
        # In the published code, the decoder's positions start at 0 instead of 1. Only differences matter,
        # since all its tokens are patches.
        positions = patch_positions(grid, 0)
        rotation = rotation_table(positions, width // self.backbone.heads, base=self.backbone.rope_base)
        shape = levels[-1].shape
        x = levels[-1].reshape(shape[0], -1, width)
        for block in self.decoder:
            x, _ = block(x, rotation, False)
            levels = (*levels, x.reshape(shape))
        return levels


def point_levels(width: int, depth: int, decoder_depth: int) -> tuple[int, ...]:
    """Returns the indices of the four token levels that the point head reads, as published.

    Args:
      width, depth: sizes of the backbone.
      decoder_depth: number of decoder blocks.

    Raises:
      ValueError: if backbone and decoder have fewer than four blocks together.
    """
    large = VARIANTS["large"]
    is_large = (width, depth) == (large.width, large.depth)
    first = LARGE_LEVELS if is_large else range(depth - LEVELS, depth)
    levels = tuple(i + decoder_depth for i in first)
    if levels[0] < 0:
        raise ValueError(
            f"the point head reads {LEVELS} blocks, but there are {depth} backbone blocks and "
            f"decoder_depth={decoder_depth}: use decoder_depth={LEVELS - depth} or more"
        )
    return levels


def transform_points(
    transform: Float[Array, "*batch 4 4"], points: Float[Array, "*batch H W 3"]
) -> Float[Array, "*batch H W 3"]:
    """Applies one rigid transform to each image of points, in full float32 precision."""
    rotated = jnp.einsum("...ij,...hwj->...hwi", transform[..., :3, :3], points, precision="highest")
    return rotated + transform[..., None, None, :3, 3]


def init_params(
    model: Reconstruction, backbone_params: Mapping[str, Any] | None = None, seed: int = 0
) -> dict[str, Any]:
    """Returns new parameters, made by one compiled program.

    Args:
      model: the network.
      backbone_params: parameters of its backbone, such as `load_pretrained` returns; None draws new ones,
        without the backbone's head, which is not used.
      seed: seed of what is drawn.
    """
    params = initial_params.init_params(model, seed)
    return params if backbone_params is None else params | {"backbone": dict(backbone_params)}
