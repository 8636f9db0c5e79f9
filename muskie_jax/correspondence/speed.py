"""Moved: `python -m muskie_jax.perf.correspondence`."""

from muskie_jax.errors import fail

if __name__ == "__main__":
    fail("muskie_jax.correspondence.speed has moved: run python -m muskie_jax.perf.correspondence")
