"""Flags of the commands: a config file with overrides, and one line for every mistake."""

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from absl import app, flags, logging
from ml_collections import config_flags

from muskie_jax.checks import check_setting
from muskie_jax.config import default_config
from muskie_jax.errors import UserError, one_line

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, with its settings.")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "Folder for what comes of it: checkpoints, figures, pictures."
)
OUT = flags.DEFINE_string("out", None, "The file or folder to make.")
USAGE_ERROR = 2
INTERRUPTED = 130


class Command(NamedTuple):
    """A command of a program that has several.

    Attributes:
      run: gets the arguments that are no flags, returns what is printed as JSON.
      needed: flags that must be given, with an example of each.
      optional: other flags that it takes.
      arguments: names of the arguments.
    """

    run: Callable[[list[str]], dict[str, Any]]
    needed: Mapping[str, str]
    optional: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


def run_program(program: str, about: str, commands: Mapping[str, Command]) -> None:
    """Runs `python -m <program> <command> <flags>`, and prints its result as one JSON object.

    Args:
      program: what comes after `python -m`.
      about: shown for --help, a line for each command.
      commands: by name.
    """

    def parse(argv: list[str]) -> list[str]:
        _, *rest = argv
        if rest and rest[0] in ("help", "-h", "--help"):
            print(about.strip())
            sys.exit(0)
        if not rest or rest[0] not in commands:
            said = f"no command {rest[0]!r}" if rest else "no command"
            fail(f"{said}: write python -m {program} with one of {', '.join(commands)}")
        name, *rest = rest
        command = commands[name]
        taken = (*command.needed, *command.optional)
        if "--help" in rest or "-h" in rest:
            print(describe_command(program, name, command))
            sys.exit(0)
        _, *arguments = parse_flags([program, *rest], command.needed, f"{program} {name}")
        for flag in FLAGS.get_key_flags_for_module(sys.modules[command.run.__module__]):
            if flag.present and flag.name not in taken:
                fail(f"--{flag.name} is not for {name} (its flags: python -m {program} {name} --help)")
        if len(arguments) != len(command.arguments):
            fail(f"write python -m {program} {' '.join((name, *command.arguments))} and its flags")
        return [name, *arguments]

    def run(arguments: list[str]) -> None:
        name, *rest = arguments
        logging.set_verbosity(logging.WARNING)
        try:
            result = commands[name].run(rest)
        except UserError as error:
            fail(str(error))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)
        print(json.dumps(result))

    app.run(run, flags_parser=parse)


def describe_command(program: str, name: str, command: Command) -> str:
    """What --help says of one of several commands: an example, what it does, and its flags."""
    examples = [f"--{flag} {example}" for flag, example in command.needed.items()]
    lines = [" ".join(["python -m", program, name, *command.arguments, *examples]), ""]
    lines += [(command.run.__doc__ or "").splitlines()[0], ""]
    for flag in (FLAGS[name] for name in (*command.needed, *command.optional)):
        if "-" in flag.name:  # another spelling
            continue
        default = "" if flag.default in (None, "", False) else f" ({flag.default})"
        lines.append(
            f"  --{flag.name:<14} {flag.help}{' (needed)' if flag.name in command.needed else default}"
        )
    return "\n".join(lines)


def fail(message: str) -> None:
    """Ends the program with one line on standard error."""
    print(f"error: {one_line(message)}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def parse_flags(argv: list[str], needed: Mapping[str, str], program: str) -> list[str]:
    """absl's flags, with one line for what is wrong in them or in the config file.

    Args:
      argv: of the command.
      needed: flags that must be given, and an example of each.
      program: for messages: what comes after `python -m`.
    """
    try:
        check_overrides(argv)
        rest = FLAGS(argv)
        for flag, example in needed.items():
            if FLAGS[flag].value is None and not FLAGS["help"].value:
                raise UserError(f"--{flag} is missing: write --{flag} {example}")
        if CONFIG.value is not None:
            _ = CONFIG.value.job  # a file that could not be loaded is reported only when it is used
    except flags.Error as error:
        if "Traceback" in str(error):  # of a config file that was given an argument, and raised
            reason = str(error).strip().splitlines()[-1].partition(": ")[2]
            fail(f"the config could not be loaded: {reason}")
        fail(f"{error} (all flags: python -m {program} --help)")
    except UserError as error:
        fail(str(error))
    except AttributeError as error:
        text = str(error).replace("\\n", "\n").replace("\\'", "'")  # some are quoted twice
        said = [line.strip("\"' ") for line in text.splitlines()] or [""]
        if not any(f".{said[0]}=" in argument for argument in argv):  # it is the config file's own
            fail(f"the config could not be loaded: AttributeError: {said[-1]}")
        fail(f"no setting {said[0]!r} (in an override of --config). {' '.join(said[1:])}")
    except KeyError as error:
        fail(f"no setting {error.args[0]} (in an override of --config)")
    except Exception as error:  # a config file is Python: it can raise anything
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        reason = lines[-1] if lines else "no reason given"
        fail(f"the config could not be loaded: {type(error).__name__}: {reason}")
    return rest


def check_overrides(argv: list[str]) -> None:
    """Raises UserError for an override such as --config.optim.lr=1 of a setting that there is not.

    Settings of sources and posed datasets depend on the config file: they are checked when it is loaded.
    """
    for argument in argv:
        if not argument.startswith(("--config.", "-config.")):
            continue
        path = argument.lstrip("-").partition("=")[0].partition(".")[2]
        if path.partition(".")[0] not in ("sources", "posed"):
            check_setting(default_config(), path, argument)
