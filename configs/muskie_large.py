"""Muskie-L with the published recipe: 400 epochs of 100 000 groups of 8 views on 8 devices, 16 groups per device, blocks rematerialised.

    python -m muskie_jax.main --config configs/muskie_large.py \\
        --config.sources.photos.root=/path/to/scenes --workdir runs/muskie_large

Every update averages the gradients of three batches, at 224, 384 and 512 pixels; 28 programs are compiled at the
start. Other numbers of devices share the same 128 groups. A frame is drawn from a window of 32 consecutive ones.
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, folder


def get_config(arg: str | None = None) -> ConfigDict:
    del arg
    config = default_config()
    config.model.variant = "large"
    config.model.remat = "block"
    config.sources.photos = folder(window=32, holdout=0.01)
    config.batch.groups = 8 * 16
    config.evaluation.groups = 256
    return config
