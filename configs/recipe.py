r"""The recipe of a ten-minute network, step by step: each run changes one thing about the run `recipe`.

    muskie experiment --config configs/recipe.py --workdir runs/recipe --gpus=0,1

This evaluates on synthetic rooms and needs no data. docs/experiments.md shows how to add recorded sequences
and photographs as textures. --runs=recipe,adamw selects runs. A single run is also a config:
configs/recipe.py:adamw.

`recipe` trains Muskie-S on synthetic rooms with Muon: 256 views per update, 128x128, and 256x256 in one
update of five. Its masks are lighter than published: 75% of random patches, or a rectangle of 60%. Its
rooms are halfway between the default and those of configs/wide_rooms.py. A seventh of the updates is enough
to compare runs: the variant `short`, as in configs/recipe.py:short and configs/recipe.py:short,adamw.

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
| default_rooms, wide_rooms | the default rooms, or those of configs/wide_rooms.py (halfway) |
| no_cameras, no_faults, no_surfaces | one part of configs/wide_rooms.py as in default rooms (halfway) |
| roll_45, roll_90, roll_180 | views rolled by up to 45, 90, 180 degrees (21) |
| updates_10500, updates_42000 | 10,500, 42,000 updates (21,000) |
| size_nano, size_tiny, size_base | another size of the network, with UPDATES_OF_SIZES (Muskie-S) |

The runs textures_* differ from `recipe` only with photographs: --config.sources.rooms.photos=/folder.
"""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from muskie_jax.config import default_config, synthetic, total_steps
from muskie_jax.config_file import load_module
from muskie_jax.data.synthetic import WorldConfig
from muskie_jax.sweeps import choose, override

SMALL, LARGE = (128, 128), (256, 256)
RANDOM, RECTANGLE = ("random", 0.75), ("rectangle", 0.6)
UPDATES = 21_000
SHORT, SHORTER = "short", 7  # variant of all runs, and the factor by which they are shorter
# Updates of other sizes in about the minutes of `recipe`; for nano and base estimated from FLOPs.
# The table's column "minutes" shows how equal they are.
UPDATES_OF_SIZES = {"nano": 54_000, "tiny": 48_000, "base": 7_500}


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
    default = WorldConfig()
    of_rooms = lambda settings: {f"sources.rooms.world.{key}": value for key, value in settings.items()}
    unchanged = lambda keys: of_rooms({key: getattr(default, key) for key in keys})
    runs["default_rooms"] = unchanged(wide_settings())
    runs["wide_rooms"] = of_rooms(wide_settings())
    for name, part in wide_parts().items():
        runs[f"no_{name}"] = unchanged(part)
    for degrees in (45, 90, 180):
        runs[f"roll_{degrees}"] = of_rooms({"roll_jitter": float(degrees)})
    for updates in (UPDATES // 2, 2 * UPDATES):
        runs[f"updates_{updates}"] = {"duration": f"{updates} steps"}
    for variant, updates in UPDATES_OF_SIZES.items():
        runs[f"size_{variant}"] = {"model.variant": variant, "duration": f"{updates} steps"}
    return runs


def wide_parts() -> dict[str, dict[str, Any]]:
    return load_module(pathlib.Path(__file__).with_name("wide_rooms.py")).PARTS


def wide_settings() -> dict[str, Any]:
    return {key: value for part in wide_parts().values() for key, value in part.items()}


def halfway_settings() -> dict[str, Any]:
    """Returns settings of rooms halfway between the default and configs/wide_rooms.py."""
    default = WorldConfig()
    return {key: mean(value, getattr(default, key)) for key, value in wide_settings().items()}


def mean(value: Any, other: Any) -> Any:
    """Returns the mean of two settings: of numbers, rounded down if they are whole, or of pairs of them."""
    if isinstance(value, tuple):
        return tuple(map(mean, value, other))
    return (value + other) // 2 if isinstance(other, int) else (value + other) / 2


def get_config(arg: str | None = None) -> ConfigDict:
    variant, overrides = choose(arg, sweep(), variants=(SHORT,))
    config = default_config()
    config.model.variant = "small"
    config.model.residual_dtype = "bfloat16"
    config.sources.rooms = synthetic(**halfway_settings())
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
    override(config, overrides)
    if variant == SHORT:
        config.duration = f"{total_steps(config) // SHORTER} steps"
    return config
