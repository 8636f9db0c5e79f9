"""The command line: `python -m muskie_jax.main --config configs/quickstart.py --workdir /tmp/run`."""

import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

FLAGS = flags.FLAGS
_CONFIG = config_flags.DEFINE_config_file("config", None, "A file of configs/, with its settings.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder for checkpoints, metrics and pictures.")
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Run as one of several processes: connect to the others before starting."
)
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, with --distributed.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes, with --distributed.")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "This process, with --distributed.")

USAGE_ERROR = 2


def fail(message: str) -> None:
    """Ends the program with one line on standard error."""
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(USAGE_ERROR)


def parse_flags(argv: list[str]) -> list[str]:
    """absl's flags, with one line for what is wrong in them or in the config file."""
    try:
        rest = FLAGS(argv)
    except Exception as error:  # a config file is Python: it can raise anything
        fail(f"{error} (see {argv[0]} --help)" if isinstance(error, flags.Error) else str(error))
    return rest


def main(argv: list[str]) -> None:
    # JAX and everything that needs it are imported once the flags are known to be right.
    import jax

    from muskie_jax.config import validate
    from muskie_jax.errors import UserError
    from muskie_jax.metrics import NotFinite
    from muskie_jax.train import train
    from muskie_jax.writers import print_result

    del argv
    logging.set_verbosity(logging.WARNING)
    try:
        config = _CONFIG.value
        validate(config)
        if _DISTRIBUTED.value:
            jax.distributed.initialize(_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
        workdir = pathlib.Path(_WORKDIR.value).expanduser()
        workdir.mkdir(parents=True, exist_ok=True)
        jobs = {"train": train}
        result = jobs[config.job](config, workdir)
    except (UserError, NotFinite) as error:
        fail(str(error))
    if jax.process_index() == 0:
        print_result(result)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    app.run(main, flags_parser=parse_flags)
