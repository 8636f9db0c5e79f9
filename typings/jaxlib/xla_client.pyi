"""Types for `jax.Device`, which jaxlib defines in compiled code without stubs."""

from typing import Any

class Device:
    id: int
    process_index: int
    platform: str
    device_kind: str
    def memory_stats(self) -> dict[str, int] | None: ...

def __getattr__(name: str) -> Any: ...
