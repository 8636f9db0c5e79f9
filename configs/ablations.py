r"""The paper's ablations in small: runs of Muskie-S on synthetic rooms, of about a minute on an H200.

    muskie experiment --config configs/ablations.py --workdir runs/ablations --gpus=0,1

These are 22 training runs with three seeds each. Each run differs in one setting from `base`, which has the
paper's masks and groups of four and eight views. Unlike in the paper, the optimizer is Muon; `adamw` in
configs/controls.py measures what this changes. docs/experiments.md shows how to evaluate on recorded
sequences, how to use photographs as textures, and how to draw the results.

A single run is also a config: configs/ablations.py:views_1. To train on your own photographs, use
configs/ablations.py:photos and --config.sources.photos.root=/path/to/scenes, and for a run
configs/ablations.py:photos,views_1. launch/sweep.sh trains the runs with one seed, also as a SLURM array.

| runs | what they change (what `base` does) |
|---|---|
| random, rectangle, ellipse, blob, random_walk | one mask mode (random, rectangle and ellipse in turn) |
| ratio_50, ratio_75, ratio_90 | all modes with this ratio, % (random 90%, regions 75%) |
| references_0, references_1, references_3 | so many reference views (a quarter to half of all views) |
| views_1, views_2, views_4, views_8 | groups of this size only (4 and 8 in turn) |
| no_confidence | a plain squared error, without confidence (weighted by confidence) |
| registers_0, registers_16 | this number of register tokens per view (4) |
| rope_10, rope_1000, rope_10000 | this base of the rotary position embedding (100) |

All runs see the same number of images per update. The error reduction of a run is measured with its own
masks and number of reference views, so it is comparable only where these are equal. Correspondence is
comparable between all runs.
Overrides such as --config.duration='9_000 steps' or --config.model.variant=base apply to all runs.
"""

from typing import Any

from ml_collections import ConfigDict

from muskie_jax.config import default_config, folder, synthetic
from muskie_jax.sweeps import choose, override

# Modes that hide one region get the paper's ratio for regions, including modes that the paper does not use.
RANDOM_RATIO, REGION_RATIO = 0.9, 0.75
PUBLISHED_MODES = ("random", "rectangle", "ellipse")

# Rows of the picture of `muskie figure`: question, what `base` does, and the runs that answer.
QUESTIONS = (
    (
        "Mask mode",
        "random, rectangle and ellipse in turn",
        ("random", "rectangle", "ellipse", "blob", "random_walk"),
    ),
    ("Mask ratio", "90% of random, 75% of regions", ("ratio_50", "ratio_75", "ratio_90")),
    (
        "Reference views",
        "a quarter to a half of the views",
        ("references_0", "references_1", "references_3"),
    ),
    (
        "Views in a group",
        "4 and 8 in turn (paper: 1, 2, 4 and 8)",
        ("views_1", "views_2", "views_4", "views_8"),
    ),
    ("Confidence", "weighs the error", ("no_confidence",)),
    ("Register tokens", "4 per view", ("registers_0", "registers_16")),
    ("Base of RoPE", "100", ("rope_10", "rope_1000", "rope_10000")),
)


def sweep() -> dict[str, dict[str, Any]]:
    runs: dict[str, dict[str, Any]] = {"base": {}}
    runs["random"] = {"mask.modes": (("random", RANDOM_RATIO),)}
    for mode in ("rectangle", "ellipse", "blob", "random_walk"):
        runs[mode] = {"mask.modes": ((mode, REGION_RATIO),)}
    for percent in (50, 75, 90):
        runs[f"ratio_{percent}"] = {"mask.modes": tuple((mode, percent / 100) for mode in PUBLISHED_MODES)}
    for count in (0, 1, 3):
        runs[f"references_{count}"] = {"mask.num_reference": count}
    for views in (1, 2, 4, 8):
        runs[f"views_{views}"] = {"buckets.views": (views,)}
    runs["no_confidence"] = {"loss.confidence": False}
    for count in (0, 16):
        runs[f"registers_{count}"] = {"model.registers": count}
    for base in (10, 1_000, 10_000):
        runs[f"rope_{base}"] = {"model.rope_base": float(base)}
    return runs


def get_config(arg: str | None = None) -> ConfigDict:
    variant, overrides = choose(arg, sweep(), variants=("photos",))
    config = default_config()
    config.model.variant = "small"
    config.model.residual_dtype = "bfloat16"
    if variant == "photos":
        config.sources.photos = folder()
    else:
        config.sources.rooms = synthetic()
        config.data.workers = 0

    config.batch.groups = 32
    config.batch.views = 8
    config.batch.update(reuse=1, passes=1)
    config.buckets.resolutions = (((128, 128),),)
    config.buckets.views = (4, 8)

    config.fast_compile = True
    config.duration = "1_500 steps"
    config.optim.update(name="muon", learning_rate=1e-3, warmup="300 steps")

    config.evaluation.every = 0
    config.evaluation.size = (128, 128)
    config.checkpoint.every = 1_000
    config.log.every = 100
    return override(config, overrides)
