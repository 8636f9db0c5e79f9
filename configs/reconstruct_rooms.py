r"""Learns camera poses and point maps without data: Muskie-S and a decoder on synthetic rooms, on one GPU.

    muskie train --config configs/reconstruct_rooms.py --workdir runs/reconstruct_rooms \
        --config.reconstruct.backbone=runs/rooms

`runs/rooms` is the work directory of configs/rooms.py; any other Muskie-S also works. Without this setting,
the backbone starts from random weights. --config.reconstruct.freeze_backbone trains the decoder alone.

A run has 53 PFLOP in 5,000 updates, about ten minutes at 100 TFLOP/s, of which the point head takes 85%. It
was not yet timed on a GPU.

Groups have four views of 128x128. Rooms are rendered on the GPU with exact depth and cameras, a new one
for every group. Photographs make better textures: --config.sources.rooms.photos=/path/to/photographs
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, synthetic


def get_config() -> ConfigDict:
    config = default_config()
    config.task = "reconstruct"
    config.model.variant = "small"
    config.model.residual_dtype = "bfloat16"
    config.sources.rooms = synthetic()
    config.data.workers = 0

    config.batch.groups = 32
    config.batch.views = 4
    config.batch.update(reuse=1, passes=1)
    config.buckets.resolutions = (((128, 128),),)
    config.buckets.views = (4,)

    config.fast_compile = True
    config.duration = "5_000 steps"
    config.optim.learning_rate = 3e-4
    config.optim.warmup = "300 steps"
    config.optim.clip_norm = 1.0

    config.evaluation.every = 1_000
    config.evaluation.groups = 256
    config.evaluation.size = (128, 128)
    config.evaluation.views = 4
    config.checkpoint.every = 1_000
    config.log.every = 100
    return config
