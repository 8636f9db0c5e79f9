"""Fingerprints of arrays that do not depend on how the arrays are spread over devices.

The fingerprint is a sum, modulo 2^32, of a bijective hash of every element's bits and position. So it
is computed where the data lies, is the same on any mesh, and always changes when one element does.
"""

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from muskie_jax.sharding import path_name

LANES = (0x9E3779B9, 0x85EBCA6B)  # a sum with each constant: 64 bits in all


def _bits(x: Array) -> Array:
    """The bits of every element as uint32."""
    if x.dtype == jnp.bool_:
        return x.astype(jnp.uint32)
    unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)


def _mix(x: Array) -> Array:
    """MurmurHash3's finaliser: a bijection of uint32 in which every bit depends on every bit."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _fingerprint(x: Array) -> Array:
    """uint32 (lanes,) of one array of elements of at most 32 bits."""
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
    """The fingerprint of an array, and whether all of it is finite.

    Compiled once for each shape, of which a network has few, and not once for the whole tree.
    """
    finite = jnp.isfinite(x).all() if jnp.issubdtype(x.dtype, jnp.floating) else jnp.array(True)
    return _fingerprint(x), finite


def examine(tree: Any) -> tuple[dict[str, str], bool]:
    """The fingerprint of every leaf, by its path, and whether all numbers are finite."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    # One after the other: hundreds of sums over devices under way at once can starve virtual ones.
    examined = [jax.device_get(_examine(leaf)) for _, leaf in leaves]
    fingerprints = {
        path_name(path): "".join(f"{int(lane):08x}" for lane in lanes)
        for (path, _), (lanes, _) in zip(leaves, examined)
    }
    return fingerprints, all(bool(finite) for _, finite in examined)


def digest(tree: Any) -> str:
    """One digest of a whole tree: 16 hexadecimal digits over the names and fingerprints of its leaves."""
    return digest_of(examine(tree)[0])


def digest_of(fingerprints: dict[str, str]) -> str:
    """`digest`, of a tree that was examined already."""
    text = "\n".join(f"{name} {fingerprints[name]}" for name in sorted(fingerprints))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
