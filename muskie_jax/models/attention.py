"""Softmax attention inside views and across them, by each platform's best kernel, over any mesh.

A device holds some groups and some views of them. Attention inside a view needs nothing else;
attention across views gathers the keys and values of a group from the devices that share it. Kernels
are no programs that XLA could split by itself, so both are written for one device, under `shard_map`.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from muskie_jax.models.splash import ATTENTION, splash_attention
from muskie_jax.sharding import GROUP_AXES, group_shards, platform


def xla_attention(query: Array, key: Array, value: Array) -> Array:
    """Attention as two matrix products, anywhere and in any type; the softmax is float32."""
    out = jax.nn.dot_product_attention(query, key, value, implementation="xla")
    return checkpoint_name(out, ATTENTION)


def cudnn_attention(query: Array, key: Array, value: Array) -> Array:
    """cuDNN's fused attention, for GPUs and 16-bit types."""
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


CUDNN_PRIMITIVE = "dot_product_attention_fwd"  # what jax calls it
KERNELS = {"xla": xla_attention, "cudnn": cudnn_attention, "splash": splash_attention}
IMPLEMENTATIONS = ("auto", *KERNELS)
PLATFORMS = {"cudnn": "gpu", "splash": "tpu"}  # the only one that a kernel runs on


@dataclasses.dataclass(frozen=True)
class Attention:
    """Attention of every query over the keys of its view or of its group, softmax scale 1/sqrt(D).

    Attributes:
      implementation: "xla" runs anywhere; "cudnn" is for GPUs, "splash" for TPUs, both without ever
        storing the weights; "auto" takes the platform's own for 16-bit types, and xla else.
      mesh: the devices that groups and views are split over (see `muskie_jax.sharding`); None if
        arrays live on one device.
    """

    implementation: str = "auto"
    mesh: Mesh | None = None

    def __post_init__(self):
        if self.implementation not in IMPLEMENTATIONS:
            raise ValueError(
                f"attention={self.implementation!r}: choose one of {', '.join(IMPLEMENTATIONS)}"
            )
        needed = PLATFORMS.get(self.implementation)
        # Asked for only where it matters: asking starts JAX's devices, which importing must not do.
        if needed and needed != self.platform:
            raise ValueError(
                f"attention={self.implementation!r} needs a {needed.upper()}, "
                f"and this is a {self.platform.upper()}: write 'auto'"
            )

    @property
    def platform(self) -> str:
        """ "cpu", "gpu" or "tpu"."""
        if self.mesh is None:
            return jax.default_backend()
        return platform(self.mesh)

    @property
    def shards(self) -> tuple[int, int]:
        """In how many parts groups are split, and the views of a group."""
        return (1, 1) if self.mesh is None else (group_shards(self.mesh), self.mesh.shape["view"])

    def kernel(self, dtype: jnp.dtype) -> str:
        """The name of the kernel for arrays of a type."""
        if self.implementation != "auto":
            return self.implementation
        if dtype not in (jnp.bfloat16, jnp.float16):
            return "xla"
        return {"gpu": "cudnn", "tpu": "splash"}.get(self.platform, "xla")

    def __call__(self, query: Array, key: Array, value: Array, across_views: bool) -> Array:
        """(B, V, T, heads, D) thrice -> (B, V, T, heads, D), in the type of `query`."""
        kernel = KERNELS[self.kernel(query.dtype)]

        def on_one_device(query, key, value):
            if across_views and self.shards[1] > 1:
                key, value = (jax.lax.all_gather(x, "view", axis=1, tiled=True) for x in (key, value))
            sequences = (lambda x: _merge(x, 1)) if across_views else (lambda x: _merge(x, 0))
            return kernel(*map(sequences, (query, key, value))).reshape(query.shape)

        if self.mesh is None or self.mesh.size == 1:
            return on_one_device(query, key, value)
        spec = P(GROUP_AXES, "view")
        # Kernels do not say which mesh axes their results vary over, so that is not checked.
        return jax.shard_map(
            on_one_device, mesh=self.mesh, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False
        )(query, key, value)


def _merge(x: Array, axis: int) -> Array:
    """The same array with an axis and the next one as one."""
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def keep_only(names: Sequence[str]) -> Callable[..., bool]:
    """A policy for `jax.checkpoint`: keep what has one of these names, and compute the rest again.

    The names are those given with `checkpoint_name`. ATTENTION stands for a kernel's result, and for
    what else it would have to run again for: the softmax's denominators. cuDNN's kernel cannot be named.
    """
    named = jax.checkpoint_policies.save_only_these_names(*names)

    def keep(primitive, *arguments, **parameters) -> bool:
        is_kernel = primitive.name.startswith(CUDNN_PRIMITIVE)
        return (is_kernel and ATTENTION in names) or named(primitive, *arguments, **parameters)

    return keep


def attention_map(query: Array, key: Array) -> Array:
    """Attention weights averaged over heads: (N, T, heads, D) twice -> float32 (N, T, T).

    Heads are visited in turn, so that only one (N, T, T) map besides the sum is ever in memory.
    """
    scale = query.shape[-1] ** -0.5

    def add_head(total, head):
        head_query, head_key = head
        logits = jnp.einsum("nqd,nkd->nqk", head_query, head_key, preferred_element_type=jnp.float32)
        return total + jax.nn.softmax(logits * scale, axis=-1), None

    batch, length, heads, _ = query.shape
    zero = jnp.zeros((batch, length, length), jnp.float32)
    by_head = (jnp.moveaxis(query, 2, 0), jnp.moveaxis(key, 2, 0))
    total, _ = jax.lax.scan(add_head, zero, by_head)
    return total / heads
