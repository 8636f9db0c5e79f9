"""The transformer layers of Muskie (paper section 3). Axes: B groups, V views, T tokens per view, d width.

Tokens have the shape (B, V*T, d), view after view. Only `SelfAttention` mixes tokens, either within each
view or over each group. (With views as a separate axis, XLA transposes activations on GPUs to compute the
gradients of kernels, which takes twice as long.)
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from muskie_jax.models.attention import ATTENTION, Attention, attention_map, keep_only
from muskie_jax.models.normalization import LayerNorm, gelu
from muskie_jax.models.rope import RotationTable, rotate

INITIAL_VALUES = ("published", "xavier")

# Checkpoint names for results of matrix products, which rematerialisation may save.
PRODUCTS = ("qkv", "mixed", "hidden")
# Activations that a block saves for the backward pass, in addition to its input. The rest is recomputed.
REMAT = {
    "none": None,  # saves all
    "elementwise": (ATTENTION, *PRODUCTS),
    "block": (ATTENTION,),
    "full": (),
}


def dense(
    fan_in: int, features: int, dtype: jnp.dtype, initial_values: str = "published", name: str | None = None
) -> nn.Dense:
    """Returns a linear layer; call it within the module that owns it.

    Args:
      fan_in, features: numbers of input and output channels.
      dtype: dtype of the product.
      initial_values: "published" draws kernel and bias uniformly from ±1/sqrt(fan_in), PyTorch's default;
        "xavier" draws the kernel uniformly by Xavier's rule and starts the bias at 0.
      name: name of the layer.
    """
    if initial_values == "xavier":
        kernel_init, bias_init = nn.initializers.xavier_uniform(), nn.initializers.zeros
    else:
        kernel_init = bias_init = uniform_within(1 / math.sqrt(fan_in))
    return nn.Dense(features, dtype=dtype, kernel_init=kernel_init, bias_init=bias_init, name=name)


def uniform_within(bound: float) -> nn.initializers.Initializer:
    """Returns an initializer that draws uniformly from ±bound."""
    return lambda key, shape, dtype=jnp.float32: jax.random.uniform(key, shape, dtype, -bound, bound)


class SelfAttention(nn.Module):
    """Multi-head self-attention within each view, or over all views of a group."""

    heads: int
    across_views: bool
    dtype: jnp.dtype
    attend: Attention
    initial_values: str = "published"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B VT d"], rotation: RotationTable, return_map: bool = False
    ) -> tuple[Array, Array | None]:
        """Returns attended tokens and, if requested, the attention weights averaged over heads.

        Args:
          x: tokens, view after view.
          rotation: RoPE table of one view's T tokens.
          return_map: whether to return the weights.

        Returns:
          Tokens (B, V*T, d). Weights: float32 (B, V, T, V, T) across views, (B, V, T, T) within a view;
          None unless requested.
        """
        batch, _, width = x.shape
        tokens = len(rotation[0])
        qkv = dense(width, 3 * width, self.dtype, self.initial_values, "qkv")(x)
        qkv = qkv.reshape(batch, -1, tokens, 3, self.heads, width // self.heads)
        query, key, value = rotate(qkv, rotation)
        query, key, value = (checkpoint_name(x, "qkv") for x in (query, key, value))
        attended = self.attend(query, key, value, self.across_views)
        proj = dense(width, width, self.dtype, self.initial_values, "proj")
        out = proj(attended.reshape(batch, -1, width))
        return out, self._map(query, key) if return_map else None

    def _map(self, query: Array, key: Array) -> Array:
        batch, views, tokens, heads, size = query.shape
        if self.across_views:
            sequences = (batch, views * tokens, heads, size)
            shape = (batch, views, tokens, views, tokens)
        else:
            sequences = (batch * views, tokens, heads, size)
            shape = (batch, views, tokens, tokens)
        return attention_map(query.reshape(sequences), key.reshape(sequences)).reshape(shape)


class MLP(nn.Module):
    """Two linear layers around an exact GELU, with 4d hidden channels."""

    dtype: jnp.dtype
    initial_values: str = "published"
    ratio: int = 4

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        width, wide = x.shape[-1], self.ratio * x.shape[-1]
        hidden = dense(width, wide, self.dtype, self.initial_values, "fc1")(x)
        hidden = checkpoint_name(hidden, "hidden")
        return dense(wide, width, self.dtype, self.initial_values, "fc2")(gelu(hidden))


class TransformerLayer(nn.Module):
    """Pre-norm layer: x += Attention(LayerNorm(x)); x += MLP(LayerNorm(x))."""

    heads: int
    across_views: bool
    dtype: jnp.dtype
    attend: Attention
    initial_values: str = "published"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B VT d"], rotation: RotationTable, return_map: bool = False
    ) -> tuple[Array, Array | None]:
        """Returns tokens and attention weights, with arguments and shapes as in `SelfAttention`."""
        norm = lambda x, name: LayerNorm(self.dtype, self.attend.shards, name=name)(x)
        attention = SelfAttention(
            self.heads, self.across_views, self.dtype, self.attend, self.initial_values, name="attention"
        )
        mlp = MLP(self.dtype, self.initial_values, name="mlp")
        mixed, weights = attention(norm(x, "norm1"), rotation, return_map)
        x = checkpoint_name(x + mixed, "mixed")
        x = checkpoint_name(x + mlp(norm(x, "norm2")), "mixed")
        return x, weights


class AlternatingBlock(nn.Module):
    """Alternating-attention block: a frame half within each view, then a global half over all views."""

    heads: int
    dtype: jnp.dtype
    attend: Attention
    initial_values: str = "published"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B VT d"], rotation: RotationTable, return_map: bool = False
    ) -> tuple[Array, Array | None]:
        """Returns tokens and, if requested, the global half's weights, as `SelfAttention` does."""
        layer = lambda across_views, name: TransformerLayer(
            self.heads, across_views, self.dtype, self.attend, self.initial_values, name=name
        )
        x, _ = layer(False, "frame")(x, rotation)
        return layer(True, "global")(x, rotation, return_map)


def block_class(remat: str, prevent_cse: bool = True) -> type[AlternatingBlock]:
    """Returns `AlternatingBlock`, with the rematerialisation of this name from REMAT.

    Args:
      remat: what the backward pass recomputes, see `muskie_jax.models.muskie.Muskie`.
      prevent_cse: False only inside a compiled loop over blocks, see `jax.checkpoint`.
    """
    saved = REMAT[remat]
    if saved is None:
        return AlternatingBlock
    return nn.remat(
        AlternatingBlock,
        static_argnums=(3,),  # `return_map`, counting self: a Python bool that selects outputs
        prevent_cse=prevent_cse,
        policy=keep_only(saved),
    )
