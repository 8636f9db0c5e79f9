"""Tuning of the C allocator for loops that free and allocate large arrays."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt, from glibc's <malloc.h>
MAX_KEPT_BYTES = 512 * 2**20  # limit per thread
MAX_KEPT_ARRAY_BYTES = 32 * 2**20  # limit per array; glibc's upper limit for M_MMAP_THRESHOLD


def keep_freed_memory() -> None:
    """Makes glibc keep the memory of freed images for later allocations.

    By default glibc returns the memory of large arrays to the system. For the next array, the system then
    maps and clears every page again. On a virtual machine this takes longer than decoding. With other C
    libraries this function does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, MAX_KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, MAX_KEPT_ARRAY_BYTES)
