r"""Sweep over masks, reference views and view counts: 15 training runs of Muskie-S on synthetic rooms.

    bash launch/sweep.sh configs/ablations.py --workdir runs/ablations

Each run differs in one setting from `base`, which trains like configs/rooms.py, but with the paper's
masks and with groups of four and eight views. The sweep needs one GPU and no data. Each run takes about as
long as configs/rooms.py. To train on your own photographs:

    bash launch/sweep.sh configs/ablations.py:photos --workdir runs/ablations \
        --config.sources.photos.root=/path/to/scenes

A single run is also a config: configs/ablations.py:views_1, configs/ablations.py:photos,views_1.

| runs | difference from `base` |
|---|---|
| random, rectangle, ellipse, blob, random_walk | one mask mode instead of the paper's three |
| ratio_50, ratio_90 | all modes of `base` with this ratio |
| references_0, references_1, references_3 | a fixed number of reference views instead of V/4 to V/2 |
| views_1, views_2, views_4, views_8 | groups of this size only; `views_1` learns from single views |

All runs see the same number of images per update. Each run prints the error under its own masks, so these
errors are not comparable. launch/sweep.sh ends with the command that evaluates all runs in the same way.
Overrides such as --config.duration='30_000 steps', --config.model.variant=base or --config.seed=1 apply to
all runs.
"""

from typing import Any

from ml_collections import ConfigDict

from muskie_jax.config import default_config, folder, synthetic
from muskie_jax.sweeps import choose, override

# Modes that hide one region get the paper's ratio for regions, including modes that the paper does not use.
RANDOM_RATIO, REGION_RATIO = 0.9, 0.75
PUBLISHED_MODES = ("random", "rectangle", "ellipse")


def sweep() -> dict[str, dict[str, Any]]:
    runs: dict[str, dict[str, Any]] = {"base": {}}
    runs["random"] = {"mask.modes": (("random", RANDOM_RATIO),)}
    for mode in ("rectangle", "ellipse", "blob", "random_walk"):
        runs[mode] = {"mask.modes": ((mode, REGION_RATIO),)}
    for percent in (50, 90):
        runs[f"ratio_{percent}"] = {"mask.modes": tuple((mode, percent / 100) for mode in PUBLISHED_MODES)}
    for count in (0, 1, 3):
        runs[f"references_{count}"] = {"mask.num_reference": count}
    for views in (1, 2, 4, 8):
        runs[f"views_{views}"] = {"buckets.views": (views,)}
    return runs


def get_config(arg: str | None = None) -> ConfigDict:
    variant, overrides = choose(arg, sweep(), variants=("photos",))
    config = default_config()
    config.model.variant = "small"
    if variant == "photos":
        config.sources.photos = folder()
    else:
        config.sources.rooms = synthetic()
        config.data.workers = 0

    config.batch.groups = 64
    config.batch.views = 8
    config.batch.update(reuse=1, passes=1)
    config.buckets.resolutions = (((128, 128),) * 4 + ((224, 224),),)
    config.buckets.views = (4, 8)

    config.duration = "9_000 steps"
    config.optim.learning_rate = 1e-3
    config.optim.warmup = "500 steps"

    config.evaluation.every = 3_000
    config.evaluation.size = (128, 128)
    config.checkpoint.every = 1_000
    config.log.every = 100
    return override(config, overrides)
