"""The transformer layers of Muskie (paper section 3). Axes: B groups, V views, T tokens per view, d width.

Tokens have the shape (B, V*T, d), view after view. Only `SelfAttention` mixes tokens, either within each
view or over each group. (With views as a separate axis, XLA transposes activations on GPUs to compute the
gradients of kernels, which takes twice as long.)
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Float

from muskie_jax.models.attention import Attention, attention_map
from muskie_jax.models.normalization import LayerNorm, gelu
from muskie_jax.models.picking import Picked, take
from muskie_jax.models.rope import RotationTable, rotate

kernel_init = nn.initializers.xavier_uniform()

# Checkpoint names for results of matrix products, which rematerialisation may save.
PRODUCTS = ("qkv", "mixed", "hidden")


def dense(features: int, dtype: jnp.dtype, name: str) -> nn.Dense:
    """Returns a linear layer; call it within the `__call__` of the module that owns it."""
    return nn.Dense(features, dtype=dtype, kernel_init=kernel_init, name=name)


class SelfAttention(nn.Module):
    """Multi-head self-attention within each view, or over all views of a group."""

    heads: int
    across_views: bool
    dtype: jnp.dtype
    attend: Attention

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B VT d"],
        rotation: RotationTable,
        return_map: bool = False,
        picked: Picked | None = None,
    ) -> tuple[Array, Array | None]:
        """Returns attended tokens and, if requested, the attention weights averaged over heads.

        Args:
          x: tokens, view after view.
          rotation: RoPE table of one view's T tokens.
          return_map: whether to return the weights; requires `picked` to be None.
          picked: the K tokens per group that are queries, across views only; None for all tokens.

        Returns:
          Tokens (B, V*T, d), or with `picked` (B, K, d). Weights: float32 (B, V, T, V, T) across views,
          (B, V, T, T) within a view; None unless requested.
        """
        batch, _, width = x.shape
        tokens = len(rotation[0])
        qkv = dense(3 * width, self.dtype, "qkv")(x)
        qkv = qkv.reshape(batch, -1, tokens, 3, self.heads, width // self.heads)
        query, key, value = rotate(qkv, rotation)
        if picked is not None:
            query = take(query.reshape(batch, -1, *query.shape[3:]), picked)[:, None]
        query, key, value = (checkpoint_name(x, "qkv") for x in (query, key, value))
        attended = self.attend(query, key, value, self.across_views)
        out = dense(width, self.dtype, "proj")(attended.reshape(batch, -1, width))
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
    ratio: int = 4

    @nn.compact
    def __call__(self, x: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
        width = x.shape[-1]
        hidden = checkpoint_name(dense(self.ratio * width, self.dtype, "fc1")(x), "hidden")
        return dense(width, self.dtype, "fc2")(gelu(hidden))


class TransformerLayer(nn.Module):
    """Pre-norm layer: x += Attention(LayerNorm(x)); x += MLP(LayerNorm(x))."""

    heads: int
    across_views: bool
    dtype: jnp.dtype
    attend: Attention

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B VT d"],
        rotation: RotationTable,
        return_map: bool = False,
        picked: Picked | None = None,
    ) -> tuple[Array, Array | None]:
        """Returns tokens and attention weights, with arguments and shapes as in `SelfAttention`."""
        norm = lambda x, name: LayerNorm(self.dtype, self.attend.shards, name=name)(x)
        attention = SelfAttention(self.heads, self.across_views, self.dtype, self.attend, name="attention")
        mixed, weights = attention(norm(x, "norm1"), rotation, return_map, picked)
        if picked is not None:
            x = take(x, picked)
        x = checkpoint_name(x + mixed, "mixed")
        x = checkpoint_name(x + MLP(self.dtype, name="mlp")(norm(x, "norm2")), "mixed")
        return x, weights


class AlternatingBlock(nn.Module):
    """Alternating-attention block: a frame half within each view, then a global half over all views."""

    heads: int
    dtype: jnp.dtype
    attend: Attention

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B VT d"],
        rotation: RotationTable,
        return_map: bool = False,
        picked: Picked | None = None,
    ) -> tuple[Array, Array | None]:
        """Returns tokens and, if requested, the global half's weights, as `SelfAttention` does.

        `picked` applies to the global half; the frame half computes all tokens, which are its keys.
        """
        layer = lambda across_views, name: TransformerLayer(
            self.heads, across_views, self.dtype, self.attend, name=name
        )
        x, _ = layer(False, "frame")(x, rotation)
        return layer(True, "global")(x, rotation, return_map, picked)
