"""Runs the job of a config: `train`, `evaluate`, `benchmark`, `benchmark_data` or `plan`.

Any setting can be overridden, for example with --config.seed=1. The last line of standard output is the
result, as one JSON object. The same command resumes a training run or an evaluation that was stopped.
"""

import contextlib
import importlib
import pathlib
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import jax
from absl import flags, logging
from ml_collections import ConfigDict, config_flags

from muskie_jax.checkpoints.orbax_messages import collect_orbax_messages
from muskie_jax.checks import one_of
from muskie_jax.command_line import CONFIG, FLAGS, WORKDIR, run_command
from muskie_jax.compilation_cache import keep_compiled_programs
from muskie_jax.config import validate
from muskie_jax.errors import (
    MACHINE_ERROR,
    TRY_AGAIN,
    USAGE_ERROR,
    Hung,
    NotFinite,
    RunFailed,
    SaveFailed,
    UserError,
    end_process,
    fail,
    fail_at_once,
    first_line,
)
from muskie_jax.fast_imports import fast_imports
from muskie_jax.files import user_path, write_traceback
from muskie_jax.processes.coordination import LONGEST_WAIT_MINUTES, Coordination, client_of_peers, connect
from muskie_jax.processes.interrupt import handle_signals
from muskie_jax.processes.peers import end_with_peers, hint_of_peers, tell_peers
from muskie_jax.storage.address import is_remote, storage_path
from muskie_jax.writers import print_result

_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Run as one of several processes: connect to the others before starting."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, with --distributed.")
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "Number of processes, with --distributed.", lower_bound=1
)
_PROCESS_ID = flags.DEFINE_integer(
    "process_id", None, "Index of this process, with --distributed.", lower_bound=0
)
_CONNECT_MINUTES = flags.DEFINE_float(
    "connect_minutes",
    30.0,
    "Minutes to wait for the other processes, with --distributed.",
    lower_bound=0.0,
    upper_bound=LONGEST_WAIT_MINUTES,
)
_STOPPED_EXIT_CODE = flags.DEFINE_integer(
    "stopped_exit_code",
    0,
    "Exit status of a run that a signal stopped, to distinguish it from a finished one.",
    lower_bound=0,
    upper_bound=255,
)

# config.job -> the module with the function of this name, which validates the config before all else.
JOBS = {
    "train": "muskie_jax.train",
    "evaluate": "muskie_jax.evaluate",
    "benchmark": "muskie_jax.perf.benchmark",
    "benchmark_data": "muskie_jax.perf.loading",
    "plan": "muskie_jax.perf.plan",
}
IN_STORAGE = ("train", "evaluate")  # jobs whose work directory may be in object storage
INVOCATION = "python -m muskie_jax.main"
EXAMPLES = {
    "train": {"config": "configs/quickstart.py", "workdir": "runs/my_first"},
    "evaluate": {"config": "configs/evaluate.py", "workdir": "runs/evaluation"},
    "benchmark": {"config": "configs/benchmark.py", "workdir": "runs/benchmark"},
    "benchmark_data": {"config": "configs/benchmark_data.py", "workdir": "runs/benchmark_data"},
    "plan": {"config": "configs/plan.py:muskie_large", "workdir": "runs/plan"},
}
OPTIONAL = (
    "distributed",
    "coordinator",
    "num_processes",
    "process_id",
    "connect_minutes",
    "stopped_exit_code",
)


def check_job(config: ConfigDict, job: str | None) -> None:
    """Raises UserError if `config.job` is unknown, or if `muskie <job>` was started for another job."""
    one_of(config.job, JOBS, "config.job")
    if job not in (None, config.job):
        file = config_flags.get_config_filename(FLAGS[CONFIG.name])
        raise UserError(
            f"{file} is for `muskie {config.job}`: run that instead of `muskie {job}`, or add "
            f"--config.job={job}"
        )


def load_job(name: str) -> Callable[[ConfigDict, pathlib.Path], dict[str, Any]]:
    """Imports a job's function, from the config and the work directory to the result."""
    with fast_imports():
        return getattr(importlib.import_module(JOBS[name]), name)


def run(job: str | None) -> None:
    """Runs the job of the config. Flags must be parsed."""
    for flag in (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID, _CONNECT_MINUTES):
        if flag.present and not _DISTRIBUTED.value:
            fail(f"--{flag.name} is for one of several processes: pass --distributed too")
    logging.set_verbosity(logging.WARNING)
    keep_compiled_programs()
    config, workdir_flag = CONFIG.value, WORKDIR.value
    assert config is not None and workdir_flag is not None, "needed flags were checked"
    workdir = pathlib.Path()
    with handle_signals(sys.argv) as signals:
        try:
            check_job(config, job)
            run_job = load_job(config.job)
            parse = storage_path if config.job in IN_STORAGE else user_path
            workdir = parse(workdir_flag)
            if _DISTRIBUTED.value:
                validate(config)  # before connecting: the others would wait for a process that fails
                addresses = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
                connect(*addresses, minutes=_CONNECT_MINUTES.value)
                coordination = Coordination.of_jax()
                if coordination:
                    signals.join(coordination)
                end_with_peers()
            result = run_job(config, workdir)
        except SaveFailed as error:
            _end_all(str(error))
        except (UserError, NotFinite) as error:
            _end(str(error), USAGE_ERROR)
        except RunFailed as error:
            fail(str(error), error.status)
        except OSError as error:  # of a disk that is full or gone
            details = collect_orbax_messages().write(workdir, error)
            _end_all(f"the run ended ({error}): fix the cause, then run the same command again{details}")
        except Hung as error:
            _end_all(str(error), TRY_AGAIN)
        except Exception as error:
            file = write_traceback(error, workdir)
            hint = hint_of_peers(error, jax.process_count())
            _end(f"{type(error).__name__}: {first_line(error)}{hint} (traceback: {file})", MACHINE_ERROR)
        finally:
            signals.part()
        if jax.process_index() == 0:
            print_result(result)
        status = _STOPPED_EXIT_CODE.value if "stopped" in result else 0
        if is_remote(workdir):
            _end_with_threads(status)
        if status:
            sys.exit(status)


def _end_with_threads(status: int) -> NoReturn:
    """Ends a finished process while threads of storage libraries run.

    Python's usual exit ends such threads inside C++ code, which sometimes aborts the process.
    """
    if jax.process_count() > 1:
        jax.distributed.shutdown()  # waits for the other processes
    with contextlib.suppress(OSError, ValueError):  # a closed stream
        sys.stdout.flush()
        sys.stderr.flush()
    end_process(status)


def _end(message: str, status: int) -> NoReturn:
    """Ends this process, and the others, which may not have the same error."""
    (_end_all if client_of_peers() else fail)(message, status)


def _end_all(message: str, status: int = MACHINE_ERROR) -> NoReturn:
    """Ends all processes of the run after a failure of this machine, without waiting for threads."""
    tell_peers(message, status)
    fail_at_once(message, status)


def main(invocation: str = INVOCATION, job: str | None = None) -> None:
    """Parses `sys.argv` and runs the job of its config.

    Args:
      invocation: the command that started the program, used in messages.
      job: the only job to accept; None accepts any job.
    """
    run_command(invocation, __doc__ or "", lambda: run(job), EXAMPLES[job or "train"], OPTIONAL)
