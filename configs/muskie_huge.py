r"""Published recipe of Muskie-H: 400 epochs of 100,000 groups of 8 views, on 8 devices with 16 groups each.

    muskie train --config configs/muskie_huge.py --config.data.root=/path/to/datasets \
        --workdir runs/muskie_huge

`config.data.root` contains one folder per dataset, named as in muskie_jax/data/layouts.py; docs/data.md
says where to get the nine datasets. --config.data.allow_missing skips datasets that are missing. For packed
datasets, use configs/muskie_huge.py:packed. For your own photographs, use
configs/muskie_huge.py:photos and --config.sources.photos.root=/path/to/scenes.

Each of the 312,500 updates averages the gradients of two passes. A pass has three batches, at 224, 384 and
512 pixels, and each loaded batch serves two passes. At the start, 32 programs are compiled. Blocks are
rematerialised to save memory. On another number of devices the same 128 groups are split differently.

The recipe was not run to its end, so the final error is not known. To predict its duration on a machine:

    muskie plan --config configs/plan.py:muskie_huge --config.plan.machine=h100:8 --workdir runs/plan
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, published_sources, to_steps


def get_config(arg: str | None = None) -> ConfigDict:
    config = default_config()
    config.model.variant = "huge"
    config.model.remat = "block"
    config.sources = published_sources(arg)
    config.batch.groups = 8 * 16
    config.evaluation.groups = 256
    config.checkpoint.keep_every = to_steps("50 epochs", config, "config.checkpoint.keep_every")
    config.checkpoint.keep_best = 1
    config.checkpoint.export = True
    return config
