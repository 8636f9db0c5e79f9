r"""The recipe of a ten-minute network, step by step: each run changes one thing about the run `recipe`.

    muskie experiment --config configs/recipe.py --workdir runs/recipe --gpus=0,1

This evaluates on synthetic rooms and needs no data. docs/experiments.md shows how to add recorded sequences
and photographs as textures. --runs=recipe,adamw selects runs. A single run is also a config:
configs/recipe.py:adamw.

`recipe` trains Muskie-S on synthetic rooms at 128x128, 512 views per update, with Muon. With optax's own
Muon, before its matrices were stacked, 5,000 updates took 2m58s with compilation on an H200 (2026-11-29).

| runs | what they change (what `recipe` does) |
|---|---|
| adamw | AdamW for all parameters (Muon for the kernels of the blocks) |
| rate_5e-4, rate_2e-3 | learning rate 5e-4, 2e-3 (1e-3) |
| decay_0, decay_20 | weight decay 0, 0.2 (0.05) |
| warmup_100, warmup_1000 | warm-up of 100, 1,000 updates (300) |
| linear, cooldown_50, cooldown_20 | linear decay after the warm-up, in the last 50% or 20% (cosine) |
| views_2, views_4, views_8, views_4_8 | groups of 2, 4, 8, or 4 and 8 views (2, 4 and 8); as many images |
| random, rectangle, ellipse, blob | one mask mode, 90% or (regions) 75% (random and rectangle in turn) |
| random_75, random_95, rectangle_60 | one mask mode with another ratio: 75%, 95%, 60% |
| batch_256, batch_1024 | 256, 1,024 views per update (512); as many images over the run |
| mixed_224, late_224 | 224x224 in one update of five, throughout or as the last fifth (128x128 only) |
| textures_0, textures_16, textures_64 | at most so many photographs as textures (256); see below |
| cameras, faults, surfaces, wide | parts of configs/wide_rooms.py, and all of them (default rooms) |
| updates_10000, updates_20000 | 10,000, 20,000 updates (5,000) |
| size_nano, size_tiny, size_base | another size of the network, with the updates in UPDATES (Muskie-S) |

The runs textures_* differ from `recipe` only with photographs: --config.sources.rooms.photos=/folder.
"""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from muskie_jax.config import default_config, synthetic
from muskie_jax.config_file import load_module
from muskie_jax.sweeps import choose, override

SMALL = (((128, 128),),)
LARGE = (((224, 224),),)
RANDOM, RECTANGLE = ("random", 0.9), ("rectangle", 0.75)
# Updates of other sizes in about the minutes of `recipe`, estimated from FLOPs and the time of `recipe`.
# The table's column "minutes" shows how equal they are.
UPDATES = {"nano": 12_000, "tiny": 10_000, "base": 1_800}


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
    for views in ((2,), (4,), (8,), (4, 8)):
        runs[f"views_{'_'.join(map(str, views))}"] = {"buckets.views": views}
    for name, mode in (
        ("random", RANDOM),
        ("rectangle", RECTANGLE),
        ("ellipse", ("ellipse", 0.75)),
        ("blob", ("blob", 0.75)),
        ("random_75", ("random", 0.75)),
        ("random_95", ("random", 0.95)),
        ("rectangle_60", ("rectangle", 0.6)),
    ):
        runs[name] = {"mask.modes": (mode,)}
    runs["batch_256"] = {"batch.groups": 32, "duration": "10_000 steps"}
    runs["batch_1024"] = {"batch.groups": 128, "duration": "2_500 steps"}
    runs["mixed_224"] = {"buckets.resolutions": (SMALL[0] * 4 + LARGE[0],)}
    runs["late_224"] = {"buckets.late": LARGE, "buckets.late_fraction": 0.2}
    runs["textures_0"] = {"sources.rooms.world.photo_texture_fraction": 0.0}
    for count in (16, 64):
        runs[f"textures_{count}"] = {"sources.rooms.num_photos": count}
    parts = load_module(pathlib.Path(__file__).with_name("wide_rooms.py")).PARTS
    parts = {**parts, "wide": {key: value for part in parts.values() for key, value in part.items()}}
    for name, settings in parts.items():
        runs[name] = {f"sources.rooms.world.{key}": value for key, value in settings.items()}
    for updates in (10_000, 20_000):
        runs[f"updates_{updates}"] = {"duration": f"{updates} steps"}
    for variant, updates in UPDATES.items():
        runs[f"size_{variant}"] = {"model.variant": variant, "duration": f"{updates} steps"}
    return runs


def get_config(arg: str | None = None) -> ConfigDict:
    _, overrides = choose(arg, sweep())
    config = default_config()
    config.model.variant = "small"
    config.model.residual_dtype = "bfloat16"
    config.sources.rooms = synthetic()
    config.data.workers = 0

    config.batch.groups = 64
    config.batch.views = 8
    config.batch.update(reuse=1, passes=1)
    config.buckets.resolutions = SMALL
    config.buckets.views = (2, 4, 8)
    config.mask.modes = (RANDOM, RECTANGLE)

    config.fast_compile = True
    config.duration = "5_000 steps"
    config.optim.update(name="muon", learning_rate=1e-3, warmup="300 steps")

    config.evaluation.every = 0
    config.evaluation.size = (128, 128)
    config.checkpoint.every = 1_000
    config.log.every = 100
    return override(config, overrides)
