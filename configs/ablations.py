r"""Which masks, reference views and numbers of views teach the most: 15 trainings, to be compared.

    bash launch/sweep.sh configs/ablations.py --workdir runs/ablations

Each run differs from `base` in one thing. That is Muskie-S on synthetic rooms, like configs/rooms.py, with
the masks of the paper, in groups of four and of eight views; it needs one GPU and no data. On your own
photographs:

    bash launch/sweep.sh configs/ablations.py:photos --workdir runs/ablations \
        --config.sources.photos.root=/path/to/scenes

One run alone is a config, too: configs/ablations.py:views_1, configs/ablations.py:photos,views_1.

| runs | what is compared |
|---|---|
| random, rectangle, ellipse, blob, random_walk | one mask mode instead of the paper's three |
| ratio_50, ratio_90 | the modes of `base`, all with this ratio |
| references_0, references_1, references_3 | a fixed number of views that stay whole, not V/4 to V/2 |
| views_1, views_2, views_4, views_8 | groups of this size only; the first learns from single views |

All see as many images in each update. The errors that they print are of their own masks, and not to be
compared: launch/sweep.sh ends with the command that evaluates all of them alike. Another
--config.duration='30_000 steps', --config.model.variant=base or --config.seed=1 is for all runs.
"""

from typing import Any

from ml_collections import ConfigDict

from muskie_jax.config import default_config, folder, synthetic
from muskie_jax.sweeps import choose, override

# The paper's ratio of a mode that covers a region is also that of those that the paper leaves out.
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
    config.batch.reuse = 1
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
