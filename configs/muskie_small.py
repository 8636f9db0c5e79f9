"""Muskie-S with the published recipe, see muskie_base.py.

    python -m muskie_jax.main --config configs/muskie_small.py \
        --config.sources.photos.root=/path/to/scenes --workdir /data/runs/muskie_small
"""

from configs import muskie_base
from ml_collections import ConfigDict


def get_config(arg: str | None = None) -> ConfigDict:
    config = muskie_base.get_config(arg)
    config.model.variant = "small"
    return config
