"""NAVI: photographs of objects, with depth of the object alone.

`<object>/<multiview_*>/annotations.json` has for each image `filename`, `image_size` (height, width) and
`camera`: `q` (w, x, y, z) and `t` (millimetres), world_to_camera being [R(q) | t], and `focal_length` in
pixels of that size; the principal point is the centre. Images are `images/<name>.jpg`, depth is
`depth/<name>.png`: 16 bits of inverse depth, 655350 / value in millimetres, 0 = not the object. As is
usual, files made smaller and called `downsampled_<name>` are read where they are there, which is many times
faster. Cameras are those of images turned upright: the originals have an EXIF orientation.

Protocol: of each object that has a `wild_set` too, the last tenth of its multiview collections, at least
one. Every image is the first of a group, the others are those with the nearest rotations; every twentieth
group is evaluated. Images are cropped to a square in the middle, then to the smallest square around the
object.
"""

import math
import pathlib

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.data.depth import read_depth
from muskie_jax.data.images import read_file
from muskie_jax.data.posed.frames import (
    Frame,
    Recordings,
    Sequence,
    WrongRoot,
    pinhole,
    read_json,
    sequence_of,
    subfolders,
    understood,
)
from muskie_jax.data.scan import natural_key

IN_ROOT = "<object>/multiview_*/annotations.json beside <object>/wild_set"
INVERSE_DEPTH = 655.350  # metres times steps of the depth maps
TRAINING_SHARE = 0.9
ONE_IN = 20
COLLECTIONS = ("multiview_", "multiview-")  # releases differ
SMALLER = "downsampled_"


def read(root: pathlib.Path, settings: ConfigDict) -> Recordings:
    """The validation collections of a folder of objects; raises UserError."""
    collections = [
        collection for folder in subfolders(root) for collection in validation_collections(folder)
    ]
    if not collections:
        raise WrongRoot(root, IN_ROOT)
    sequences = tuple(_collection(folder, settings.every) for folder in collections)
    return Recordings(sequences, depth_of_object, upright=True, zoomed=True, one_in=ONE_IN)


def validation_collections(folder: pathlib.Path) -> list[pathlib.Path]:
    """Of an object's folder, the collections that are evaluated."""
    if not (folder / "wild_set").is_dir():
        return []
    collections = [path for path in subfolders(folder) if path.name.startswith(COLLECTIONS)]
    return collections[math.floor(TRAINING_SHARE * len(collections)) :]


def _collection(folder: pathlib.Path, every: int) -> Sequence:
    path = folder / "annotations.json"
    annotations = read_json(path)
    with understood(path):
        annotations = sorted(annotations, key=lambda image: natural_key(image["filename"]))
        frames = [_frame(folder, number, image) for number, image in enumerate(annotations)]
    return sequence_of(f"{folder.parent.name}/{folder.name}", frames, every)


def _frame(folder: pathlib.Path, number: int, annotation: dict) -> Frame:
    camera, stem = annotation["camera"], pathlib.PurePath(annotation["filename"]).stem
    height, width = (int(side) for side in annotation["image_size"])
    focal = float(camera["focal_length"])
    pose = np.eye(4)
    pose[:3, :3] = rotation_of_quaternion(np.array(camera["q"], np.float64))
    pose[:3, 3] = np.array(camera["t"], np.float64).reshape(3) / 1000
    image = folder / "images" / f"{SMALLER}{stem}.jpg"
    if not image.is_file():
        image = folder / "images" / annotation["filename"]
    depth = folder / "depth" / f"{image.stem}.png"
    intrinsics = pinhole(focal, focal, width / 2, height / 2)
    return Frame(stem, number, image, depth, intrinsics, pose, (height, width))


def rotation_of_quaternion(quaternion: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) of a quaternion (w, x, y, z) of any length; NaN if that is zero."""
    with np.errstate(invalid="ignore"):
        w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def depth_of_object(frame: Frame) -> np.ndarray:
    """Depth in metres, float32 (h, w), 0 where the object is not; raises `BadImage`."""
    steps = read_depth(read_file(frame.depth), str(frame.depth)).astype(np.float32)
    return np.divide(INVERSE_DEPTH, steps, out=np.zeros_like(steps), where=steps > 0)
