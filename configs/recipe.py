r"""The recipe of a ten-minute network, step by step: each run changes one thing about the run `recipe`.

    muskie experiment --config configs/recipe.py --workdir runs/recipe --gpus=0,1

This evaluates on synthetic rooms and needs no data. docs/experiments.md shows how to add recorded sequences
and photographs as textures. --runs=recipe,adamw selects runs. A single run is also a config:
configs/recipe.py:adamw.

`recipe` trains Muskie-S on synthetic rooms with Muon: 256 views per update, 128x128, and 256x256 in one
update of five. Its masks are lighter than published: 75% of random patches, or a rectangle of 60%.
A third of its updates is enough to compare runs: --config.duration='6_500 steps' applies to all of them.

| runs | what they change (what `recipe` does) |
|---|---|
| adamw | AdamW for all parameters (Muon for the kernels of the blocks) |
| rate_5e-4, rate_2e-3 | learning rate 5e-4, 2e-3 (1e-3) |
| decay_0, decay_20 | weight decay 0, 0.2 (0.05) |
| warmup_100, warmup_1000 | warm-up of 100, 1,000 updates (300) |
| linear, cooldown_50, cooldown_20 | linear decay after the warm-up, in the last 50% or 20% (cosine) |
| views_2, views_4, views_8, views_2_4_8 | groups of 2, 4, 8, or 2, 4, 8 views (4 and 8); as many images |
| random, rectangle, ellipse, blob | one mask mode, 75% or (regions) 60% (random and rectangle in turn) |
| masks_heavy, masks_lighter | random 90% and rectangle 75%, as published; 60% and 45% (75% and 60%) |
| batch_128, batch_512, batch_1024 | 128, 512, 1,024 views per update (256); as many images over the run |
| only_128, half_256, only_256, late_256 | 256x256 never, in half of the updates, always, or at the end |
| large_224 | 224x224 instead of 256x256 |
| textures_0, textures_16, textures_64 | at most so many photographs as textures (256); see below |
| cameras, faults, surfaces, wide | parts of configs/wide_rooms.py, and all of them (default rooms) |
| halfway | all of them at half strength |
| roll_45, roll_90, roll_180 | views rolled by up to 45, 90, 180 degrees (12) |
| updates_10000, updates_40000 | 10,000, 40,000 updates (20,000) |
| size_nano, size_tiny, size_base | another size of the network, with UPDATES_OF_SIZES (Muskie-S) |

The runs textures_* differ from `recipe` only with photographs: --config.sources.rooms.photos=/folder.
"""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from muskie_jax.config import default_config, synthetic
from muskie_jax.config_file import load_module
from muskie_jax.data.synthetic import WorldConfig
from muskie_jax.sweeps import choose, override

SMALL, LARGE = (128, 128), (256, 256)
RANDOM, RECTANGLE = ("random", 0.75), ("rectangle", 0.6)
UPDATES = 20_000
# Updates of other sizes in about the minutes of `recipe`, estimated from FLOPs and the time of `recipe`.
# The table's column "minutes" shows how equal they are.
UPDATES_OF_SIZES = {"nano": 48_000, "tiny": 40_000, "base": 7_200}


def sweep() -> dict[str, dict[str, Any]]:
    runs: dict[str, dict[str, Any]] = {"recipe": {}, "adamw": {"optim.name": "adamw"}}
    for name, rate in (("rate_5e-4", 5e-4), ("rate_2e-3", 2e-3)):
        runs[name] = {"optim.learning_rate": rate}
    for name, decay in (("decay_0", 0.0), ("decay_20", 0.2)):
        runs[name] = {"optim.weight_decay": decay}
    for steps in (100, 1_000):
        runs[f"warmup_{steps}"] = {"optim.warmup": f"{steps} steps"}
    for name, cooldown in (("linear", 1.0), ("cooldown_50", 0.5), ("cooldown_20", 0.2)):
        runs[name] = {"optim.schedule": "linear", "optim.cooldown": cooldown}
    for views in ((2,), (4,), (8,), (2, 4, 8)):
        runs[f"views_{'_'.join(map(str, views))}"] = {"buckets.views": views}
    for name, mode in (
        ("random", (RANDOM,)),
        ("rectangle", (RECTANGLE,)),
        ("ellipse", (("ellipse", 0.6),)),
        ("blob", (("blob", 0.6),)),
        ("masks_heavy", (("random", 0.9), ("rectangle", 0.75))),
        ("masks_lighter", (("random", 0.6), ("rectangle", 0.45))),
    ):
        runs[name] = {"mask.modes": mode}
    for views in (128, 512, 1_024):
        runs[f"batch_{views}"] = {"batch.groups": views // 8, "duration": f"{UPDATES * 256 // views} steps"}
    for name, sizes in (
        ("only_128", (SMALL,)),
        ("half_256", (SMALL, LARGE)),
        ("only_256", (LARGE,)),
        ("large_224", (SMALL,) * 4 + ((224, 224),)),
    ):
        runs[name] = {"buckets.resolutions": (sizes,)}
    late = {"buckets.late": ((LARGE,),), "buckets.late_fraction": 0.2}
    runs["late_256"] = {"buckets.resolutions": ((SMALL,),), **late}
    runs["textures_0"] = {"sources.rooms.world.photo_texture_fraction": 0.0}
    for count in (16, 64):
        runs[f"textures_{count}"] = {"sources.rooms.num_photos": count}
    parts = load_module(pathlib.Path(__file__).with_name("wide_rooms.py")).PARTS
    everything = {key: value for part in parts.values() for key, value in part.items()}
    parts = {**parts, "wide": everything, "halfway": halfway(everything)}
    for name, settings in parts.items():
        runs[name] = {f"sources.rooms.world.{key}": value for key, value in settings.items()}
    for degrees in (45, 90, 180):
        runs[f"roll_{degrees}"] = {"sources.rooms.world.roll_jitter": float(degrees)}
    for updates in (UPDATES // 2, 2 * UPDATES):
        runs[f"updates_{updates}"] = {"duration": f"{updates} steps"}
    for variant, updates in UPDATES_OF_SIZES.items():
        runs[f"size_{variant}"] = {"model.variant": variant, "duration": f"{updates} steps"}
    return runs


def halfway(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns settings of a world that are the means of the given ones and the defaults."""

    def mean(value, default):
        if isinstance(value, tuple):
            return tuple(map(mean, value, default))
        return (value + default) // 2 if isinstance(default, int) else (value + default) / 2

    return {key: mean(value, getattr(WorldConfig(), key)) for key, value in settings.items()}


def get_config(arg: str | None = None) -> ConfigDict:
    _, overrides = choose(arg, sweep())
    config = default_config()
    config.model.variant = "small"
    config.model.residual_dtype = "bfloat16"
    config.sources.rooms = synthetic()
    config.data.workers = 0

    config.batch.groups = 32
    config.batch.views = 8
    config.batch.update(reuse=1, passes=1)
    config.buckets.resolutions = ((SMALL,) * 4 + (LARGE,),)
    config.buckets.views = (4, 8)
    config.mask.modes = (RANDOM, RECTANGLE)

    config.fast_compile = True
    config.duration = f"{UPDATES} steps"
    config.optim.update(name="muon", learning_rate=1e-3, warmup="300 steps")

    config.evaluation.every = 0
    config.evaluation.size = (128, 128)
    config.checkpoint.every = 1_000
    config.log.every = 100
    return override(config, overrides)
