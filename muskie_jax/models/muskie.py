"""Muskie, the multi-view vision backbone (arXiv 2511.18115, section 3; constants as published).

    tokens = [registers, patch embedding with masked patches replaced]     for each view
    tokens = global(frame(tokens))                                         for each block
    pred, confidence = split(linear(LayerNorm(patch tokens)))

`frame` and `global` are pre-norm transformer layers: attention within a view, and over all views.

Axes: B groups, V views, H x W pixels, p patch size, L = (H/p)(W/p) patches per view, R registers,
T = R + L tokens per view, d width, P = 3p² values per patch.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Bool, Float, Float32, UInt8

from muskie_jax.models.attention import Attention
from muskie_jax.models.inputs import CHANNELS, check_images
from muskie_jax.models.layers import INITIAL_VALUES, REMAT, AlternatingBlock, block_class, dense
from muskie_jax.models.normalization import LayerNorm
from muskie_jax.models.rope import BASE, patch_positions, rotation_table

PATCH = 16
REGISTERS = 4


@dataclasses.dataclass(frozen=True)
class Variant:
    """Size of a network. `depth` counts alternating blocks, which have two transformer layers each."""

    width: int
    depth: int
    heads: int


VARIANTS = {
    "nano": Variant(48, 2, 4),
    "tiny": Variant(192, 3, 3),
    "small": Variant(384, 6, 6),
    "base": Variant(768, 6, 12),
    "large": Variant(1024, 12, 16),
    "huge": Variant(1280, 16, 16),
}

DTYPES = ("float32", "bfloat16")
VIEW_EMBED = ("none", "learned")


@struct.dataclass
class MuskieOutput:
    """Predictions for every patch, and features on request.

    Attributes:
      pred: predicted pixels in [-1, 1]. Within a patch the order is channel, row, column.
      conf: confidence of every predicted value, in (0, 1).
      tokens: patch tokens after each block, (B, V, L, d), if requested.
      attention: head-averaged attention weights between patch tokens in each block's global layer, if
        requested. Axes: group, query view, query, key view, key. The softmax includes registers, which
        the map leaves out, so rows sum to less than 1.
    """

    pred: Float32[Array, "B V L P"]
    conf: Float32[Array, "B V L P"]
    tokens: tuple[Float[Array, "B V L d"], ...] = ()
    attention: tuple[Float32[Array, "B V L V L"], ...] = ()


def to_float(images: UInt8[Array, "*any"]) -> Float32[Array, "*any"]:
    """Maps pixels from 0..255 to [-1, 1], the network's input range."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def patchify(images: Array, patch: int) -> Array:
    """Cuts images into patches: (..., H, W, C) -> (..., L, C*p*p).

    Patches are in row-major order. Within a patch the order is channel, row, column.
    """
    *lead, height, width, channels = images.shape
    rows, columns = height // patch, width // patch
    x = images.reshape(*lead, rows, patch, columns, patch, channels)
    n = len(lead)
    x = x.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return x.reshape(*lead, rows * columns, channels * patch * patch)


def unpatchify(patches: Array, grid: tuple[int, int], patch: int) -> Array:
    """Inverts `patchify`: (..., L, C*p*p) -> (..., H, W, C), with L = grid rows * grid columns."""
    *lead, _, size = patches.shape
    channels = size // patch**2
    x = patches.reshape(*lead, *grid, channels, patch, patch)
    n = len(lead)
    x = x.transpose(*range(n), n, n + 3, n + 1, n + 4, n + 2)
    return x.reshape(*lead, grid[0] * patch, grid[1] * patch, channels)


