"""Lists the runs of a sweep: `python -m muskie_jax.sweeps --config configs/ablations.py`.

Checks the configs of all runs, then prints one run name per line. With --workdir, the folder that contains
the run folders, "complete" or "waiting" follows each name. It is an error if a run was trained with other
settings.
"""

from absl import logging
from ml_collections import config_flags

from muskie_jax.command_line import CONFIG, FLAGS, WORKDIR, run_command
from muskie_jax.errors import UserError, fail
from muskie_jax.files import user_path
from muskie_jax.sweeps import is_complete, sweep_configs
from muskie_jax.sweeps.trained_settings import require_same_settings

NEEDED = {"config": "configs/ablations.py"}


def list_runs() -> None:
    """Prints the runs of the config file; flags must be parsed."""
    logging.set_verbosity(logging.WARNING)
    flag = FLAGS[CONFIG.name]
    try:
        configs = sweep_configs(
            config_flags.get_config_filename(flag), config_flags.get_override_values(flag)
        )
        workdir = user_path(WORKDIR.value) if WORKDIR.value else None
        if workdir is not None:
            for name, config in configs.items():
                require_same_settings(config, workdir / name)
    except UserError as error:
        fail(str(error))
    for name, config in configs.items():
        if workdir is None:
            print(name)
        else:
            print(name, "complete" if is_complete(config, workdir / name) else "waiting")


def main(invocation: str = "python -m muskie_jax.sweeps") -> None:
    """Lists the runs of the config in `sys.argv`. `invocation` is how messages refer to the program."""
    run_command(invocation, __doc__ or "", list_runs, NEEDED, ("workdir",))


if __name__ == "__main__":
    main()
