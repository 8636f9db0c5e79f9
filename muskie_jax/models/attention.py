"""Softmax attention within views and across views, with each platform's fastest kernel, on any mesh.

Each device has a shard of the groups and of their views. Attention within a view is local. Attention across
views first gathers a group's keys and values from the devices with its other views. XLA cannot partition a
custom kernel, so both kinds run per device under `shard_map`.

`Attention.mesh` is therefore one of two places where the model depends on the mesh. The other is
`LayerNorm.shards` (see `normalization`). XLA partitions everything else, following `muskie_jax.sharding`.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Float, Float32

from muskie_jax.models import flash
from muskie_jax.models.flash import flash_attention
from muskie_jax.models.splash import ATTENTION, splash_attention
from muskie_jax.sharding import GROUP_AXES, group_shards, platform

# Attention weights of one sequence, over all heads, that `cpu_attention` stores at once: 128 MiB. Six heads
# reach it at 2364 tokens, 12 views of 224 x 224.
MAX_WEIGHTS = 2**25
# Queries, and keys, per block of a longer sequence. The weights of a block, 1 MiB, fit a core's cache.
MAX_BLOCK = 512


def xla_attention(
    query: Float[Array, "N Tq heads D"],
    key: Float[Array, "N Tk heads D"],
    value: Float[Array, "N Tk heads D"],
) -> Float[Array, "N Tq heads D"]:
    """Attends with two matrix products, on any platform and dtype. The softmax is float32."""
    out = jax.nn.dot_product_attention(query, key, value, implementation="xla")
    return checkpoint_name(out, ATTENTION)


def cpu_attention(
    query: Float[Array, "N Tq heads D"],
    key: Float[Array, "N Tk heads D"],
    value: Float[Array, "N Tk heads D"],
) -> Float[Array, "N Tq heads D"]:
    """Attends as `xla_attention`, but in long sequences block by block, with a running softmax.

    The backward pass computes weights again. Memory therefore grows with the length of a sequence, and not
    with its square. Source: Rabe and Staats, "Self-attention does not need O(n^2) memory",
    arXiv 2112.05682, algorithm 1.
    """
    batch, queries, heads, size = query.shape
    keys = key.shape[1]
    if heads * queries * keys <= MAX_WEIGHTS:
        return xla_attention(query, key, value)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)

    def attend_head(head):
        query_blocks, key_blocks, value_blocks = head
        columns = key_blocks.shape[2]
        first_keys = columns * jnp.arange(len(key_blocks))

        @jax.checkpoint
        def attend(block: Float[Array, "N rows D"]) -> Float[Array, "N rows D"]:
            def add(carry, keys_and_values):
                largest, total, out = carry
                first, some_keys, some_values = keys_and_values
                logits = product("nqd,nkd->nqk", scaled, some_keys)
                if columns * len(key_blocks) > keys:  # some are padding
                    logits = jnp.where(first + jnp.arange(columns) < keys, logits, -jnp.inf)
                new = jnp.maximum(largest, jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
                weights, rescale = jnp.exp(logits - new), jnp.exp(largest - new)
                total = total * rescale + weights.sum(-1, keepdims=True)
                some_out = product("nqk,nkd->nqd", weights.astype(value.dtype), some_values)
                return (new, total, out * rescale + some_out), None

            scaled = (block.astype(jnp.float32) * size**-0.5).astype(block.dtype)
            column = jnp.zeros((*block.shape[:2], 1), jnp.float32)
            start = (column - jnp.inf, column, jnp.zeros(block.shape, jnp.float32))
            (_, total, out), _ = jax.lax.scan(add, start, (first_keys, key_blocks, value_blocks))
            return (out / total).astype(block.dtype)

        return jax.lax.map(attend, query_blocks)

    out = jax.lax.map(attend_head, (_blocks(query), _blocks(key), _blocks(value)))
    out = out.transpose(2, 1, 3, 0, 4).reshape(batch, -1, heads, size)
    return checkpoint_name(out[:, :queries], ATTENTION)


def _blocks(x: Float[Array, "N T heads D"]) -> Float[Array, "heads blocks N rows D"]:
    """Cuts sequences into blocks of at most MAX_BLOCK tokens; zeros fill the last block."""
    batch, length, heads, size = x.shape
    count = math.ceil(length / MAX_BLOCK)
    rows = math.ceil(length / count)
    padded = jnp.pad(x, ((0, 0), (0, count * rows - length), (0, 0), (0, 0)))
    return padded.reshape(batch, count, rows, heads, size).transpose(3, 1, 0, 2, 4)


def cudnn_attention(
    query: Float[Array, "N Tq heads D"],
    key: Float[Array, "N Tk heads D"],
    value: Float[Array, "N Tk heads D"],
) -> Float[Array, "N Tq heads D"]:
    """Attends with cuDNN's fused kernel, on GPUs, in 16-bit dtypes.

    The kernel supports even lengths. Sequences of odd length are padded by a token, which is masked.
    """
    batch, queries, keys = len(query), query.shape[1], key.shape[1]
    attend = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    if queries % 2 == keys % 2 == 0:
        return attend(query, key, value)
    pad = lambda x: jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))
    out = attend(
        pad(query),
        pad(key),
        pad(value),
        query_seq_lengths=jnp.full(batch, queries, jnp.int32),
        key_value_seq_lengths=jnp.full(batch, keys, jnp.int32),
    )
    return out[:, :queries]


def has_cudnn(head_size: int) -> bool:
    """Returns whether cuDNN supports heads of this many channels."""
    return head_size % 8 == 0


CUDNN_PRIMITIVE = "dot_product_attention_fwd"  # the name of JAX's primitive
KERNELS = {
    "xla": xla_attention,
    "cudnn": cudnn_attention,
    "flash": flash_attention,
    "splash": splash_attention,
}
IMPLEMENTATIONS = ("auto", *KERNELS)
# Kernel -> the only platform it runs on.
PLATFORMS = {"cudnn": "gpu", "flash": "gpu", "splash": "tpu"}


def check_kernel(implementation: str, dtype: str = "bfloat16", deterministic: bool = False) -> None:
    """Raises ValueError if a kernel does not support a dtype or determinism, on any device."""
    if implementation in ("cudnn", "flash") and dtype == "float32":
        raise ValueError(
            f"attention={implementation!r} does not support float32: use 'auto', or dtype='bfloat16'"
        )
    if implementation == "flash" and deterministic:
        raise ValueError(
            "attention='flash' is not deterministic, but config.deterministic is True: use 'auto', which "
            "then selects another kernel"
        )


@dataclasses.dataclass(frozen=True)
class Attention:
    """Attention of every query over the keys of its view or of its group, with softmax scale 1/sqrt(D).

    Attributes:
      implementation: name of the kernel. "xla" runs on any platform. "cudnn" and "flash" (GPU) and "splash"
        (TPU) never store the weights. "auto" selects the fastest kernel for the platform, the dtype, the
        head size and the length of the sequences, see `kernel`.
      mesh: the mesh that shards groups and views (see `muskie_jax.sharding`); None if arrays are on one
        device.
      deterministic: whether "auto" leaves out "flash", whose backward pass adds in an order that varies.
    """

    implementation: str = "auto"
    mesh: Mesh | None = None
    deterministic: bool = False

    def __post_init__(self):
        if self.implementation not in IMPLEMENTATIONS:
            raise ValueError(
                f"attention={self.implementation!r} is not a valid value "
                f"(choices: {', '.join(IMPLEMENTATIONS)})"
            )
        check_kernel(self.implementation, deterministic=self.deterministic)
        required = PLATFORMS.get(self.implementation)
        # Queries the platform only if required: that starts JAX's backend, which imports must not do.
        if required and required != self.platform:
            raise ValueError(
                f"attention={self.implementation!r} needs a {required.upper()}, "
                f"and this is a {self.platform.upper()}: use 'auto'"
            )
        if self.implementation == "flash":
            if not flash.runs_on(self.device):
                raise ValueError(
                    f"attention='flash' needs an H100 or H200, and this is a {self.device.device_kind}: "
                    "use 'auto'"
                )
            if not flash.is_installed():
                raise ValueError(f"attention='flash' needs a package: {flash.INSTALL}")

    @property
    def device(self) -> jax.Device:
        """One of the devices, which are all of the same kind."""
        return jax.devices()[0] if self.mesh is None else self.mesh.devices.flat[0]

    @property
    def platform(self) -> str:
        """The devices' platform: "cpu", "gpu" or "tpu"."""
        if self.mesh is None:
            return jax.default_backend()
        return platform(self.mesh)

    @property
    def shards(self) -> tuple[int, int]:
        """The number of shards of a batch's groups, and of a group's views."""
        return (1, 1) if self.mesh is None else (group_shards(self.mesh), self.mesh.shape["view"])

    def kernel(self, dtype: jnp.dtype, head_size: int, keys: int) -> str:
        """Returns the name of the kernel for arrays of `dtype`.

        Args:
          dtype: dtype of queries, keys and values.
          head_size: channels of a head, D.
          keys: number of keys of a sequence, over all devices.
        """
        fastest = self._fastest_kernel(dtype, head_size, keys)
        if fastest == "flash" and not flash.is_installed():
            return "cudnn" if has_cudnn(head_size) else "xla"
        return fastest

    def misses_flash(self, dtype: jnp.dtype, head_size: int, keys: int) -> bool:
        """Returns whether `kernel` would return "flash" if its package were installed."""
        return self._fastest_kernel(dtype, head_size, keys) == "flash" and not flash.is_installed()

    def _fastest_kernel(self, dtype: jnp.dtype, head_size: int, keys: int) -> str:
        """Returns the name of the kernel that `kernel` would select with all packages installed."""
        if self.implementation != "auto":
            return self.implementation
        if dtype not in (jnp.bfloat16, jnp.float16):
            return "xla"
        if self.platform != "gpu":
            return "splash" if self.platform == "tpu" else "xla"
        has_flash = (
            not self.deterministic and flash.runs_on(self.device) and head_size <= flash.LARGEST_HEAD
        )
        if has_flash and (keys >= flash.FEWEST_KEYS or not has_cudnn(head_size)):
            return "flash"
        return "cudnn" if has_cudnn(head_size) else "xla"

    def __call__(
        self,
        query: Float[Array, "B V T heads D"],
        key: Float[Array, "B V T heads D"],
        value: Float[Array, "B V T heads D"],
        across_views: bool,
    ) -> Float[Array, "B V T heads D"]:
        """Attends within each view, or over all views of each group, in the dtype of `query`."""
        keys = key.shape[1] * key.shape[2] if across_views else key.shape[2]
        kernel = KERNELS[self.kernel(query.dtype, query.shape[-1], keys)]
        if kernel is xla_attention and self.platform == "cpu":
            kernel = cpu_attention

        def per_device(query, key, value):
            if across_views and self.shards[1] > 1:
                key, value = (jax.lax.all_gather(x, "view", axis=1, tiled=True) for x in (key, value))
            merged_axis = 1 if across_views else 0  # a sequence is a group or a view
            sequences = (_merge_with_next(x, merged_axis) for x in (query, key, value))
            return kernel(*sequences).reshape(query.shape)

        if self.mesh is None or self.mesh.size == 1:
            return per_device(query, key, value)
        spec = P(GROUP_AXES, "view")
        # `check_vma` is off, since kernels do not declare which mesh axes their results vary over.
        return jax.shard_map(
            per_device, mesh=self.mesh, in_specs=(spec, spec, spec), out_specs=spec, check_vma=False
        )(query, key, value)


