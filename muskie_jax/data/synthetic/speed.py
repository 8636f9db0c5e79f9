"""Moved: `python -m muskie_jax.perf.rendering`."""

from muskie_jax.errors import fail

if __name__ == "__main__":
    fail("muskie_jax.data.synthetic.speed has moved: run python -m muskie_jax.perf.rendering")
