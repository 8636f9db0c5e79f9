"""Parses command lines: a config file with overrides, and other flags. Mistakes get one-line messages.

An `invocation` is the command that started a program, such as "python -m muskie_jax.data" or "muskie data".
Messages quote it.
"""

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from absl import app, flags, logging
from ml_collections import config_flags

from muskie_jax.checks import check_renamed, check_setting
from muskie_jax.config import default_config
from muskie_jax.config_file import (
    check_config_file,
    key_error_lines,
    load_config,
    takes_no_argument,
    why_not_loaded,
)
from muskie_jax.data.posed.settings import check_depth_unit, readers_with
from muskie_jax.errors import MACHINE_ERROR, UserError, fail
from muskie_jax.processes.standard_streams import lasting_streams

FLAGS = flags.FLAGS
CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, such as configs/quickstart.py.")
WORKDIR = flags.DEFINE_string("workdir", None, "Folder for results: checkpoints, metrics and pictures.")
OUT = flags.DEFINE_string("out", None, "File or folder to write.")
SHARED_FLAGS = ("config", "workdir", "out")
INTERRUPTED = 130  # exit status
HELP = ("-h", "--help")
NOT_A_NUMBER = {
    "invalid literal for int()": "a whole number",
    "could not convert string to float": "a number",
}


class Command(NamedTuple):
    """One command of a program with several commands.

    Attributes:
      run: function from the positional arguments to the result, which is printed as JSON.
      needed: required flags, with an example value for each.
      optional: other flags that the command accepts.
      arguments: names of the positional arguments.
    """

    run: Callable[[list[str]], dict[str, Any]]
    needed: Mapping[str, str]
    optional: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()


def run_program(invocation: str, about: str, commands: Mapping[str, Command]) -> None:
    """Runs `<invocation> <command> <flags>` and prints its result as one JSON object.

    Args:
      invocation: the command that started the program.
      about: text printed for --help, with one line per command.
      commands: name -> command.
    """

    def parse(argv: list[str]) -> list[str]:
        rest = argv[1:]
        if rest and rest[0] in ("help", *HELP):
            print(about.strip())
            sys.exit(0)
        if not rest or rest[0] not in commands:
            problem = f"has no command {rest[0]!r}" if rest else "needs a command"
            fail(f"{invocation} {problem}: use one of {', '.join(commands)}")
        name, *rest = rest
        command, full_name = commands[name], f"{invocation} {name}"
        taken = (*command.needed, *command.optional)
        if asks_for_help(rest):
            first_line = (command.run.__doc__ or "").splitlines()[0]
            print(help_text(full_name, first_line, command.needed, command.optional, command.arguments))
            sys.exit(0)
        _, *arguments = parse_flags([invocation, *rest], command.needed, full_name)
        module = sys.modules[command.run.__module__]
        check_taken(FLAGS.get_key_flags_for_module(module), taken, full_name)
        if len(arguments) != len(command.arguments):
            usage = " ".join((full_name, *command.arguments, "<flags>"))
            expected = len(command.arguments)
            fail(f"{full_name} got {len(arguments)} arguments instead of {expected}: run {usage}")
        return [name, *arguments]

    def run(arguments: list[str]) -> None:
        name, *rest = arguments
        logging.set_verbosity(logging.WARNING)
        with lasting_streams(), _one_line_errors():
            result = commands[name].run(rest)
            print(json.dumps(result))

    app.run(run, flags_parser=parse)


def run_command(
    invocation: str,
    about: str,
    main: Callable[..., None],
    needed: Mapping[str, str],
    optional: Sequence[str] = (),
    arguments: Sequence[str] = (),
    helps: Mapping[str, str] = {},
) -> None:
    """Parses the command line of a program without subcommands, `<invocation> <flags>`, and runs it.

    Args:
      invocation: the command that started the program.
      about: text printed for --help.
      main: the function to run. It gets the list of positional arguments if `arguments` names any.
      needed: required flags, with an example value for each.
      optional: other flags that the program accepts.
      arguments: examples of positional arguments, such as ("photos/",), for help and messages; the program
        needs one at least. Empty if it takes none.
      helps: what flags shared with other programs, such as --out, mean in this one.
    """

    def parse(argv: list[str]) -> list[str]:
        if asks_for_help(argv[1:]):
            print(help_text(invocation, about, needed, optional, arguments, helps))
            sys.exit(0)
        if arguments and all(each.startswith("-") for each in argv[1:]):
            fail(_needs_files(invocation, arguments))
        program, *given = parse_flags(argv, needed, invocation)
        if given and not arguments:
            first = given[0]
            instead = f"pass --{first}" if "=" in first else "leave it out"
            fail(f"{first!r} is not a flag: {instead}")
        if arguments and not given:
            fail(_needs_files(invocation, arguments))
        check_taken((FLAGS[name] for name in SHARED_FLAGS), (*needed, *optional), invocation)
        return [program, *given]

    def run(argv: list[str]) -> None:
        with lasting_streams(), _one_line_errors():
            main(argv[1:]) if arguments else main()

    app.run(run, flags_parser=parse)


