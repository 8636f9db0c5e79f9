"""Commands on data: `python -m muskie_jax.data <command> --help` tells the flags of each.

inspect   shows what is in a config's data, what is wrong with it, and what training would see
groups    makes the list of groups that MegaDepth needs, from its list of pairs
pack      packs a source of a config into shards for fast reading: docs/data.md
verify    reads all of a pack, and compares it with what was packed
"""

import json
import sys

from absl import app, flags, logging

from muskie_jax import command_line
from muskie_jax.command_line import INTERRUPTED, fail, parse_flags
from muskie_jax.data.builders.command import PACK, VERIFY
from muskie_jax.data.doctor import INSPECT
from muskie_jax.data.make_groups import GROUPS
from muskie_jax.errors import UserError

COMMANDS = {"inspect": INSPECT, "groups": GROUPS, "pack": PACK, "verify": VERIFY}

flags.adopt_module_key_flags(command_line)  # so that --help shows them


def main(arguments: list[str]) -> None:
    name, *rest = arguments
    logging.set_verbosity(logging.WARNING)
    try:
        result = COMMANDS[name].run(rest)
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    print(json.dumps(result))


def parse(argv: list[str]) -> list[str]:
    """The command and its arguments, the flags parsed."""
    program, *rest = argv
    if rest and rest[0] in ("help", "-h", "--help"):
        print(__doc__.strip())
        sys.exit(0)
    if not rest or rest[0] not in COMMANDS:
        said = f"no command {rest[0]!r}" if rest else "no command"
        fail(f"{said}: write python -m muskie_jax.data with one of {', '.join(COMMANDS)}")
    name, *rest = rest
    command = COMMANDS[name]
    flags.adopt_module_key_flags(sys.modules[command.run.__module__])
    _, *arguments = parse_flags([program, *rest], command.needed, f"muskie_jax.data {name}")
    if len(arguments) != len(command.arguments):
        fail(f"write python -m muskie_jax.data {' '.join((name, *command.arguments))} and its flags")
    return [name, *arguments]


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
