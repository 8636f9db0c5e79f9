"""Prevents host-to-device copies during the first run of programs with cuDNN attention.

On the first run, XLA records cuDNN's kernels by CUDA stream capture to build a command buffer
(`--xla_gpu_enable_command_buffer`). A copy from another thread can break that capture. On an H100 (jax
0.11.2, CUDA 13), seven of nine runs that copied images during the capture failed at once with a cuDNN
error or a crash. None of 16 runs failed when copies waited.

No upstream report of this race was found. https://github.com/jax-ml/jax/issues/27599 reports a capture of
cuDNN attention that fails with two GPUs; its cause is not known.
"""

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, TypeVar

import jax

T = TypeVar("T")


class CudnnCaptureGuard:
    """Serialises copies and the first run of each program; later runs overlap with copies.

    Args:
      programs: keys of all programs that will run.
    """

    def __init__(self, programs: Iterable[Hashable]):
        self._not_yet_run = set(programs)
        self._lock = threading.RLock()
        self._last_copy: Any = None  # may still be in progress

    def run_copy(self, copy: Callable[..., T], *arguments) -> T:
        """Returns `copy(*arguments)`; waits for the copy to finish until every program has run once."""
        with self._lock:
            copied = copy(*arguments)
            self._last_copy = copied
            if self._not_yet_run:
                jax.block_until_ready(copied)
            return copied

    def run_program(self, key: Hashable, program: Callable[..., T], *arguments) -> T:
        """Returns `program(*arguments)`; its first run blocks copies and waits for the result."""
        if key not in self._not_yet_run:
            return program(*arguments)
        with self.without_copies():
            results = jax.block_until_ready(program(*arguments))
        self._not_yet_run.discard(key)
        return results

    @contextlib.contextmanager
    def without_copies(self) -> Iterator[None]:
        """Blocks `run_copy` within the context, for programs that have no key in this guard."""
        with self._lock:
            jax.block_until_ready(self._last_copy)
            yield
