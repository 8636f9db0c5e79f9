r"""What a backbone contributes to 3D reconstruction: the same decoder on several backbones, at equal steps.

    muskie experiment --config configs/controls.py --workdir runs/controls --seeds=1 \
        --runs=recipe,single_views
    muskie experiment --config configs/reconstruct_backbones.py --workdir runs/reconstruct_backbones

The first command trains the two backbones that the second one needs. Each run then trains a network as in
configs/reconstruct_rooms.py; all take the same number of updates and images.

| run | its backbone |
|---|---|
| untrained | random weights |
| several_views | trained with several views of a room, `recipe` of configs/controls.py |
| single_views | trained with single views, `single_views` of configs/controls.py |
| untrained_frozen, several_views_frozen, single_views_frozen | the same, but it does not change |

For other weights of a Muskie-S, write a config like this one.
"""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from muskie_jax.config_file import load_config
from muskie_jax.sweeps import choose, override

ROOMS = pathlib.Path(__file__).with_name("reconstruct_rooms.py")


def sweep() -> dict[str, dict[str, Any]]:
    backbones = {
        "untrained": "",
        "several_views": "runs/controls/recipe-seed0",
        "single_views": "runs/controls/single_views-seed0",
    }
    runs: dict[str, dict[str, Any]] = {}
    for suffix, frozen in (("", False), ("_frozen", True)):
        for name, path in backbones.items():
            runs[name + suffix] = {
                "reconstruct.backbone": path,
                "reconstruct.freeze_backbone": frozen,
            }
    return runs


def get_config(arg: str | None = None) -> ConfigDict:
    _, overrides = choose(arg, sweep())
    return override(load_config(ROOMS), overrides)
