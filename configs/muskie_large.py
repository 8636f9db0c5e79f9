"""Muskie-L with the published recipe, see muskie_base.py: 16 groups per device, blocks rematerialised.

    python -m muskie_jax.main --config configs/muskie_large.py \
        --config.sources.photos.root=/path/to/scenes --workdir /data/runs/muskie_large
"""

from configs import muskie_base
from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    config = muskie_base.get_config(arg)
    config.model.variant = "large"
    config.model.remat = "block"
    config.batch.groups = 8 * 16
    return config
