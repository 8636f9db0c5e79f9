"""ScanNet as its test set of 1500 pairs is handed round: `scannet_test_1500`, 100 scenes.

`<scene>/color/<n>.jpg`, `depth/<n>.png` (16 bits, millimetres), `pose/<n>.txt` (camera-to-world, 4x4; not
finite where tracking failed: such frames are left out). n is the frame's number in the video; frames are
some 15 apart. Intrinsics, for images of 640x480, are in `intrinsics.npz` beside the scenes, which comes
with the list of pairs; or, if that is not there, in `<scene>/intrinsic/intrinsic_depth.txt`. They are taken
as they are, as everybody does: what they call the centre of a pixel may be half a pixel off.

Protocol: consecutive frames of a scene, neighbours at most 35 numbers apart.
"""

import pathlib
import zipfile

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.data.posed.frames import (
    Frame,
    Recordings,
    Sequence,
    inverse_pose,
    read_matrix,
    sequence_folders,
    sequence_of,
    understood,
    was_tracked,
)
from muskie_jax.data.scan import natural_key
from muskie_jax.errors import UserError

IN_ROOT = "color/<n>.jpg"
SIZE = (480, 640)  # height and width that the intrinsics speak of
INTRINSICS = "intrinsics.npz"


def read(root: pathlib.Path, settings: ConfigDict) -> Recordings:
    """All scenes of a folder; raises UserError."""
    scenes = sequence_folders(root, lambda path: (path / "color").is_dir(), IN_ROOT)
    # Colour may be of its own, larger size.
    return Recordings(tuple(_scene(*scene, settings.every) for scene in scenes), any_depth_size=True)


def _scene(name: str, folder: pathlib.Path, every: int) -> Sequence:
    intrinsics = _intrinsics(name, folder)
    frames = []
    for image in sorted((folder / "color").glob("*.jpg"), key=lambda path: natural_key(path.name))[::every]:
        path = folder / "pose" / f"{image.stem}.txt"
        pose = read_matrix(path)
        if not was_tracked(pose):
            continue
        depth = folder / "depth" / f"{image.stem}.png"
        with understood(image):
            number = int(image.stem)
        world_to_camera = inverse_pose(pose, str(path))
        frames.append(Frame(image.stem, number, image, depth, intrinsics, world_to_camera, SIZE))
    return sequence_of(name, frames)


def _intrinsics(name: str, folder: pathlib.Path) -> np.ndarray:
    shared, own = folder.parent / INTRINSICS, folder / "intrinsic" / "intrinsic_depth.txt"
    if shared.is_file():
        try:
            with understood(shared), np.load(shared, allow_pickle=False) as matrices:
                if name in matrices.files:
                    return np.array(matrices[name], np.float64)[:3, :3].reshape(3, 3)
        except zipfile.BadZipFile as error:
            raise UserError(f"{shared} cannot be understood: {error}") from error
    if own.is_file():
        return read_matrix(own)[:3, :3]
    raise UserError(f"{folder}: no intrinsics, neither in {shared} nor in {own}")
