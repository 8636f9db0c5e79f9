"""Identifies this machine and its processes, so that files can say which process made them."""

import os
import pathlib
import socket
import subprocess


def machine() -> str:
    """Identifies the boot and the process namespace (containers); without /proc, the host alone."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def started(process: int) -> str | None:
    """Returns when a process of this machine started; None if it does not run."""
    try:
        status = pathlib.Path(f"/proc/{process}/stat").read_text()
    except OSError:
        if pathlib.Path("/proc/self/stat").exists():
            return None
        command = ["ps", "-o", "lstart=", "-p", str(process)]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
    fields = status.rpartition(")")[2].split()  # the program's name may contain spaces
    is_dead = fields[0] in "ZX"  # a zombie was killed, but its parent did not notice yet
    return None if is_dead else fields[19]
