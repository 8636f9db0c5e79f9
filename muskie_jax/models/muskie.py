"""Muskie, the multi-view vision backbone (arXiv 2511.18115, section 3; constants as published).

Letters in shapes: B groups, V views, H x W pixels, p patch size, L = (H/p)(W/p) patches per view,
R registers, T = R + L tokens per view, d width.
"""

import dataclasses

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.sharding import Mesh

from muskie_jax.models.attention import ATTENTION, Attention, keep_only
from muskie_jax.models.layers import PRODUCTS, AlternatingBlock, kernel_init
from muskie_jax.models.normalization import LayerNorm
from muskie_jax.models.picking import Picked, pick
from muskie_jax.models.rope import patch_positions, rotation_table

CHANNELS = 3
PATCH = 16
REGISTERS = 4


@dataclasses.dataclass(frozen=True)
class Variant:
    """Size of a network; `depth` counts alternating blocks of two transformer layers each."""

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
# What a block keeps for the backward pass besides its input; the rest is computed again.
REMAT = {
    "none": None,  # everything
    "elementwise": (ATTENTION, *PRODUCTS),
    "block": (ATTENTION,),
    "full": (),
}
VIEW_EMBED = ("none", "learned")


@flax.struct.dataclass
class MuskieOutput:
    """What the network says of every patch.

    Attributes:
      pred: float32 (B, V, L, p*p*3), pixels in [-1, 1]; in a patch ordered channel, row, column.
      conf: float32 (B, V, L, p*p*3), confidence of every predicted value in (0, 1).
      tokens: per block (B, V, L, d), patch tokens after the block, if asked for.
      attention: per block float32 (B, V, L, V, L), head-averaged weights of the global half between
        patch tokens [query view, query, key view, key], if asked for. Registers take part in the
        softmax and are left out of the map, so rows sum to less than one.
    """

    pred: Array
    conf: Array
    tokens: tuple[Array, ...] = ()
    attention: tuple[Array, ...] = ()


def to_float(images: Array) -> Array:
    """Pixels, uint8, as the network takes them: float32 in [-1, 1]."""
    return images.astype(jnp.float32) / 127.5 - 1.0


