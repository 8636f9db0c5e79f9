"""Fingerprints of arrays, which are independent of their sharding.

A fingerprint is the sum, modulo 2^32, of a bijective hash of each element's bits and position. Devices
compute it on their shards. It is the same on any mesh, and changing one element always changes it.
"""

import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from muskie_jax.sharding import path_name

LANES = (0x9E3779B9, 0x85EBCA6B)  # one sum per constant: 64 bits in all


def _bits(x: Array) -> Array:
    """Returns the bits of every element as uint32."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _mix(x: Array) -> Array:
    """Applies MurmurHash3's finaliser, a bijection of uint32 that mixes every bit into every bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _fingerprint(x: Array) -> Array:
    """Returns the fingerprint, uint32 (lanes,), of an array whose elements have at most 32 bits."""
    position = jnp.zeros(x.shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(x.ndim)):
        step = jnp.uint32(stride % 2**32)
        position += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * step
        stride *= x.shape[axis]
    bits = _bits(x)
    sums = [_mix(bits ^ _mix(position ^ jnp.uint32(c))).sum(dtype=jnp.uint32) for c in LANES]
    return jnp.stack(sums)


@jax.jit
def _examine(x: Array) -> tuple[Array, Array]:
    """Returns an array's fingerprint, and whether all its elements are finite.

    It is jitted per array, since a network has few distinct shapes; one program for the entire tree would
    take longer to compile.
    """
    finite = jnp.isfinite(x).all() if jnp.issubdtype(x.dtype, jnp.floating) else jnp.array(True)
    return _fingerprint(x), finite


class LoweredExaminations:
    """The programs of `examine` for a tree, one for each distinct shape, dtype and sharding.

    It compiles them like one `jax.stages.Lowered`, so that a list of programs has one line for them.
    """

    def __init__(self, tree: Any):
        kinds = {(x.shape, x.dtype, x.sharding): x for x in jax.tree.leaves(tree)}
        self._lowered = [_examine.lower(x) for x in sorted(kinds.values(), key=lambda x: x.size)]

    def compile(self, compiler_options: dict[str, Any] | None = None) -> jax.stages.Compiled:
        """Compiles all programs, and returns that of the largest array."""
        compiled = [lowered.compile(compiler_options) for lowered in self._lowered]
        return compiled[-1]


class Examination(NamedTuple):
    """What `examine` finds about the leaves of a tree.

    Attributes:
      fingerprints: of every leaf, by path.
      finite: whether all leaves are finite.
      unequal: paths of the leaves that this process has on several devices with different contents.
    """

    fingerprints: dict[str, str]
    finite: bool
    unequal: list[str]


def examine(tree: Any) -> Examination:
    """Computes the fingerprint of every leaf of a tree, on each device that has a copy of it."""
    fingerprints, unequal, all_finite = {}, [], True
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        lanes, finite = _examine(leaf)
        # Leaves are read one by one: hundreds of collectives in flight can starve virtual CPU devices.
        copies, finite = jax.device_get(([shard.data for shard in lanes.addressable_shards], finite))
        name, all_finite = path_name(path), all_finite and bool(finite)
        fingerprints[name] = "".join(f"{int(lane):08x}" for lane in copies[0])
        if any((copy != copies[0]).any() for copy in copies):
            unequal.append(name)
    return Examination(fingerprints, all_finite, unequal)


def digest(tree: Any) -> str:
    """Returns the digest of a tree: 16 hexadecimal digits over the paths and fingerprints of its leaves."""
    return digest_of(examine(tree).fingerprints)


def digest_of(fingerprints: dict[str, str]) -> str:
    """Returns the digest of a tree from the fingerprints that `examine` returned."""
    text = "\n".join(f"{name} {fingerprints[name]}" for name in sorted(fingerprints))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
