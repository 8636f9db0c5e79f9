"""Commands on data. `python -m muskie_jax.data <command> --help` lists a command's flags.

inspect   checks the data of a config and shows groups as training would draw them
groups    builds the list of view groups that MegaDepth needs from its list of image pairs
pack      packs a source of a config into shards for fast reading: docs/data.md
verify    reads all files of a pack and compares them with their checksums
"""

from muskie_jax.command_line import run_program
from muskie_jax.data.doctor import INSPECT
from muskie_jax.data.megadepth_groups import GROUPS
from muskie_jax.data.packing.command import PACK, VERIFY

COMMANDS = {"inspect": INSPECT, "groups": GROUPS, "pack": PACK, "verify": VERIFY}


def main(invocation: str = "python -m muskie_jax.data") -> None:
    """Runs the command of `sys.argv`; messages name the invocation."""
    run_program(invocation, __doc__ or "", COMMANDS)


if __name__ == "__main__":
    main()
