"""Whether JAX can compute on this machine."""

import os

import jax

from muskie_jax.errors import first_line


def backend_failure() -> str | None:
    """Returns why JAX has no device to compute on, and what to do about it; None if it has one.

    Every first computation then fails, with JAX's RuntimeError or an AssertionError without a message.
    """
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        platforms = os.environ.get("JAX_PLATFORMS")
        asked = f"of JAX_PLATFORMS={platforms}" if platforms else "on this machine"
        reason = f" ({first_line(error)})" if str(error) else ""
        return (
            f"JAX cannot use the devices {asked}{reason}: check their driver, and that no other process "
            "holds them, or compute on the CPU, by JAX_PLATFORMS=cpu"
        )
    return None
