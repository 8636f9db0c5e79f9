r"""Published recipe of 3D reconstruction with Muskie-L: configs/reconstruct_base.py with another backbone.

    muskie train --config configs/reconstruct_large.py --workdir runs/reconstruct_large \
        --config.reconstruct.backbone=runs/muskie_large --config.data.root=/path/to/datasets

The datasets and the argument :recordings are those of configs/reconstruct_base.py. Blocks are
rematerialised to save memory. The recipe was not run to its end.
"""

import pathlib

from ml_collections import ConfigDict

from muskie_jax.config_file import load_config

BASE = pathlib.Path(__file__).with_name("reconstruct_base.py")


def get_config(arg: str | None = None) -> ConfigDict:
    config = load_config(f"{BASE}:{arg}" if arg else BASE)
    config.model.variant = "large"
    config.model.remat = "block"
    return config