def _needs_files(invocation: str, arguments: Sequence[str]) -> str:
    return f"{invocation} needs files: run {' '.join((invocation, *arguments))} <flags>"


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Exits with one line after a UserError, an interrupt, or any error if JAX has no device."""
    try:
        yield
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception:
        if "jax" in sys.modules:  # some commands do without it, and start faster
            from muskie_jax.backend import backend_failure

            if failure := backend_failure():
                fail(failure, MACHINE_ERROR)
        raise


def asks_for_help(arguments: Sequence[str]) -> bool:
    """Returns whether -h or --help is among the arguments."""
    return any(argument in HELP for argument in arguments)


def help_text(
    command: str,
    about: str,
    needed: Mapping[str, str],
    optional: Sequence[str] = (),
    arguments: Sequence[str] = (),
    helps: Mapping[str, str] = {},
) -> str:
    """Returns the help text of a command: an example, a description, and its flags with their defaults.

    For the arguments, see `run_command`; `command` is its `invocation`.
    """
    examples = [f"--{flag} {example}" for flag, example in needed.items()]
    examples = examples or ["<flags>"] * bool(optional)
    lines = [" ".join([command, *arguments, *examples]), "", about.strip(), ""]
    width = max(14, *map(len, (*needed, *optional, "")))
    for flag in (FLAGS[name] for name in (*needed, *optional)):
        if "-" in flag.name:  # another spelling of a flag
            continue
        default = "" if flag.default in (None, "", False, []) else f" ({flag.default})"
        after = " (needed)" if flag.name in needed else default
        lines.append(f"  --{flag.name:<{width}} {helps.get(flag.name, flag.help)}{after}")
    return "\n".join(lines)


def check_taken(present: Iterable[flags.Flag], taken: Sequence[str], command: str) -> None:
    """Exits with a one-line message if a given flag is not one that the command accepts."""
    for flag in present:
        if flag.present and flag.name not in taken:
            fail(f"`{command}` has no flag --{flag.name}: leave it out ({command} --help lists the flags)")


def parse_flags(argv: list[str], needed: Mapping[str, str], invocation: str) -> list[str]:
    """Parses the command line with absl; a mistake in it or in the config file exits with one line.

    Args:
      argv: the program's name and its arguments.
      needed: required flags, with an example value for each.
      invocation: the command that started the program, with its subcommand.

    Returns:
      The program's name and the positional arguments.
    """
    try:
        file = _config_file(argv)
        if file is not None:
            check_config_file(file)
        check_overrides(argv)
        rest = FLAGS(argv)
        _check_given([flag for flag in needed if FLAGS[flag].value is None], "missing", needed)
        _check_given([flag for flag in needed if not str(FLAGS[flag].value).strip()], "empty", needed)
        if CONFIG.value is not None:
            _ = CONFIG.value.job  # absl reports an unloadable config file only on first use
    except flags.Error as error:
        if "Traceback" in str(error):  # the config file raised, after it was given an argument
            reason = str(error).strip().splitlines()[-1].partition(": ")[2]
            if "get_config() takes 0 positional arguments" in reason:
                fail(takes_no_argument((_config_file(argv) or "").partition(":")[0]))
            fail(f"the config could not be loaded: {reason}")
        fail(f"{_describe_value(str(error))} (all flags: {invocation} --help)")
    except UserError as error:
        fail(str(error))
    except (AttributeError, KeyError) as error:
        fail(_unknown_setting(error, argv))
    except Exception as error:  # a config file is Python: it can raise anything
        fail(why_not_loaded(error))
    return rest


def _check_given(lacking: Sequence[str], problem: str, needed: Mapping[str, str]) -> None:
    """Raises UserError if a flag is lacking; `problem` says how."""
    if lacking:
        names = " and ".join(f"--{flag}" for flag in lacking)
        examples = " ".join(f"--{flag} {needed[flag]}" for flag in lacking)
        raise UserError(f"{names} {'is' if len(lacking) == 1 else 'are'} {problem}: pass {examples}")


def _unknown_setting(error: AttributeError | KeyError, argv: Sequence[str]) -> str:
    """Returns a message for a KeyError or AttributeError that a wrong key of a config raised."""
    name = key_error_lines(error)[0]
    for argument in argv:
        if f".{name}=" in argument:
            return _unknown_override(argument, name, _config_file(argv))
    return why_not_loaded(error)


def _unknown_override(argument: str, name: str, file: str | None) -> str:
    """Returns a message that lists the settings that exist where an override has an unknown `name`."""
    path = argument.partition("=")[0].partition(".")[2]
    readers = readers_with(name) if path.startswith("posed.") else []
    hint = f"; of the readers of posed data, only these have it: {', '.join(readers)}" if readers else ""
    try:
        if file is not None:
            check_setting(load_config(file), path, argument)
    except UserError as error:
        return f"{error}{hint}"
    return f"{argument}: unknown setting {name!r}{hint}"


def _describe_value(message: str) -> str:
    """Returns absl's message about the value of a flag, without the words of Python's number parser."""
    for reason, kind in NOT_A_NUMBER.items():
        flag, found, _ = message.removeprefix("flag ").partition(f": {reason}")
        if found:
            return f"{flag} must be {kind}"
    return message


def _config_file(argv: Sequence[str]) -> str | None:
    """Returns the value of --config; None if it is not given."""
    for argument, following in zip(argv, [*argv[1:], ""]):
        name, equals, value = argument.partition("=")
        if name in ("--config", "-config"):
            return value if equals else following
    return None


def check_overrides(argv: Sequence[str]) -> None:
    """Raises UserError for an override of an unknown or renamed setting, such as --config.optim.lr=1.

    Settings of sources and posed datasets depend on the config file, so they are checked when it is loaded.
    """
    for argument in argv:
        if not argument.startswith(("--config.", "-config.")):
            continue
        path, equals, value = argument.lstrip("-").partition(".")[2].partition("=")
        check_renamed(path, equals + value)
        if path.startswith("posed.") and path.endswith(".depth_unit") and equals:
            check_depth_unit(value, f"config.{path}")
        if path.partition(".")[0] not in ("sources", "posed"):
            check_setting(default_config(), path, argument)
