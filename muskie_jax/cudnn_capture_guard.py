"""Programs run for the first time while nothing is copied to the devices.

When a program with cuDNN's attention first runs, its kernels are made ready by recording them. Copies
from another thread break that: of nine trainings on an H100 (jax 0.11.2, CUDA 13) whose images were copied
meanwhile, seven ended at once, with an error of cuDNN or a crash; of 16 whose images waited, none.
"""

import contextlib
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import TypeVar

import jax

T = TypeVar("T")


class CudnnCaptureGuard:
    """Keeps copies to the devices and first runs apart; later runs and copies overlap.

    Args:
      programs: keys of those that will run.
    """

    def __init__(self, programs: Iterable[Hashable]):
        self._waiting = set(programs)
        self._lock = threading.RLock()
        self._latest = None  # copy, which may still be under way

    def copied(self, copy: Callable[[], T]) -> T:
        """What `copy` returns: once it is there, or, when all programs have run, at once."""
        with self._lock:
            self._latest = copy()
            if self._waiting:
                jax.block_until_ready(self._latest)
            return self._latest

    def run(self, key: Hashable, program: Callable[..., T], *arguments) -> T:
        """Runs a program; the first time nothing else happens until it is done."""
        if key not in self._waiting:
            return program(*arguments)
        with self.undisturbed():
            results = jax.block_until_ready(program(*arguments))
        self._waiting.discard(key)
        return results

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Nothing is copied by `copied` meanwhile: for programs that it does not know."""
        with self._lock:
            jax.block_until_ready(self._latest)
            yield
