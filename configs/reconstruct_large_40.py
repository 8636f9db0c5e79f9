r"""Published recipe of 3D reconstruction with Muskie-L and a decoder of 40 layers, 20 blocks: 200 epochs.

    muskie train --config configs/reconstruct_large_40.py --workdir runs/reconstruct_large_40 \
        --config.reconstruct.backbone=runs/muskie_large --config.data.root=/path/to/datasets

The datasets and the argument :recordings are those of configs/reconstruct_base.py. As published, each of
four devices has four groups, and blocks are rematerialised completely. On another number of devices, the
same 16 groups are split differently. The recipe was not run to its end.
"""

import pathlib

from ml_collections import ConfigDict

from muskie_jax.config_file import load_config

LARGE = pathlib.Path(__file__).with_name("reconstruct_large.py")


def get_config(arg: str | None = None) -> ConfigDict:
    config = load_config(f"{LARGE}:{arg}" if arg else LARGE)
    config.model.remat = "full"
    config.reconstruct.decoder_depth = 20
    config.duration = "200 epochs"
    return config
