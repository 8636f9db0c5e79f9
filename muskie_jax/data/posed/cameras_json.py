"""Reads folders that contain a `cameras.json` (see `muskie_jax.data.cameras_json`).

The root is such a folder, or a folder of such folders.
"""

import pathlib

from ml_collections import ConfigDict

from muskie_jax.data.cameras_json import CAMERAS, read_cameras
from muskie_jax.data.posed.frames import Frame, RGBDDataset, Sequence, build_sequence
from muskie_jax.data.posed.parsing import find_sequences, names_from_paths, parsing
from muskie_jax.errors import UserError

EXPECTED_FILES = CAMERAS


def read(root: pathlib.Path, settings: ConfigDict) -> RGBDDataset:
    """Returns all sequences of a folder; raises UserError."""
    folders = find_sequences(root, lambda path: (path / CAMERAS).is_file(), EXPECTED_FILES)
    sequences = tuple(_sequence(name, folder, settings) for name, folder in folders)
    frames = [(sequence.name, frame) for sequence in sequences for frame in sequence.frames]
    without_depth = [f"{name}/{frame.name}" for name, frame in frames if not frame.depth]
    if 0 < len(without_depth) < len(frames):
        raise UserError(
            f"{root}: {len(without_depth)} of {len(frames)} frames have no depth, such as "
            f"{without_depth[0]}: list depth for all frames in {CAMERAS}, or for none"
        )
    return RGBDDataset(sequences)


def _sequence(name: str, folder: pathlib.Path, settings: ConfigDict) -> Sequence:
    cameras = read_cameras(folder / CAMERAS)
    with parsing(folder / CAMERAS):
        names = names_from_paths([camera.image for camera in cameras])
    frames = [
        Frame(
            frame_name,
            number,
            folder / camera.image,
            folder / camera.depth if camera.depth else None,
            camera.intrinsics,
            camera.world_to_camera,
            depth_unit=settings.depth_unit,
        )
        for number, (frame_name, camera) in enumerate(zip(names, cameras))
    ]
    return build_sequence(name, frames, settings.every)
