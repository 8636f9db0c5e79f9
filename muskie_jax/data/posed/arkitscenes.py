"""Reads ARKitScenes as it is preprocessed for training: `Training/` and `Test/`, one of them, or one scene.

Files of a scene: `vga_wide/<name>.jpg`, upright; `lowres_depth/<name>.png`, 16-bit z-depth in millimetres,
enlarged to the size of the image or smaller; and `scene_metadata.npz` with the cameras (see
`scene_metadata.py`). Of a folder with `Training` and `Test`, only `Test` is read, since networks are
trained on the other.

Protocol (ours): groups of overlapping frames of a scene.
"""

import pathlib

from ml_collections import ConfigDict

from muskie_jax.data.posed.frames import RGBDDataset
from muskie_jax.data.posed.parsing import find_sequences
from muskie_jax.data.posed.scene_metadata import SCENE_METADATA, read_scene

EXPECTED_FILES = f"<scene>/{SCENE_METADATA} and <scene>/vga_wide"
SPLITS = ("Test", "Training")


def read(root: pathlib.Path, settings: ConfigDict) -> RGBDDataset:
    """Returns the test scenes of a dataset, or all scenes of another folder; raises UserError."""
    is_scene = lambda path: (path / SCENE_METADATA).is_file() and (path / "vga_wide").is_dir()
    split = next((root / name for name in SPLITS if (root / name).is_dir()), root)
    scenes = find_sequences(split, is_scene, EXPECTED_FILES)
    sequences = tuple(
        read_scene(name, folder, "vga_wide", "lowres_depth", settings.every) for name, folder in scenes
    )
    note = f"{split}: only these scenes are read; for those of Training, set root={root / SPLITS[1]}"
    has_both = all((root / name).is_dir() for name in SPLITS)
    return RGBDDataset(sequences, any_depth_size=True, notes=(note,) if has_both else ())
