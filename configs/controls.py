r"""The control experiment: what the recipe owes to several views, photographs as textures, and Muon.

    JAX_COMPILATION_CACHE_DIR= muskie experiment --config configs/controls.py --workdir runs/controls \
        --gpus=0,1 --config.sources.rooms.photos=/folder/of/photographs

All four runs take the same number of updates and images, with three seeds each. The empty variable makes
every training compile its programs, so that the minutes of the table are those of a fresh start.
docs/experiments.md describes the columns, and how to evaluate on recorded sequences.

| run | how it is trained |
|---|---|
| recipe | as in configs/recipe.py |
| single_views | in groups of one view: only the view itself can help to paint its masked patches |
| no_photographs | without photographs as textures, only patterns |
| adamw | with AdamW for all parameters, instead of Muon for the kernels of the blocks |

The error reduction of no_photographs is measured on rooms without photographs, so it is not comparable.
"""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from muskie_jax.config_file import load_config
from muskie_jax.sweeps import choose, override

RECIPE = pathlib.Path(__file__).with_name("recipe.py")


def sweep() -> dict[str, dict[str, Any]]:
    return {
        "recipe": {},
        "single_views": {"buckets.views": (1,)},
        "no_photographs": {"sources.rooms.world.photo_texture_fraction": 0.0},
        "adamw": {"optim.name": "adamw"},
    }


def get_config(arg: str | None = None) -> ConfigDict:
    _, overrides = choose(arg, sweep())
    return override(load_config(RECIPE), overrides)