def _merge_with_next(x: Array, axis: int) -> Array:
    """Merges an axis with the next axis."""
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + 2 :])


def keep_only(names: Sequence[str]) -> Callable[..., bool]:
    """Returns a policy for `jax.checkpoint` that saves values with these names and recomputes the rest.

    `checkpoint_name` sets the names. ATTENTION selects a kernel's output and its softmax
    denominators, without which the kernel would have to run again. The denominators of cuDNN and
    FlashAttention cannot be named, so the policy recognises the calls of their forward passes.
    """
    save_named = jax.checkpoint_policies.save_only_these_names(*names)

    def policy(primitive, *arguments, **parameters) -> bool:
        is_cudnn = primitive.name.startswith(CUDNN_PRIMITIVE)
        is_flash = parameters.get("target_name") == flash.FORWARD_CALL
        return ((is_cudnn or is_flash) and ATTENTION in names) or save_named(
            primitive, *arguments, **parameters
        )

    return policy


def attention_map(
    query: Float[Array, "N T heads D"], key: Float[Array, "N T heads D"]
) -> Float32[Array, "N T T"]:
    """Returns attention weights, softmax(q k^T / sqrt(D)), averaged over heads.

    Heads are summed one at a time, so that only the sum and one (N, T, T) map are in memory.
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
