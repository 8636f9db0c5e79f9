"""Repeats reads that failed because of a fault that may pass, such as a server that restarts."""

import errno
from collections.abc import Callable
from time import sleep
from typing import TypeVar

T = TypeVar("T")

RETRY_SECONDS = (0.2, 1.0, 5.0)  # waiting times before a second, third and fourth attempt

# Faults of a disk, a network or a file server.
DISK_FAULTS = (
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.ECONNRESET,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ENOTCONN,
    errno.ENETDOWN,
    errno.ENETUNREACH,
    errno.ENETRESET,
    errno.EHOSTDOWN,
    errno.EHOSTUNREACH,
    errno.EAGAIN,
    errno.EBUSY,
    getattr(errno, "EREMOTEIO", errno.EIO),  # Linux only
)
# This process or machine has too little of something. Other files would fail too.
SHORTAGES = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)


def may_pass(error: Exception) -> bool:
    """Returns whether a read that raised `error` may succeed later."""
    return isinstance(error, OSError) and error.errno in (*DISK_FAULTS, *SHORTAGES)


def retried(read: Callable[[], T], may_pass: Callable[[Exception], bool] = may_pass) -> T:
    """Returns `read()`, repeated up to three times while it raises errors that may pass.

    Args:
      read: the function to call; it must be safe to repeat.
      may_pass: whether an error is worth another attempt.

    Raises:
      Exception: the error of the last attempt, or the first that does not pass.
    """
    for seconds in RETRY_SECONDS:
        try:
            return read()
        except Exception as error:
            if not may_pass(error):
                raise
        sleep(seconds)
    return read()
