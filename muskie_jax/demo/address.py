"""The address that the page is served on."""

import socket

from muskie_jax.errors import UserError

LOOPBACK = ("127.0.0.1", "localhost", "::1")  # of this machine alone; the first is the default


def check_port(host: str, port: int) -> None:
    """Raises UserError if the page cannot be served at an address."""
    try:
        with socket.create_server((host, port), family=address_family(host)):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"--port={port} cannot be opened on {host}: {reason}: choose another port"
        ) from error


def address_family(host: str) -> socket.AddressFamily:
    """Returns IPv6 for addresses with a colon, and IPv4 for other names."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET
