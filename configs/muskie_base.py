"""Muskie-B as published: 400 epochs of 100 000 groups of 8 views, on 8 devices.

    python -m muskie_jax.main --config configs/muskie_base.py \
        --config.sources.photos.root=/path/to/scenes --workdir /data/runs/muskie_base

Every update averages the gradients of three batches, at 224, 384 and 512 pixels; 28 programs are compiled at the
start. Fewer than 8 devices get larger shares of the same batch of 32 groups.
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, folder

SIZES_512 = ((512, 512), (512, 512), (288, 512), (384, 512), (512, 288), (512, 384))


def get_config(arg: str | None = None) -> ConfigDict:
    del arg
    config = default_config()
    config.model.variant = "base"
    config.sources.photos = folder(window=32, holdout=0.01)
    config.batch.groups = 8 * 4
    config.buckets.resolutions = (((224, 224),), ((384, 384),), SIZES_512)
    config.evaluation.groups = 256
    return config
