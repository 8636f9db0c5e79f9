r"""Harder synthetic rooms: wide baselines, different cameras, and surfaces that are easily confused.

    muskie data inspect --config configs/wide_rooms.py --draw=6 --workdir runs/inspection
    muskie train --config configs/wide_rooms.py --workdir runs/wide_rooms

The first draws such rooms; docs/data.md describes the settings. Training is that of rooms.py. An argument
switches on some parts only, to measure what each contributes: `configs/wide_rooms.py:cameras`, `:faults`,
`:surfaces`, or several, such as `:cameras,faults`. Without an argument, all are on.
"""

import pathlib

from ml_collections import ConfigDict

from muskie_jax.checks import one_of
from muskie_jax.config_file import load_module

PARTS = {
    # Four of ten pairs of views see a surface from 30 to 90 degrees apart; before, one of ten.
    "cameras": {"orbit": (45.0, 90.0), "distance": 0.3, "zoom": 0.25, "roll_jitter": 30.0},
    "faults": {
        "exposure": 0.35, "colour_cast": 0.12, "tone_jitter": 0.35, "contrast": 0.2, "vignetting": 0.4,
        "defocus": 0.008, "motion_blur": 0.025, "noise": 0.03, "jpeg": 1.5,
    },
    "surfaces": {
        "num_boxes": 16, "num_cylinders": 6, "object_size": (0.12, 1.4), "thin_fraction": 0.3,
        "plain_fraction": 0.25, "repeat_fraction": 0.25, "palette_fraction": 0.5,
        "shadow": 0.7, "gloss": 0.5,
    },
}  # fmt: skip


def get_config(arg: str | None = None) -> ConfigDict:
    config = load_module(pathlib.Path(__file__).with_name("rooms.py")).get_config()
    for part in arg.split(",") if arg else PARTS:
        one_of(part, PARTS, "the argument of configs/wide_rooms.py")
        config.sources.rooms.world.update(PARTS[part])
    return config
