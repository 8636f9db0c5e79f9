"""Memory that is freed and asked for again, thousands of times a second."""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of the C library's mallopt
KEPT_BYTES = 512 * 2**20  # at most, by each thread
LARGEST_KEPT_BYTES = 32 * 2**20  # of one array; the most that can be set


def keep_freed_memory() -> None:
    """Tells glibc to keep the memory of freed images for the next ones.

    By default it returns arrays of their size to the system, which then maps and clears every page of
    the next one again: on a virtual machine that takes longer than decoding. Elsewhere than with glibc
    this does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BYTES)
