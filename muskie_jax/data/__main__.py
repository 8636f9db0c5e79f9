"""Commands on data: `python -m muskie_jax.data <command> --help` tells the flags of each.

inspect   shows what is in a config's data, what is wrong with it, and what training would see
groups    makes the list of groups that MegaDepth needs, from its list of pairs
pack      packs a source of a config into shards for fast reading: docs/data.md
verify    reads all of a pack, and compares it with what was packed
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
