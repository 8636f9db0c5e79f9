r"""Published recipe of 3D reconstruction with Muskie-B: 60 epochs of 45,000 groups of 8 views at 224x224.

    muskie train --config configs/reconstruct_base.py --workdir runs/reconstruct_base \
        --config.reconstruct.backbone=runs/muskie_base --config.data.root=/path/to/datasets

`config.data.root` contains the folders `scannetpp`, `blendedmvs` and `arkitscenes/Training`, preprocessed
as docs/evaluation.md describes. BlendedMVS needs the extra `exr`. For recordings with `cameras.json`,
use configs/reconstruct_base.py:recordings and --config.sources.recordings.root=/path/to/recordings.

A step has 16 groups. Backbone and decoder are trained together, with one learning rate. The recipe was not
run to its end, so the final losses are not known.
"""

from ml_collections import ConfigDict

from muskie_jax.config import default_config, recordings
from muskie_jax.errors import UserError


def get_config(arg: str | None = None) -> ConfigDict:
    config = default_config()
    config.task = "reconstruct"
    config.model.variant = "base"
    config.reconstruct.decoder_depth = 2  # "4 layers" in the paper
    if arg == "recordings":
        config.sources.recordings = recordings("cameras")
    elif arg is None:
        config.sources.scannetpp = recordings("scannetpp", "scannetpp")
        config.sources.blendedmvs = recordings("blendedmvs", "blendedmvs")
        config.sources.arkitscenes = recordings("arkitscenes", "arkitscenes/Training")
        for source in config.sources.values():
            source.holdout = 0.01
    else:
        raise UserError(f"{arg!r} is not a valid argument of this config: use none or :recordings")

    config.batch.groups = 16
    config.batch.views = 8
    config.batch.update(reuse=1, passes=1)
    config.buckets.resolutions = (((224, 224),),)
    config.buckets.views = (8,)
    config.epoch_groups = 45_000  # 15,000 from each dataset

    config.duration = "60 epochs"
    config.optim.update(learning_rate=4e-5, warmup="2 epochs")

    config.evaluation.size = (224, 224)
    config.evaluation.views = 8
    config.checkpoint.keep_best = 1
    config.checkpoint.export = True
    return config
