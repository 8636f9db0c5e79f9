"""Folders with a `cameras.json` each (see `muskie_jax.data.cameras_json`); the root may be one of them."""

import pathlib

from ml_collections import ConfigDict

from muskie_jax.data.cameras_json import CAMERAS, read_cameras
from muskie_jax.data.posed.frames import (
    Frame,
    Recordings,
    sequence_folders,
    sequence_of,
    short_names,
    understood,
)

IN_ROOT = CAMERAS


def read(root: pathlib.Path, settings: ConfigDict) -> Recordings:
    """All sequences of a folder; raises UserError."""
    sequences = []
    for name, folder in sequence_folders(root, lambda path: (path / CAMERAS).is_file(), IN_ROOT):
        cameras = read_cameras(folder / CAMERAS)
        with understood(folder / CAMERAS):
            names = short_names([camera.image for camera in cameras])
        frames = [
            Frame(own, number, folder / c.image, folder / c.depth, c.intrinsics, c.world_to_camera)
            for number, (own, c) in enumerate(zip(names, cameras))
        ]
        sequences.append(sequence_of(name, frames, settings.every))
    return Recordings(tuple(sequences))