class Muskie(nn.Module):
    """The backbone with its reconstruction head.

    Attributes:
      width, depth, heads: see `Variant`.
      patch, registers: p and R.
      dtype: dtype of matrix products and of the activations between them. Parameters are float32.
      residual_dtype: dtype of the residual stream, which each layer adds to, and of returned tokens. If
        `dtype` is float32, the stream is float32 too.
      remat: what the backward pass recomputes to save memory. "none"; "elementwise": norms and GELUs;
        "block": all of a block but attention; "full": all of a block.
      scan_blocks: whether to compile one block and loop over it instead of unrolling. Parameters are the
        same.
      attention: the attention kernel, and the mesh that shards groups and views.
      view_embed: "learned" adds a vector per view index (at most `max_views`) to the view's tokens.
        With "none", as published, the views of a group are an unordered set.
      initial_values: rule of the initial values of linear layers, see `muskie_jax.models.layers.dense`.
      rope_base: base of the rotary embedding's frequencies, see `muskie_jax.models.rope`.
    """

    width: int
    depth: int
    heads: int
    patch: int = PATCH
    registers: int = REGISTERS
    dtype: jnp.dtype = jnp.dtype("float32")
    residual_dtype: jnp.dtype = jnp.dtype("float32")
    remat: str = "none"
    scan_blocks: bool = False
    attention: Attention = Attention()
    view_embed: str = "none"
    max_views: int = 8
    initial_values: str = "published"
    rope_base: float = BASE

    def setup(self):
        normal = nn.initializers.normal
        values = CHANNELS * self.patch**2
        self.patch_embed = dense(values, self.width, self.dtype, self.initial_values)
        self.register_tokens = self.param("register_tokens", normal(1.0), (self.registers, self.width))
        self.mask_token = self.param("mask_token", nn.initializers.zeros, (self.width,))
        if self.view_embed == "learned":
            shape = (self.max_views, self.width)
            self.view_embedding = self.param("view_embedding", normal(0.02), shape)
        self.blocks = [self._block(name=f"block_{i}") for i in range(self.depth)]
        self.norm = LayerNorm(self.dtype, self.attention.shards)
        self.head = dense(self.width, 2 * values, self.dtype, self.initial_values)

    def __call__(
        self,
        images: Float[Array, "B V H W 3"],
        mask: Bool[Array, "B V L"] | None = None,
        *,
        return_tokens: bool = False,
        return_attention: bool = False,
    ) -> MuskieOutput:
        """Reconstructs every patch of every view.

        Args:
          images: images in [-1, 1]; H and W must be divisible by the patch size.
          mask: hidden patches, True = hidden; None hides nothing.
          return_tokens, return_attention: whether to return `tokens` and `attention`.
        """
        if not self.is_initializing() and "head" not in self.variables["params"]:
            raise ValueError("these parameters have no reconstruction head: use method='features'")
        x = self.embed(images, mask)
        height, width = images.shape[2:4]
        x, tokens, attention = self.run_blocks(x, (height, width), return_tokens, return_attention)
        patch_tokens = x[:, :, self.registers :]
        pred, conf = _split_head(_dense_over_views(self.head, self.norm(patch_tokens)))
        return MuskieOutput(pred, conf, tokens, attention)

    def features(
        self, images: Float[Array, "B V H W 3"], mask: Bool[Array, "B V L"] | None = None
    ) -> tuple[Float[Array, "B V L d"], ...]:
        """Returns the patch tokens after every block, without a final norm."""
        x = self.embed(images, mask)
        height, width = images.shape[2:4]
        _, tokens, _ = self.run_blocks(x, (height, width), True, False)
        return tokens

    def activations(
        self, images: Float[Array, "B V H W 3"], mask: Bool[Array, "B V L"] | None = None
    ) -> tuple[tuple[Float[Array, "B V L d"], ...], tuple[Float32[Array, "B V L V L"], ...]]:
        """Returns `tokens` and `attention` of every block, see `MuskieOutput`; the head is not needed."""
        x = self.embed(images, mask)
        height, width = images.shape[2:4]
        _, tokens, attention = self.run_blocks(x, (height, width), True, True)
        return tokens, attention

    def embed(
        self, images: Float[Array, "B V H W 3"], mask: Bool[Array, "B V L"] | None
    ) -> Float[Array, "B V T d"]:
        """Embeds patches, replaces masked patches by the mask token, and prepends the registers."""
        check_images(images, "B, V, H, W, 3", self.patch)
        batch, views = images.shape[:2]
        x = _dense_over_views(self.patch_embed, patchify(images, self.patch))
        x = x.astype(jnp.promote_types(self.dtype, self.residual_dtype))
        if mask is not None:
            if mask.shape != x.shape[:3]:
                raise ValueError(f"mask must have shape {x.shape[:3]}, got {mask.shape}")
            x = jnp.where(mask[..., None].astype(bool), self.mask_token.astype(x.dtype), x)
        registers = jnp.broadcast_to(
            self.register_tokens.astype(x.dtype), (batch, views, self.registers, self.width)
        )
        x = jnp.concatenate([registers, x], axis=2)
        if self.view_embed == "learned":
            if views > self.max_views:
                raise ValueError(
                    f"got {views} views, but there are max_views={self.max_views} view embeddings"
                )
            x = x + self.view_embedding[:views, None, :].astype(x.dtype)
        return x

    def run_blocks(
        self,
        x: Float[Array, "B V T d"],
        image_size: tuple[int, int],
        return_tokens: bool,
        return_attention: bool,
    ) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
        """Runs all blocks.

        Args:
          x: tokens from `embed`.
          image_size: (H, W), in pixels.
          return_tokens, return_attention: see `__call__`.

        Returns:
          The final tokens, (B, V, T, d); and `tokens` and `attention` as in `MuskieOutput`.
        """
        grid = (image_size[0] // self.patch, image_size[1] // self.patch)
        positions = patch_positions(grid, self.registers)
        rotation = rotation_table(positions, self.width // self.heads, base=self.rope_base)
        first_patch, shape = self.registers, x.shape
        x = x.reshape(shape[0], -1, self.width)

        def requested(x, weights):
            tokens = x.reshape(shape)[:, :, first_patch:] if return_tokens else None
            attention = weights[:, :, first_patch:, :, first_patch:] if return_attention else None
            return tokens, attention

        # Initialisation always unrolls, so parameters do not depend on `scan_blocks`.
        if self.scan_blocks and not self.is_initializing():
            x, (tokens, attention) = self._scan(x, rotation, return_attention, requested)
            unstack = lambda y: tuple(y[i] for i in range(self.depth)) if y is not None else ()
            return x.reshape(shape), unstack(tokens), unstack(attention)
        by_block = []
        for block in self.blocks:
            x, weights = block(x, rotation, return_attention)
            by_block.append(requested(x, weights))
        tokens, attention = zip(*by_block)
        return x.reshape(shape), tokens if return_tokens else (), attention if return_attention else ()

    def _block(self, **kwargs) -> AlternatingBlock:
        build = block_class(self.remat, prevent_cse=not self.scan_blocks)
        return build(self.heads, self.dtype, self.attention, self.initial_values, **kwargs)

    def _scan(self, x, rotation, return_attention, requested):
        """Runs the blocks as one loop over parameters that are stacked along a new leading axis."""
        params = [self.variables["params"][f"block_{i}"] for i in range(self.depth)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        block = self._block(parent=None)

        def body(x, block_params):
            x, weights = block.apply({"params": block_params}, x, rotation, return_attention)
            return x, requested(x, weights)

        return jax.lax.scan(body, x, stacked)


def _split_head(x: Array) -> tuple[Array, Array]:
    """Splits the head's output (..., 2P) into prediction and confidence, float32 (..., P)."""
    pred, logit = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return pred, nn.sigmoid(logit)


def _dense_over_views(dense: nn.Dense, x: Array) -> Array:
    """Applies a linear layer to x (B, V, L, d), reshaped to (B, V*L, d) for speed (see `layers`)."""
    batch, views, patches, width = x.shape
    return dense(x.reshape(batch, -1, width)).reshape(batch, views, patches, -1)


def build_model(
    variant: str,
    *,
    dtype: str = "float32",
    residual_dtype: str = "float32",
    attention: str = "auto",
    mesh: Mesh | None = None,
    deterministic: bool = False,
    **options,
) -> Muskie:
    """Builds a `Muskie` of a named variant.

    Args:
      variant, dtype, residual_dtype: names from VARIANTS and DTYPES.
      attention, mesh, deterministic: see `muskie_jax.models.attention.Attention`.
      options: other attributes of `Muskie`.

    Raises:
      ValueError: for an unknown variant or option value; lists the alternatives.
    """
    choices = {
        "variant": (variant, tuple(VARIANTS)),
        "dtype": (dtype, DTYPES),
        "residual_dtype": (residual_dtype, DTYPES),
        "remat": (options.get("remat", "none"), REMAT),
        "view_embed": (options.get("view_embed", "none"), VIEW_EMBED),
        "initial_values": (options.get("initial_values", "published"), INITIAL_VALUES),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"{name}={value!r} is not a valid value: use one of {', '.join(allowed)}")
    size = dataclasses.asdict(VARIANTS[variant])
    attend = Attention(attention, mesh, deterministic)
    dtypes = {"dtype": jnp.dtype(dtype), "residual_dtype": jnp.dtype(residual_dtype)}
    return Muskie(**size, **dtypes, attention=attend, **options)
