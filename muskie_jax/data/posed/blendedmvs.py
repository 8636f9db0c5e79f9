"""Reads BlendedMVS as it is preprocessed for training: a folder of scenes, or one scene.

Files of a scene, for each image: `<number>.jpg`; `<number>.exr`, z-depth as floats; and `<number>.npz` with
`intrinsics` (3x3, pixels), `R_cam2world` (3x3) and `t_cam2world` (3). Lengths are in the unit of the
scene's reconstruction, not in metres. `.exr` files are read with OpenEXR, which the extra `exr` installs.

Protocol (ours): groups of overlapping frames of a scene.
"""

import pathlib
import zipfile

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.data.posed.frames import Frame, RGBDDataset, Sequence, build_sequence, invert_pose
from muskie_jax.data.posed.parsing import find_sequences, parsing
from muskie_jax.data.scan import natural_key
from muskie_jax.errors import UserError

EXPECTED_FILES = "<scene>/<number>.jpg, .npz and .exr"


def read(root: pathlib.Path, settings: ConfigDict) -> RGBDDataset:
    """Returns all scenes of a folder; raises UserError."""
    scenes = find_sequences(root, lambda path: bool(_images(path)), EXPECTED_FILES)
    return RGBDDataset(tuple(_sequence(name, folder, settings.every) for name, folder in scenes))


def _images(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the images with a camera, in natural order."""
    images = (path for path in folder.glob("*.jpg") if path.with_suffix(".npz").is_file())
    return sorted(images, key=lambda path: natural_key(path.name))


def _sequence(name: str, folder: pathlib.Path, every: int) -> Sequence:
    images = _images(folder)[::every]
    return build_sequence(name, [_frame(number * every, path) for number, path in enumerate(images)])


def _frame(number: int, image: pathlib.Path) -> Frame:
    camera = image.with_suffix(".npz")
    pose = np.eye(4)
    try:
        with parsing(camera), np.load(camera, allow_pickle=False) as data:
            intrinsics = data["intrinsics"].astype(np.float64).reshape(3, 3)
            pose[:3, :3] = data["R_cam2world"].astype(np.float64)
            pose[:3, 3] = data["t_cam2world"].astype(np.float64).reshape(3)
    except zipfile.BadZipFile as error:
        raise UserError(f"{camera} cannot be parsed: {error}") from error
    world_to_camera = invert_pose(pose, str(camera))
    return Frame(image.stem, number, image, image.with_suffix(".exr"), intrinsics, world_to_camera)
