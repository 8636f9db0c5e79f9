r"""Learns camera poses and point maps without data: Muskie-S and a decoder on synthetic rooms, on one GPU.

    muskie train --config configs/reconstruct_rooms.py --workdir runs/reconstruct_rooms \
        --config.reconstruct.backbone=small

`small` is the Muskie-S in this repository; any other one also works, such as the work directory of a
training. Without this setting, the backbone starts from random weights.
--config.reconstruct.freeze_backbone trains the decoder alone.

An update of 128 views has 10.5 TFLOP, of which the point head takes 85%. It takes 35 ms on an H200
(600 updates, 2026-11-30), so a run of 5,000 takes three minutes, and one more to compile.

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