def patchify(images: Array, patch: int) -> Array:
    """(..., H, W, C) -> (..., L, C*p*p): patches in row-major order, channel slowest inside each."""
    *lead, height, width, channels = images.shape
    grid = (height // patch, width // patch)
    x = images.reshape(*lead, grid[0], patch, grid[1], patch, channels)
    n = len(lead)
    x = x.transpose(*range(n), n, n + 2, n + 4, n + 1, n + 3)
    return x.reshape(*lead, grid[0] * grid[1], channels * patch * patch)


def unpatchify(patches: Array, grid: tuple[int, int], patch: int) -> Array:
    """Inverse of `patchify`: (..., L, C*p*p) with L = grid rows x columns -> (..., H, W, C)."""
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
      dtype: of matrix products and activations, tokens too; parameters are float32 always.
      remat: what the backward pass computes again instead of keeping it, to save memory: "none";
        "elementwise", norms and GELUs; "block", all of a block but attention; "full", all of a block.
      scan_blocks: compile one block and loop over it, instead of unrolling all. The parameters are
        the same either way.
      attention: the kernel, and the mesh that groups and views are split over.
      view_embed: "learned" adds a vector per view index (at most `max_views`) to all its tokens;
        with "none", as published, the views of a group are an unordered set.
    """

    width: int
    depth: int
    heads: int
    patch: int = PATCH
    registers: int = REGISTERS
    dtype: jnp.dtype = jnp.float32
    remat: str = "none"
    scan_blocks: bool = False
    attention: Attention = Attention()
    view_embed: str = "none"
    max_views: int = 8

    def setup(self):
        normal = nn.initializers.normal
        self.patch_embed = nn.Dense(self.width, dtype=self.dtype, kernel_init=kernel_init)
        self.register_tokens = self.param("register_tokens", normal(1.0), (self.registers, self.width))
        self.mask_token = self.param("mask_token", nn.initializers.zeros, (self.width,))
        if self.view_embed == "learned":
            shape = (self.max_views, self.width)
            self.view_embedding = self.param("view_embedding", normal(0.02), shape)
        self.blocks = [self._block(name=f"block_{i}") for i in range(self.depth)]
        self.norm = LayerNorm(self.dtype, self.attention.shards)
        self.head = nn.Dense(2 * CHANNELS * self.patch**2, dtype=self.dtype, kernel_init=kernel_init)

    def _block(self, **kwargs) -> AlternatingBlock:
        # `return_map` (argument 3, counting self) decides what is computed, so it stays a Python bool.
        make, kept = AlternatingBlock, REMAT[self.remat]
        if kept is not None:
            make = nn.remat(
                make, static_argnums=(3,), prevent_cse=not self.scan_blocks, policy=keep_only(kept)
            )
        return make(self.heads, self.dtype, self.attention, **kwargs)

    def __call__(
        self,
        images: Array,
        mask: Array | None = None,
        *,
        return_tokens: bool = False,
        return_attention: bool = False,
    ) -> MuskieOutput:
        """Reconstructs every patch of every view.

        Args:
          images: float (B, V, H, W, 3) in [-1, 1]; H and W divisible by the patch size.
          mask: bool (B, V, L), True = hidden from the network; None hides nothing.
          return_tokens, return_attention: fill the fields of the same names.
        """
        if not self.is_initializing() and "head" not in self.variables["params"]:
            raise ValueError("these parameters have no reconstruction head: write method='features'")
        x = self.embed(images, mask)
        x, tokens, maps = self.run_blocks(x, images.shape[2:4], return_tokens, return_attention)
        pred, conf = _halves(_over_views(self.head, self.norm(x[:, :, self.registers :])))
        return MuskieOutput(pred, conf, tokens, maps)

    def predict_hidden(self, images: Array, mask: Array, slots: int) -> tuple[Array, Array, Picked]:
        """`pred` and `conf` of hidden patches alone, (B, K, p*p*3), and which patches they are.

        The last layer computes nothing else.

        Args:
          images, mask: as of `__call__`.
          slots: K, room for the hidden patches of a group; those too many are left out.

        Returns:
          `pred` and `conf` as in `MuskieOutput`, where slots are left over as well; and the patches,
          of a group's V*L.
        """
        x = self.embed(images, mask)
        hidden = jnp.pad(mask, ((0, 0), (0, 0), (self.registers, 0))).reshape(len(x), -1)
        x, _, _ = self.run_blocks(x, images.shape[2:4], False, False, pick(hidden, slots))
        pred, conf = _halves(self.head(self.norm(x)))
        # Registers are tokens, too, but no patches.
        return pred, conf, pick(mask.reshape(len(x), -1), slots)

    def features(self, images: Array, mask: Array | None = None) -> tuple[Array, ...]:
        """Patch tokens after every block, (B, V, L, d) each, without a final norm."""
        x = self.embed(images, mask)
        return self.run_blocks(x, images.shape[2:4], True, False)[1]

    def embed(self, images: Array, mask: Array | None) -> Array:
        """images (B, V, H, W, 3), mask (B, V, L) -> tokens (B, V, T, d), registers first."""
        if images.ndim != 5 or images.shape[-1] != CHANNELS:
            raise ValueError(f"images must have shape (B, V, H, W, 3), got {images.shape}")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"images must be float, in [-1, 1], got {images.dtype}: write x / 127.5 - 1")
        batch, views, height, width, _ = images.shape
        if height % self.patch or width % self.patch:
            raise ValueError(f"image size {height}x{width} is not divisible by the patch size {self.patch}")
        x = _over_views(self.patch_embed, patchify(images, self.patch))
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
                raise ValueError(f"{views} views, but view_embed has max_views={self.max_views}")
            x = x + self.view_embedding[:views, None, :].astype(x.dtype)
        return x

    def run_blocks(
        self,
        x: Array,
        image_size: tuple[int, int],
        return_tokens: bool,
        return_attention: bool,
        picked: Picked | None = None,
    ) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
        """Tokens (B, V, T, d) through all blocks; also what `return_*` asks for, registers removed.

        With `picked`, which goes without the others, only those tokens come out: (B, K, d).
        """
        grid = (image_size[0] // self.patch, image_size[1] // self.patch)
        positions = patch_positions(grid, self.registers)
        rotation = rotation_table(positions, self.width // self.heads)
        first, shape = self.registers, x.shape
        x = x.reshape(shape[0], -1, self.width)

        def collect(x, weights):
            return (
                x.reshape(shape)[:, :, first:] if return_tokens else None,
                weights[:, :, first:, :, first:] if return_attention else None,
            )

        # Parameters are made by the unrolled blocks, whichever way they are used later.
        if self.scan_blocks and picked is None and not self.is_initializing():
            x, (tokens, maps) = self._scan(x, rotation, return_attention, collect)
            unstack = lambda y: tuple(y[i] for i in range(self.depth)) if y is not None else ()
            return x.reshape(shape), unstack(tokens), unstack(maps)
        collected = []
        for number, block in enumerate(self.blocks, 1):
            x, weights = block(x, rotation, return_attention, picked if number == self.depth else None)
            collected.append(collect(x, weights))
        tokens, maps = zip(*collected)
        x = x.reshape(shape) if picked is None else x
        return x, tokens if return_tokens else (), maps if return_attention else ()

    def _scan(self, x, rotation, return_attention, collect):
        """The blocks as one loop: their parameters are stacked here, along a new leading axis."""
        params = [self.variables["params"][f"block_{i}"] for i in range(self.depth)]
        stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *params)
        block = self._block(parent=None)

        def body(x, block_params):
            x, weights = block.apply({"params": block_params}, x, rotation, return_attention)
            return x, collect(x, weights)

        return jax.lax.scan(body, x, stacked)


def _halves(x: Array) -> tuple[Array, Array]:
    """What comes out of the head -> prediction and confidence, float32."""
    pred, logit = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return pred, nn.sigmoid(logit)


def _over_views(dense: nn.Dense, x: Array) -> Array:
    """A linear layer on x (B, V, L, d), which sees it as (B, V*L, d): see `layers`."""
    batch, views, patches, width = x.shape
    return dense(x.reshape(batch, -1, width)).reshape(batch, views, patches, -1)


def build_model(
    variant: str, *, dtype: str = "float32", attention: str = "auto", mesh: Mesh | None = None, **options
) -> Muskie:
    """A `Muskie` of a named variant; `options` are its other attributes.

    Args:
      variant, dtype: names from VARIANTS and DTYPES.
      attention, mesh: see `muskie_jax.models.attention.Attention`.

    Raises:
      ValueError: for an unknown variant or option value, listing the alternatives.
    """
    choices = {
        "variant": (variant, tuple(VARIANTS)),
        "dtype": (dtype, DTYPES),
        "remat": (options.get("remat", "none"), REMAT),
        "view_embed": (options.get("view_embed", "none"), VIEW_EMBED),
    }
    for name, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"{name}={value!r}: choose one of {', '.join(allowed)}")
    size = dataclasses.asdict(VARIANTS[variant])
    return Muskie(**size, dtype=jnp.dtype(dtype), attention=Attention(attention, mesh), **options)
