r"""What a backbone contributes to 3D reconstruction: the same decoder on several backbones, at equal steps.

    muskie experiment --config configs/controls.py --workdir runs/controls --runs=recipe,single_views
    muskie experiment --config configs/reconstruct_backbones.py --workdir runs/reconstruct_backbones \
        --recordings=/folder/of/sequences

The first command trains the backbones `several_views` and `single_views`, with three seeds each. To leave
these out, add --runs=untrained,bundled,untrained_frozen,bundled_frozen to the second. A run is that of
configs/reconstruct_rooms.py with another backbone: all have the same number of updates and images. A seed
decides the initial decoder, the rooms, and the backbone.

| run | its backbone |
|---|---|
| untrained | random weights |
| several_views | trained with several views of a room, `recipe` of configs/controls.py with the same seed |
| single_views | trained with single views, `single_views` of configs/controls.py with the same seed |
| bundled | `small`, whose weights are in this repository; the same for all seeds |
| untrained_frozen, several_views_frozen, ... | the same, but it does not change |

docs/reconstruction.md describes what is measured. For other backbones, write a config like this one.
"""

import pathlib
from typing import Any

from ml_collections import ConfigDict

from muskie_jax.config_file import load_config
from muskie_jax.sweeps import choose, override

RECIPE = pathlib.Path(__file__).with_name("reconstruct_rooms.py")
BACKBONES = {
    "untrained": "",
    "several_views": "runs/controls/recipe-seed{seed}",
    "single_views": "runs/controls/single_views-seed{seed}",
    "bundled": "small",
}
FROZEN = tuple(f"{name}_frozen" for name in BACKBONES)
# Title, base and runs of each part of the picture that muskie figure draws.
QUESTIONS = (
    ("Trained with the decoder", "random weights", tuple(BACKBONES)[1:]),
    ("Frozen", "random weights, trained", FROZEN),
    ("Without a network", "random weights, trained", ("did not move",)),
)


def sweep() -> dict[str, dict[str, Any]]:
    settings = lambda path, frozen: {
        "reconstruct.backbone": path,
        "reconstruct.freeze_backbone": frozen,
    }
    trained = {name: settings(path, False) for name, path in BACKBONES.items()}
    frozen = {name: settings(path, True) for name, path in zip(FROZEN, BACKBONES.values())}
    return trained | frozen


def get_config(arg: str | None = None) -> ConfigDict:
    _, overrides = choose(arg, sweep())
    return override(load_config(RECIPE), overrides)
