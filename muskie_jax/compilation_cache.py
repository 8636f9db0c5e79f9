"""The cache of compiled programs that runs and commands share."""

import os
import pathlib

import jax


def keep_compiled_programs() -> None:
    """Caches compiled programs across runs, unless JAX_COMPILATION_CACHE_DIR is set (even to "")."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    try:
        cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "muskie_jax"
        cache.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: the user has no home
        return  # without a cache, programs are only compiled again
    jax.config.update("jax_compilation_cache_dir", str(cache))
