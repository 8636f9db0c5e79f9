"""The command line: `python -m muskie_jax.main --config configs/quickstart.py --workdir /tmp/run`."""

import functools
import os
import pathlib
import sys

import jax
from absl import app, flags, logging

from muskie_jax.command_line import CONFIG, INTERRUPTED, WORKDIR, fail, parse_flags
from muskie_jax.config import validate
from muskie_jax.errors import NotFinite, UserError
from muskie_jax.evaluate import evaluate
from muskie_jax.files import user_path
from muskie_jax.perf.benchmark import benchmark
from muskie_jax.perf.loading import benchmark_data
from muskie_jax.perf.plan import plan
from muskie_jax.train import train
from muskie_jax.writers import print_result

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
JOBS = {
    "train": train,
    "evaluate": evaluate,
    "benchmark": benchmark,
    "benchmark_data": benchmark_data,
    "plan": plan,
}
for flag in (CONFIG, WORKDIR):
    flags.declare_key_flag(flag.name)  # so that --help shows them
NEEDED = {"config": "configs/quickstart.py", "workdir": "runs/my_first"}


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


def connect() -> None:
    """Makes this process one of several.

    Raises:
      UserError: if the flags do not say how, and JAX cannot find out either.
    """
    try:
        jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    except (ValueError, IndexError) as error:
        raise UserError(
            "--distributed: write --coordinator=HOST:PORT --num_processes=N --process_id=I, I < N "
            f"({error})"
        ) from error


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        fail(f"{argv[1]!r} is no flag: write --{argv[1]}")
    for flag in (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID):
        if flag.value is not None and not _DISTRIBUTED.value:
            fail(f"--{flag.name} is for one of several processes: write --distributed too")
    logging.set_verbosity(logging.WARNING)
    keep_compiled_programs()
    try:
        config = CONFIG.value
        validate(config)
        workdir = user_path(WORKDIR.value)
        if _DISTRIBUTED.value:
            connect()
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
        print("interrupted: the same command goes on from what was saved", file=sys.stderr)
        sys.exit(INTERRUPTED)
    if jax.process_index() == 0:
        print_result(result)
    if "stopped" in result:
        sys.exit(_STOPPED_EXIT_CODE.value)


if __name__ == "__main__":
    app.run(main, flags_parser=functools.partial(parse_flags, needed=NEEDED, program="muskie_jax.main"))
