r"""Learns 3D correspondence without data: Muskie-S on synthetic rooms, on one GPU.

    python -m muskie_jax.main --config configs/rooms.py --workdir runs/rooms

Rooms are made on the GPU, a new one for every group. Photographs, any, make better textures:

    --config.sources.rooms.photos=/path/to/photographs
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, synthetic


def get_config(arg: str | None = None) -> ConfigDict:
    del arg
    config = default_config()
    config.model.variant = "small"
    config.sources.rooms = synthetic()

    config.batch.groups = 64
    config.batch.views = 8
    config.batch.reuse = 1
    config.buckets.resolutions = (((128, 128),),)
    config.buckets.views = (2, 4, 8)
    config.mask.modes = (("random", 0.9), ("rectangle", 0.75))

    config.duration = "11_000 steps"
    config.optim.learning_rate = 1e-3
    config.optim.warmup = "500 steps"
    config.data.workers = 4  # they draw masks

    config.evaluation.every = 5_000
    config.evaluation.size = (128, 128)
    config.checkpoint.every = 1_000
    config.log.every = 100
    return config
