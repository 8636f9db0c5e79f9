"""The console command `muskie`, the same as `python -m muskie_jax`.

Every command lives in a module of its own, which is imported only when the command is used: `muskie --help`
answers without importing JAX.
"""

import difflib
import importlib
import sys
from typing import Any, NamedTuple

from muskie_jax import __version__
from muskie_jax.errors import fail
from muskie_jax.fast_imports import fast_imports
from muskie_jax.processes.interrupt import handle_signals


class Room(NamedTuple):
    """A module with a function `main(invocation, **options)`, and its line in the help text."""

    module: str
    about: str
    is_job: bool = False  # whether the command is a job of `muskie_jax.jobs`, which shares its flags


COMMANDS = {
    "train": Room("muskie_jax.jobs", "trains a network", is_job=True),
    "evaluate": Room(
        "muskie_jax.jobs", "measures correspondence and reconstruction of networks", is_job=True
    ),
    "benchmark": Room("muskie_jax.jobs", "times training steps on this machine", is_job=True),
    "benchmark_data": Room("muskie_jax.jobs", "times the loading of photographs", is_job=True),
    "plan": Room("muskie_jax.jobs", "predicts memory and time on a machine", is_job=True),
    "match": Room("muskie_jax.match", "finds matches between photographs, and draws them"),
    "track": Room("muskie_jax.track", "finds points of a photograph in others"),
    "reconstruct": Room("muskie_jax.reconstruct", "reconstructs points and cameras of photographs"),
    "features": Room("muskie_jax.features", "writes the features of photographs"),
    "inpaint": Room("muskie_jax.inpaint", "paints a hidden part of a photograph"),
    "demo": Room("muskie_jax.demo.__main__", "serves a page to try a network on photographs"),
    "checkpoints": Room("muskie_jax.checkpoints.command", "verifies the checkpoints of a run"),
    "data": Room("muskie_jax.data.__main__", "inspects, packs and verifies data"),
    "interop": Room("muskie_jax.interop.__main__", "exports and imports weights and programs"),
    "report": Room("muskie_jax.report.__main__", "writes the report of an evaluation again"),
    "sweeps": Room("muskie_jax.sweeps.__main__", "lists the runs of a sweep"),
    "experiment": Room("muskie_jax.sweeps.experiment", "trains a sweep with several seeds, and compares"),
    "pooled": Room("muskie_jax.sweeps.pooled", "prints correspondence over all datasets of an evaluation"),
    "figure": Room("muskie_jax.sweeps.figure", "draws an experiment"),
}


def help_text() -> str:
    """Returns the help text, with one line per command."""
    width = max(map(len, COMMANDS))
    lines = ["muskie <command> <flags>", ""]
    lines += [f"  {name:<{width}}  {room.about}" for name, room in COMMANDS.items()]
    lines += [
        "",
        "muskie <command> --help lists the flags of a command; muskie --version prints the version.",
    ]
    return "\n".join(lines)


def main() -> None:
    """Runs `muskie <command> <flags>`, as given in `sys.argv`."""
    name, *rest = sys.argv[1:] or [""]
    if name in ("help", "-h", "--help"):
        print(help_text())
        return
    if name == "--version":
        print(f"muskie_jax {__version__}")
        return
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        meant = f" (did you mean {near[0]!r}?)" if near else ""
        problem = f"muskie has no command {name!r}{meant}" if name else "muskie needs a command"
        fail(f"{problem}: use one of {', '.join(COMMANDS)}")
    room, invocation = COMMANDS[name], f"muskie {name}"
    sys.argv = [invocation, *rest]
    if room.is_job:
        with handle_signals(sys.argv):  # signals may arrive during the slow import
            _imported(room).main(invocation, job=name)
    else:
        _imported(room).main(invocation)


def _imported(room: Room) -> Any:
    with fast_imports():
        return importlib.import_module(room.module)


if __name__ == "__main__":
    main()
