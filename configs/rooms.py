r"""Learns 3D correspondence without data: Muskie-S on synthetic rooms, on one GPU.

    muskie train --config configs/rooms.py --workdir runs/rooms

Compilation takes half a minute on an H200 (2026-11-29, with 256 photographs as textures), and training then
runs at 15,300 views per second: 9,000 updates in five minutes. Expect an error on masked patches of
held-out rooms about 38% below visible-mean filling (0.0937 against 0.1519), after 28% at 2,000 updates and
33% at 4,000. These errors come from a complete run of an earlier, slower version with other random rooms.

Rooms are rendered on the GPU, a new one for every group. Any photographs make better textures:

    --config.sources.rooms.photos=/path/to/photographs
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, synthetic


def get_config() -> ConfigDict:
    config = default_config()
    config.model.variant = "small"
    config.model.residual_dtype = "bfloat16"  # 6% faster, and learns as well (docs/speed.md)
    config.sources.rooms = synthetic()

    config.batch.groups = 64
    config.batch.views = 8
    config.batch.update(reuse=1, passes=1)
    # Small images teach correspondence fast. One update in five has larger images, so that larger
    # photographs also work.
    config.buckets.resolutions = (((128, 128),) * 4 + ((224, 224),),)
    config.buckets.views = (2, 4, 8)
    config.mask.modes = (("random", 0.9), ("rectangle", 0.75))

    config.fast_compile = True
    config.duration = "9_000 steps"
    config.optim.learning_rate = 1e-3
    config.optim.warmup = "500 steps"

    config.evaluation.every = 2_000
    config.evaluation.size = (128, 128)
    config.checkpoint.every = 1_000
    config.log.every = 100
    return config
