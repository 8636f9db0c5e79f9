r"""Trains on your own photographs: a folder of scenes, each a folder of images.

    muskie train --config configs/photos.py --workdir runs/photos \
        --config.sources.photos.root=/path/to/scenes

The defaults fit a laptop: the tiny network at 128x128 pixels, 200 steps. The run ends with the error on
masked patches, compared with visible-mean filling. How far below it ends depends on the photographs. A
trial of 20 steps needs a shorter warm-up, too:

    --config.duration='20 steps' --config.optim.warmup='2 steps'

For another layout, add for example --config.sources.photos.glob='*/images/*'. For packed photographs
(docs/data.md), use configs/photos.py:packed, and set root to the pack. On a GPU, train a larger network
for longer:

    --config.model.variant=small --config.model.dtype=bfloat16 --config.batch.groups=64
    --config.batch.views=8 --config.buckets.views='(2, 4, 8)' --config.evaluation.views=8
    --config.duration='50_000 steps' --config.data.workers=8
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, folder, packed


def get_config(arg: str | None = None) -> ConfigDict:
    if arg not in (None, "packed"):
        raise ValueError(f"configs/photos.py: unknown argument {arg!r} (choices: packed)")
    config = default_config()
    config.model.variant = "tiny"
    config.model.dtype = "float32"
    config.sources.photos = packed() if arg else folder()

    config.batch.groups = 8
    config.batch.views = 4
    config.batch.passes = 1
    config.buckets.resolutions = (((128, 128),),)
    config.buckets.views = (2, 4)
    config.mask.modes = (("random", 0.75), ("rectangle", 0.5))

    config.duration = "200 steps"
    config.optim.learning_rate = 1e-3
    config.optim.warmup = "20 steps"
    config.data.workers = 0

    config.evaluation.every = 100
    config.evaluation.groups = 16
    config.evaluation.size = (128, 128)
    config.evaluation.views = 4
    config.checkpoint.every = 50
    config.log.every = 10
    return config
