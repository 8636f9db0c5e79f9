r"""Muskie-B as published: 400 epochs of 100 000 groups of 8 views, on 8 devices with 4 groups each.

    python -m muskie_jax.main --config configs/muskie_base.py \
        --config.sources.photos.root=/path/to/scenes --workdir runs/muskie_base

Every update averages the gradients of three batches, at 224, 384 and 512 pixels; 28 programs are
compiled at the start. Other numbers of devices share the same 32 groups. Views are drawn from
32 consecutive frames.
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, folder


def get_config(arg: str | None = None) -> ConfigDict:
    del arg
    config = default_config()
    config.model.variant = "base"
    config.sources.photos = folder(window=32, holdout=0.01)
    config.batch.groups = 8 * 4
    config.evaluation.groups = 256
    return config
