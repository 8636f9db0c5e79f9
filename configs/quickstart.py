"""Learns to reconstruct synthetic rooms on a laptop.

python -m muskie_jax.main --config configs/quickstart.py --workdir runs/quickstart
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, synthetic


def get_config(arg: str | None = None) -> ConfigDict:
    config = default_config()
    config.model.variant = "tiny"
    config.model.dtype = "float32"
    config.sources.rooms = synthetic()
    config.batch = dict(groups=8, views=4, reuse=1)
    config.buckets = dict(resolutions=(((64, 64),),), views=(4,))
    config.mask.modes = (("random", 0.75),)
    config.duration = "20 steps"
    config.optim.learning_rate = 1e-3
    config.optim.warmup = "5 steps"
    config.data.workers = 0
    config.evaluation.size = (64, 64)
    config.evaluation.views = 4
    config.evaluation.groups = 32
    config.evaluation.every = 0
    config.log.every = 10
    return config
