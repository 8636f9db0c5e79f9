"""The transformer layers of Muskie. Letters: B groups, V views, T tokens per view, d width.

Tokens have the shape (B, V*T, d), view after view: whether attention sees one view or all of a group
is decided inside `SelfAttention`, and nothing else ever mixes tokens. (With views as an axis of their
own XLA transposes activations on GPUs, for the gradients of kernels: half as fast.)
"""

import jax.numpy as jnp
from flax import linen as nn
from jax import Array
from jax.ad_checkpoint import checkpoint_name

from muskie_jax.models.attention import Attention, attention_map
from muskie_jax.models.normalization import LayerNorm, gelu
from muskie_jax.models.picking import Picked, take
from muskie_jax.models.rope import RotationTable, rotate

kernel_init = nn.initializers.xavier_uniform()

# What recomputation in the backward pass can spare: results of matrix products, by name.
PRODUCTS = ("qkv", "mixed", "hidden")


def dense(features: int, dtype: jnp.dtype, name: str) -> nn.Dense:
    """A linear layer of the module whose `__call__` makes it."""
    return nn.Dense(features, dtype=dtype, kernel_init=kernel_init, name=name)


class SelfAttention(nn.Module):
    """Multi-head self-attention inside each view, or over all views of a group."""

    heads: int
    across_views: bool
    dtype: jnp.dtype
    attend: Attention

    @nn.compact
    def __call__(
        self, x: Array, rotation: RotationTable, return_map: bool = False, picked: Picked | None = None
    ) -> tuple[Array, Array | None]:
        """x (B, V*T, d) -> (B, V*T, d) and, if asked for, the head-averaged attention weights.

        `rotation` is the table of one view's T tokens. The weights are float32 (B, V, T, V, T)
        across views and (B, V, T, T) inside a view. Across views, `picked` are the only tokens that
        attend to others: then the result is (B, K, d), and there are no weights.
        """
        batch, _, width = x.shape
        tokens = len(rotation[0])
        qkv = dense(3 * width, self.dtype, "qkv")(x)
        qkv = qkv.reshape(batch, -1, tokens, 3, self.heads, width // self.heads)
        query, key, value = rotate(qkv, rotation)
        if picked is not None:
            query = take(query.reshape(batch, -1, *query.shape[3:]), picked)[:, None]
        query, key, value = (checkpoint_name(x, "qkv") for x in (query, key, value))
        out = self.attend(query, key, value, self.across_views)
        out = dense(width, self.dtype, "proj")(out.reshape(batch, -1, width))
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
    """Two linear layers around an exact GELU, hidden width 4d."""

    dtype: jnp.dtype
    ratio: int = 4

    @nn.compact
    def __call__(self, x: Array) -> Array:
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
        self, x: Array, rotation: RotationTable, return_map: bool = False, picked: Picked | None = None
    ) -> tuple[Array, Array | None]:
        norm = lambda x, name: LayerNorm(self.dtype, self.attend.shards, name=name)(x)
        attention = SelfAttention(self.heads, self.across_views, self.dtype, self.attend, name="attention")
        mixed, weights = attention(norm(x, "norm1"), rotation, return_map, picked)
        if picked is not None:
            x = take(x, picked)
        x = checkpoint_name(x + mixed, "mixed")
        x = checkpoint_name(x + MLP(self.dtype, name="mlp")(norm(x, "norm2")), "mixed")
        return x, weights


class AlternatingBlock(nn.Module):
    """One alternating-attention block: a frame half inside each view, a global half over all views."""

    heads: int
    dtype: jnp.dtype
    attend: Attention

    @nn.compact
    def __call__(
        self, x: Array, rotation: RotationTable, return_map: bool = False, picked: Picked | None = None
    ) -> tuple[Array, Array | None]:
        """x (B, V*T, d) -> (B, V*T, d) and the global half's attention weights, if asked for.

        With `picked`, only those tokens: (B, K, d).
        """
        layer = lambda across, name: TransformerLayer(
            self.heads, across, self.dtype, self.attend, name=name
        )
        x, _ = layer(False, "frame")(x, rotation)
        return layer(True, "global")(x, rotation, return_map, picked)
