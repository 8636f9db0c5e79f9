"""Names the runs of a sweep: `python -m muskie_jax.sweeps --config configs/ablations.py`.

A line each, once the configs of all of them have been checked. With --workdir, the folder above those of
the runs, a name is followed by "complete" or "waiting": whether its training there is over.
"""

import functools

from absl import app, flags, logging
from ml_collections import config_flags

from muskie_jax.command_line import CONFIG, OUT, WORKDIR, fail, parse_flags
from muskie_jax.errors import UserError
from muskie_jax.files import user_path
from muskie_jax.sweeps import is_complete, sweep_configs

for flag in (CONFIG, WORKDIR):
    flags.declare_key_flag(flag.name)  # so that --help shows them


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        fail(f"{argv[1]!r} is no flag: write --{argv[1]}")
    if OUT.present:
        fail("--out is not for muskie_jax.sweeps: write --config, and --workdir if you like")
    logging.set_verbosity(logging.WARNING)
    flag = flags.FLAGS[CONFIG.name]
    try:
        configs = sweep_configs(
            config_flags.get_config_filename(flag), config_flags.get_override_values(flag)
        )
        workdir = user_path(WORKDIR.value) if WORKDIR.value else None
    except UserError as error:
        fail(str(error))
    for name, config in configs.items():
        if workdir is None:
            print(name)
        else:
            print(name, "complete" if is_complete(config, workdir / name) else "waiting")


if __name__ == "__main__":
    needed = {"config": "configs/ablations.py"}
    app.run(main, flags_parser=functools.partial(parse_flags, needed=needed, program="muskie_jax.sweeps"))
