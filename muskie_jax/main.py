"""The command line: `python -m muskie_jax.main --config configs/quickstart.py --workdir /tmp/run`."""

import os
import pathlib
import sys

import jax
from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from muskie_jax.benchmark import benchmark
from muskie_jax.config import default_config, suggest, validate
from muskie_jax.data.throughput import benchmark_data
from muskie_jax.errors import NotFinite, UserError
from muskie_jax.plan import plan
from muskie_jax.train import train
from muskie_jax.writers import print_result

FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, with its settings.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics and pictures.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Run as one of several processes: connect to the others before starting."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, with --distributed.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes, with --distributed.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process, with --distributed.")
_STOPPED_EXIT_CODE = flags.DEFINE_integer(
    "stopped_exit_code", 0, "Exit code of a run that a signal ended early, to tell it from a complete one."
)

# config.job -> what runs it
JOBS = {"train": train, "benchmark": benchmark, "benchmark_data": benchmark_data, "plan": plan}
USAGE_ERROR = 2
INTERRUPTED = 130


def fail(message: str) -> None:
    """Ends the program with one line on standard error."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def parse_flags(argv: list[str]) -> list[str]:
    """absl's flags, with one line for what is wrong in them or in the config file."""
    try:
        check_overrides(argv)
        rest = FLAGS(argv)
        for flag, example in (("config", "configs/quickstart.py"), ("workdir", "runs/my_first")):
            if FLAGS[flag].value is None and not FLAGS["help"].value:
                raise UserError(f"--{flag} is missing: write --{flag} {example}")
        _ = _CONFIG.value.job  # a file that could not be loaded is reported only when it is used
    except flags.Error as error:
        if "Traceback" in str(error):  # of a config file that was given an argument, and raised
            reason = str(error).strip().splitlines()[-1].partition(": ")[2]
            fail(f"the config could not be loaded: {reason}")
        fail(f"{error} (all flags: python -m muskie_jax.main --help)")
    except UserError as error:
        fail(str(error))
    except KeyError as error:
        fail(f"no setting {error.args[0]} (in an override of --config)")
    except Exception as error:  # a config file is Python: it can raise anything
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        reason = lines[-1] if lines else "no reason given"
        fail(f"the config could not be loaded: {type(error).__name__}: {reason}")
    return rest


def check_overrides(argv: list[str]) -> None:
    """Raises UserError for an override such as --config.optim.lr=1 of a setting that there is not.

    Settings of sources depend on the config file: they are checked when it is loaded.
    """
    for argument in argv:
        if not argument.startswith(("--config.", "-config.")):
            continue
        *path, name = argument.lstrip("-").partition("=")[0].split(".")[1:]
        section = default_config()
        if path[:1] == ["sources"]:
            continue
        for key in (*path, name):
            if not isinstance(section, ConfigDict) or key not in section:
                known = section if isinstance(section, ConfigDict) else ()
                raise UserError(f"{argument}: no setting {key!r}{suggest(key, known)}")
            section = section[key]


def keep_compiled_programs() -> None:
    """Compiled programs are kept between runs, unless JAX was told where, or ("") not to."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "muskie_jax"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # a home that cannot be written to costs time only
    jax.config.update("jax_compilation_cache_dir", str(cache))


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        fail(f"{argv[1]!r} is no flag: write --{argv[1]}")
    if _COORDINATOR.value and not _DISTRIBUTED.value:
        fail("--coordinator is for one of several processes: write --distributed too")
    logging.set_verbosity(logging.WARNING)
    keep_compiled_programs()
    try:
        config = _CONFIG.value
        validate(config)
        if _DISTRIBUTED.value:
            jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        workdir = pathlib.Path(_WORKDIR.value).expanduser()
        try:
            workdir.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--workdir={workdir} cannot be made: {error.strerror}") from error
        if not os.access(workdir, os.W_OK):
            raise UserError(f"--workdir={workdir} cannot be written to: write another folder")
        result = JOBS[config.job](config, workdir)
    except (UserError, NotFinite) as error:
        fail(str(error))
    except KeyboardInterrupt:
        print("interrupted: the same command goes on from the latest checkpoint", file=sys.stderr)
        sys.exit(INTERRUPTED)
    if jax.process_index() == 0:
        print_result(result)
    if "stopped" in result:
        sys.exit(_STOPPED_EXIT_CODE.value)


if __name__ == "__main__":
    app.run(main, flags_parser=parse_flags)
