r"""Muskie-B as published: 400 epochs of 100 000 groups of 8 views, on 8 devices with 4 groups each.

    python -m muskie_jax.main --config configs/muskie_base.py \
        --config.data.root=/path/to/datasets --workdir runs/muskie_base

The ten datasets are in folders of the names they have in muskie_jax/data/layouts.py; docs/data.md says
where they come from. --config.data.allow_missing trains on those that are there. If they are packed:
--config configs/muskie_base.py:packed. On your own photographs: --config configs/muskie_base.py:photos
--config.sources.photos.root=/path/to/scenes

Every update averages the gradients of three batches, at 224, 384 and 512 pixels; 28 programs are
compiled at the start. Other numbers of devices share the same 32 groups.
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, published_sources


def get_config(arg: str | None = None) -> ConfigDict:
    config = default_config()
    config.model.variant = "base"
    config.sources = published_sources(arg)
    config.batch.groups = 8 * 4
    config.evaluation.groups = 256
    return config
