"""Reads ScanNet++ as it is preprocessed for training: a folder of scenes, or one scene.

Files of a scene: `images/<name>.jpg`, undistorted; `depth/<name>.png`, 16-bit z-depth of the same size in
millimetres; and `scene_metadata.npz` with the cameras (see `scene_metadata.py`). Scenes mix photographs
and video frames, whose sizes differ.

Protocol (ours): groups of overlapping frames of a scene.
"""

import pathlib

from ml_collections import ConfigDict

from muskie_jax.data.posed.frames import RGBDDataset
from muskie_jax.data.posed.parsing import find_sequences
from muskie_jax.data.posed.scene_metadata import SCENE_METADATA, read_scene

EXPECTED_FILES = f"<scene>/{SCENE_METADATA} and <scene>/images"


def read(root: pathlib.Path, settings: ConfigDict) -> RGBDDataset:
    """Returns all scenes of a folder; raises UserError."""
    is_scene = lambda path: (path / SCENE_METADATA).is_file() and (path / "images").is_dir()
    scenes = find_sequences(root, is_scene, EXPECTED_FILES)
    return RGBDDataset(
        tuple(read_scene(name, folder, "images", "depth", settings.every) for name, folder in scenes)
    )
