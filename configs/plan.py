r"""What another config needs on a machine that you need not have: memory, arithmetic, traffic, time.

    python -m muskie_jax.main --config configs/plan.py:muskie_large --config.plan.machine=v5e:4x4 \
        --workdir runs/plan

After the colon comes the name of a config of this folder; settings can be overridden as for training.
Compiling all 28 programs of the published recipe takes an hour or two on two CPU cores; a few of them
say nearly as much: --config.plan.buckets='224x224x8, 512x512x8'. docs/plan.md explains the table.
"""

import pathlib

from ml_collections import ConfigDict

from muskie_jax.config_file import load_config


def get_config(arg: str | None = None) -> ConfigDict:
    folder = pathlib.Path(__file__).parent
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem != "plan")
    if arg not in names:
        raise ValueError(f"write configs/plan.py:<config>, one of {', '.join(names)}")
    config = load_config(folder / f"{arg}.py")
    config.job = "plan"
    return config
