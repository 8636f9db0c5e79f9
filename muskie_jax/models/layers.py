"""The transformer layers of Muskie (SPEC §1). Letters: B groups, V views, T tokens per view, d width.

Tokens keep the shape (B, V, T, d) all the way: whether attention sees one view or all of a group is
decided inside `SelfAttention`, and nothing else ever mixes tokens.
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import Array

from muskie_jax.models.attention import attention, attention_map
from muskie_jax.models.rope import rotate

RotationTable = tuple[np.ndarray, np.ndarray]

kernel_init = nn.initializers.xavier_uniform()


class SelfAttention(nn.Module):
    """Multi-head self-attention inside each view, or over all views of a group."""

    heads: int
    across_views: bool
    dtype: jnp.dtype
    implementation: str

    @nn.compact
    def __call__(
        self, x: Array, rotation: RotationTable, return_map: bool = False
    ) -> tuple[Array, Array | None]:
        """x (B, V, T, d) -> (B, V, T, d) and, if asked for, the head-averaged attention weights.

        The weights are float32 (B, V, T, V, T) across views and (B, V, T, T) inside a view.
        """
        batch, views, tokens, width = x.shape
        dense = lambda features, name: nn.Dense(
            features, dtype=self.dtype, kernel_init=kernel_init, name=name
        )
        qkv = dense(3 * width, "qkv")(x)
        qkv = qkv.reshape(batch, views, tokens, 3, self.heads, width // self.heads)
        query, key, value = (qkv[..., i, :, :] for i in range(3))
        query, key = rotate(query, rotation), rotate(key, rotation)

        if self.across_views:
            sequences = (batch, views * tokens)
            map_shape = (batch, views, tokens, views, tokens)
        else:
            sequences = (batch * views, tokens)
            map_shape = (batch, views, tokens, tokens)
        query, key, value = (y.reshape(*sequences, *y.shape[3:]) for y in (query, key, value))
        out = attention(query, key, value, self.implementation)
        out = dense(width, "proj")(out.reshape(batch, views, tokens, width))
        weights = attention_map(query, key).reshape(map_shape) if return_map else None
        return out, weights


class MLP(nn.Module):
    """Two linear layers around an exact GELU, hidden width 4d."""

    dtype: jnp.dtype
    ratio: int = 4

    @nn.compact
    def __call__(self, x: Array) -> Array:
        width = x.shape[-1]
        x = nn.Dense(self.ratio * width, dtype=self.dtype, kernel_init=kernel_init, name="fc1")(x)
        x = nn.gelu(x, approximate=False)
        return nn.Dense(width, dtype=self.dtype, kernel_init=kernel_init, name="fc2")(x)


class TransformerLayer(nn.Module):
    """Pre-norm layer: x += Attention(LayerNorm(x)); x += MLP(LayerNorm(x))."""

    heads: int
    across_views: bool
    dtype: jnp.dtype
    implementation: str

    @nn.compact
    def __call__(
        self, x: Array, rotation: RotationTable, return_map: bool = False
    ) -> tuple[Array, Array | None]:
        norm = lambda name: nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, name=name)
        attend = SelfAttention(
            self.heads, self.across_views, self.dtype, self.implementation, name="attention"
        )
        mixed, weights = attend(norm("norm1")(x), rotation, return_map)
        x = x + mixed
        x = x + MLP(self.dtype, name="mlp")(norm("norm2")(x))
        return x, weights


class AlternatingBlock(nn.Module):
    """One alternating-attention block: a frame half inside each view, a global half over all views."""

    heads: int
    dtype: jnp.dtype
    implementation: str

    @nn.compact
    def __call__(
        self, x: Array, rotation: RotationTable, return_map: bool = False
    ) -> tuple[Array, Array | None]:
        """x (B, V, T, d) -> (B, V, T, d) and the global half's attention weights, if asked for."""
        layer = lambda across, name: TransformerLayer(
            self.heads, across, self.dtype, self.implementation, name=name
        )
        x, _ = layer(False, "frame")(x, rotation)
        return layer(True, "global")(x, rotation, return_map)
