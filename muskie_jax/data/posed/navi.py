"""Reads NAVI: photographs of objects, with depth of the object only.

`<object>/<multiview_*>/annotations.json` contains, for each image:

- `filename`, and `image_size`, (height, width);
- `camera`: `q` (w, x, y, z) and `t` (millimetres), where world_to_camera = [R(q) | t], and `focal_length`
  in pixels of `image_size`. The principal point is the centre.

Images are `images/<name>.jpg`. Depth maps are `depth/<name>.png`: inverse depth in 16 bits. Depth in
millimetres is 655350 / value; 0 = not the object. As in other evaluations on NAVI, downscaled files
`downsampled_<name>` are preferred where they exist, because they load many times faster. Cameras belong to
upright images: the original images have an EXIF orientation.

Protocol: for each object that also has a `wild_set`, the last tenth of its multiview collections is used,
at least one. Every image is the anchor of a group, which the images with the nearest rotations join. Every
20th group is evaluated. Images are cropped to a centred square, then to the smallest square around the
object.

With `collections="wild"`, groups are pairs of images of a `wild_set`, of objects that also have multiview
collections. This is the test of Probe3D (arXiv 2404.08636): every image is paired with a random other one,
whose camera is rotated by at most 120 degrees against it, and every fourth pair is evaluated. The published
draws depend on the order in which a file system lists files, so they cannot be repeated. Ours depend on the
names of objects and images.
"""

import math
import pathlib

import numpy as np
from jaxtyping import Float32
from ml_collections import ConfigDict

from muskie_jax.data.depth import read_depth
from muskie_jax.data.images import read_file
from muskie_jax.data.posed.frames import (
    Frame,
    RGBDDataset,
    Sequence,
    build_sequence,
    pinhole_intrinsics,
    rotation_from_quaternion,
)
from muskie_jax.data.posed.parsing import WrongRoot, parsing, read_json, subfolders
from muskie_jax.data.scan import natural_key

EXPECTED_FILES = "<object>/multiview_*/annotations.json and <object>/wild_set"
INVERSE_DEPTH = 655.350  # product of depth in metres and the value in the file
TRAINING_FRACTION = 0.9
GROUP_STRIDE = 20
MULTIVIEW = ("multiview_", "multiview-")  # releases differ
WILD = "wild_set"
PAIR_STRIDE = 4
LARGEST_ANGLE = 120.0  # degrees between the cameras of a pair
PAIR_SEED = 8
DOWNSCALED = "downsampled_"


def read(root: pathlib.Path, settings: ConfigDict) -> RGBDDataset:
    """Returns the collections of a folder of objects that are evaluated; raises UserError."""
    if settings.get("collections") == "wild":  # training sources do not have this setting
        return _read_wild(root, settings)
    collections = [
        collection for folder in subfolders(root) for collection in validation_collections(folder)
    ]
    if not collections:
        raise WrongRoot(root, EXPECTED_FILES)
    sequences = tuple(_sequence(folder, settings.every) for folder in collections)
    return RGBDDataset(sequences, read_object_depth, upright=True, zoomed=True, group_stride=GROUP_STRIDE)


def validation_collections(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the collections in an object's folder that are evaluated."""
    if not (folder / WILD).is_dir():
        return []
    collections = [path for path in subfolders(folder) if path.name.startswith(MULTIVIEW)]
    return collections[math.floor(TRAINING_FRACTION * len(collections)) :]


def _read_wild(root: pathlib.Path, settings: ConfigDict) -> RGBDDataset:
    collections = [folder / WILD for folder in subfolders(root) if validation_collections(folder)]
    if not collections:
        raise WrongRoot(root, EXPECTED_FILES)
    sequences = tuple(_sequence(folder, settings.every) for folder in collections)
    pairs = tuple(pair for sequence in sequences for pair in draw_pairs(sequence))
    return RGBDDataset(
        sequences, read_object_depth, upright=True, zoomed=True, group_stride=PAIR_STRIDE, pairs=pairs
    )


def draw_pairs(sequence: Sequence) -> list[tuple[str, str]]:
    """Returns a pair for each frame that has others within LARGEST_ANGLE; see the module's docstring."""
    rotations = np.stack([frame.world_to_camera[:3, :3] for frame in sequence.frames])
    cosines = (np.einsum("aij,bij->ab", rotations, rotations) - 1) / 2
    near = cosines >= math.cos(math.radians(LARGEST_ANGLE))
    np.fill_diagonal(near, False)
    rng = np.random.default_rng([PAIR_SEED, *sequence.name.encode()])
    names = [f"{sequence.name}/{frame.name}" for frame in sequence.frames]
    return [(name, names[rng.choice(np.flatnonzero(row))]) for name, row in zip(names, near) if row.any()]


def _sequence(folder: pathlib.Path, every: int) -> Sequence:
    path = folder / "annotations.json"
    annotations = read_json(path)
    with parsing(path):
        annotations = sorted(annotations, key=lambda image: natural_key(image["filename"]))
        frames = [_frame(folder, number, image) for number, image in enumerate(annotations)]
    return build_sequence(f"{folder.parent.name}/{folder.name}", frames, every)


def _frame(folder: pathlib.Path, number: int, annotation: dict) -> Frame:
    camera, stem = annotation["camera"], pathlib.PurePath(annotation["filename"]).stem
    height, width = (int(side) for side in annotation["image_size"])
    focal = float(camera["focal_length"])
    pose = np.eye(4)
    pose[:3, :3] = rotation_from_quaternion(np.array(camera["q"], np.float64))
    pose[:3, 3] = np.array(camera["t"], np.float64).reshape(3) / 1000
    image = folder / "images" / f"{DOWNSCALED}{stem}.jpg"
    if not image.is_file():
        image = folder / "images" / annotation["filename"]
    depth = folder / "depth" / f"{image.stem}.png"
    intrinsics = pinhole_intrinsics(focal, focal, width / 2, height / 2)
    return Frame(stem, number, image, depth, intrinsics, pose, (height, width))


def read_object_depth(path: pathlib.Path, unit: float = 0) -> Float32[np.ndarray, "H W"]:
    """Returns depth in metres, 0 outside the object; raises `BadImage`. `unit` is ignored."""
    del unit
    values = read_depth(read_file(path), str(path)).astype(np.float32)
    return np.divide(INVERSE_DEPTH, values, out=np.zeros_like(values), where=values > 0)
