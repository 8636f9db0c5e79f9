"""Makes programs start faster."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def fast_imports() -> Iterator[None]:
    """A context for the imports of a program, in which Python does not look for garbage.

    Imports make about a million objects, which stay until the program ends. Python's garbage collector
    would examine them again and again, now and while JAX traces: a quarter of the time until the first
    update of a small run. What exists at the end of the context is never examined again.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()
