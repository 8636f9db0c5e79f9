r"""Published recipe of Muskie-B on one GPU with 24 GB of memory, such as an RTX 4090, A5000 or L4.

    muskie train --config configs/muskie_base_24gb.py --config.data.root=/path/to/datasets \
        --workdir runs/muskie_base

Data, and the arguments :packed and :photos, are those of muskie_base.py. An update averages the gradients
of 16 passes of 4 groups, in place of 2 passes of 32. As published, these are the second passes of 32 groups
and the first passes of the next 32.

Two things differ from muskie_base.py. Each pass draws its image shapes and numbers of views, so 4 groups
share them, not 32. The groups of an update are other random groups.

The estimated memory is 13 GiB of the 18 GiB that JAX takes by default. One GPU needs months for the recipe;
docs/training.md has figures. On 2, 4 or 8 such GPUs, use --config.batch.groups=8, 16 or 32 and
--config.batch.passes=8, 4 or 2, so that their product stays 64. To predict memory and time elsewhere:

    muskie plan --config configs/plan.py:muskie_base_24gb --config.plan.machine=l4:1 --workdir runs/plan
"""

import pathlib

from ml_collections import ConfigDict

from muskie_jax.config_file import load_module


def get_config(arg: str | None = None) -> ConfigDict:
    config = load_module(pathlib.Path(__file__).with_name("muskie_base.py")).get_config(arg)
    config.batch.update(groups=4, passes=16)
    config.data.prefetch = 1  # updates kept ready on the GPU; each has 48 batches of images
    return config
