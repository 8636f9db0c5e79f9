"""Learns 3D structure on a laptop: the tiny network on synthetic rooms, without data and without a GPU.

    muskie train --config configs/quickstart.py --workdir runs/quickstart

It takes about 4 minutes on 2 CPU cores. The error on masked patches ends 35% below visible-mean filling.

Two views of each group are unmasked; three quarters of the other two are masked. The rooms are easier than
the default world: cameras are closer together, and patterns are larger.
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, synthetic


def get_config() -> ConfigDict:
    config = default_config()
    config.model.variant = "tiny"
    config.model.dtype = "float32"
    config.model.initial_values = "xavier"  # learns a little faster in so few updates
    config.sources.rooms = synthetic(
        wall_cell=2.0,
        object_cell=1.0,
        baseline=(0.05, 0.3),
        aim_jitter=0.1,
        roll_jitter=3.0,
        zoom_jitter=0.03,
        centre_jitter=0.0,
    )

    config.batch.groups = 16
    config.batch.views = 4
    config.batch.update(reuse=1, passes=1)
    config.buckets.resolutions = (((64, 64),),)
    config.buckets.views = (4,)
    config.mask.modes = (("random", 0.75),)
    config.mask.num_reference = 2

    config.duration = "400 steps"
    config.optim.learning_rate = 2e-3
    config.optim.warmup = "40 steps"
    config.data.workers = 0

    config.evaluation.every = 200
    config.evaluation.groups = 64
    config.evaluation.size = (64, 64)
    config.evaluation.views = 4
    config.checkpoint.every = 100
    config.log.every = 20
    return config
