"""Muskie, a multi-view vision backbone, in JAX: pre-training, evaluation and use."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muskie_jax.data.load_images import load_images
    from muskie_jax.interop.load import load_pretrained
    from muskie_jax.interop.save import push_to_hub, save_pretrained

__version__ = "0.2.0"

# Imported on first use, so that `muskie_jax.interop.torch_model` works where JAX is not installed.
_LAZY = {
    "load_images": "muskie_jax.data.load_images",
    "load_pretrained": "muskie_jax.interop.load",
    "push_to_hub": "muskie_jax.interop.save",
    "save_pretrained": "muskie_jax.interop.save",
}
__all__ = ["load_images", "load_pretrained", "push_to_hub", "save_pretrained"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
