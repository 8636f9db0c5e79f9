r"""Predicts memory, arithmetic, traffic and time of another config on a machine that need not be present.

    muskie plan --config configs/plan.py:muskie_large --config.plan.machine=v5e:4x4 --workdir runs/plan

The argument is the name of a config in this folder; override its settings as for training. Compiling all
28 programs of the published recipe takes one to two hours on two CPU cores. A few programs are nearly as
informative: --config.plan.buckets='224x224x8, 512x512x8'. docs/plan.md explains the table and lists
the numbers to expect.
"""

import pathlib

from ml_collections import ConfigDict

from muskie_jax.config_file import load_config


def get_config(arg: str | None = None) -> ConfigDict:
    folder = pathlib.Path(__file__).parent
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "plan")
    if arg not in names:
        raise ValueError(
            f"configs/plan.py needs the name of a config, not {arg!r} (choices: {', '.join(names)})"
        )
    config = load_config(folder / f"{arg}.py")
    config.job = "plan"
    return config
