"""Reads `scannet_test_1500`, the 100 scenes of ScanNet's widely used test set of 1500 image pairs.

Files of a scene: `color/<n>.jpg`, `depth/<n>.png` (16 bits, millimetres) and `pose/<n>.txt`
(camera_to_world, 4x4). n is the frame number in the video; the frames are about 15 apart. A pose that is
not finite means that tracking failed, and its frame is skipped.

Intrinsics are for images of 640x480. They are in `intrinsics.npz`, in the folder of the scenes; the file is
distributed with the list of pairs. Without it, `<scene>/intrinsic/intrinsic_depth.txt` is read. Intrinsics
are used unchanged, as in other evaluations, although their convention for pixel centres may be off by half
a pixel.

Protocol: groups of consecutive frames of a scene; neighbours are at most 35 frame numbers apart. With the
setting `pairs`, groups are the pairs of a list instead, in either of two formats:

- `test.npz`: the array `name`, integers (pairs, 4), has the numbers of scene, recording and both frames;
- text: the first two words of a line are names of images, `scene0707_00_frame-000015.jpg`, or paths,
  `scene0707_00/color/15.jpg`.

Pairs with a frame that is missing or has no pose are left out, with a note.
"""

import pathlib
import re
import zipfile

import numpy as np
from jaxtyping import Float64
from ml_collections import ConfigDict

from muskie_jax.data.posed.frames import (
    Frame,
    RGBDDataset,
    Sequence,
    build_sequence,
    invert_pose,
    is_tracked,
)
from muskie_jax.data.posed.parsing import find_sequences, parsing, read_matrix
from muskie_jax.data.scan import natural_key
from muskie_jax.errors import UserError
from muskie_jax.files import user_path

EXPECTED_FILES = "color/<n>.jpg"
SIZE = (480, 640)  # (height, width) that the intrinsics refer to
INTRINSICS = "intrinsics.npz"


def read(root: pathlib.Path, settings: ConfigDict) -> RGBDDataset:
    """Returns all scenes of a folder; raises UserError."""
    scenes = find_sequences(root, lambda path: (path / "color").is_dir(), EXPECTED_FILES)
    sequences = tuple(_sequence(name, folder, settings.every) for name, folder in scenes)
    # Colour may have a higher resolution than depth.
    dataset = RGBDDataset(sequences, any_depth_size=True)
    if not settings.get("pairs"):  # training sources do not have this setting
        return dataset
    path = root / user_path(settings.pairs)
    listed = read_pairs(path)
    known = {f"{sequence.name}/{frame.name}" for sequence in sequences for frame in sequence.frames}
    pairs = tuple(pair for pair in listed if known.issuperset(pair))
    if not pairs:
        raise UserError(
            f"{path}: no frame of its {len(listed):,} pairs is in {root}, such as {listed[0][0]}"
        )
    left_out = len(listed) - len(pairs)
    note = f"{left_out:,} of {len(listed):,} pairs are left out: a frame is missing or has no pose"
    return dataset._replace(pairs=pairs, notes=(note,) if left_out else ())


def read_pairs(path: pathlib.Path) -> list[tuple[str, str]]:
    """Returns the pairs of a list, names `<scene>/<frame>`; see the module's docstring.

    Raises:
      UserError: if the file cannot be parsed, or is empty.
    """
    try:
        with parsing(path):
            pairs = _pairs_of_array(path) if path.suffix == ".npz" else _pairs_of_text(path)
    except zipfile.BadZipFile as error:
        raise UserError(f"{path} cannot be parsed: {error}") from error
    if not pairs:
        raise UserError(f"{path} has no pairs")
    return pairs


def _pairs_of_array(path: pathlib.Path) -> list[tuple[str, str]]:
    # A file that is opened here is closed if it is no archive.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        numbers = arrays["name"].reshape(-1, 4).tolist()
    scenes = [f"scene{scene:04d}_{recording:02d}" for scene, recording, *_ in numbers]
    return [(f"{scene}/{row[2]}", f"{scene}/{row[3]}") for scene, row in zip(scenes, numbers)]


def _pairs_of_text(path: pathlib.Path) -> list[tuple[str, str]]:
    lines = [line.split() for line in path.read_text().splitlines() if line.strip()]
    return [(_frame_name(line[0]), _frame_name(line[1])) for line in lines]


def _frame_name(text: str) -> str:
    match = re.fullmatch(r"(?:.*/)?(scene\d{4}_\d{2})(?:_frame-|/color/)(\d+)\.jpg", text)
    if not match:
        raise ValueError(f"{text!r} is not the name of an image, such as scene0707_00_frame-000015.jpg")
    return f"{match[1]}/{int(match[2])}"


def _sequence(name: str, folder: pathlib.Path, every: int) -> Sequence:
    intrinsics = _read_intrinsics(name, folder)
    frames = []
    for image in sorted((folder / "color").glob("*.jpg"), key=lambda path: natural_key(path.name))[::every]:
        pose_path = folder / "pose" / f"{image.stem}.txt"
        pose = read_matrix(pose_path)
        if not is_tracked(pose):
            continue
        depth = folder / "depth" / f"{image.stem}.png"
        with parsing(image):
            number = int(image.stem)
        world_to_camera = invert_pose(pose, str(pose_path))
        frames.append(Frame(image.stem, number, image, depth, intrinsics, world_to_camera, SIZE))
    return build_sequence(name, frames)


def _read_intrinsics(scene: str, folder: pathlib.Path) -> Float64[np.ndarray, "3 3"]:
    all_scenes, one_scene = folder.parent / INTRINSICS, folder / "intrinsic" / "intrinsic_depth.txt"
    if all_scenes.is_file():
        try:
            with parsing(all_scenes), np.load(all_scenes, allow_pickle=False) as matrices:
                if scene in matrices.files:
                    return np.array(matrices[scene], np.float64)[:3, :3].reshape(3, 3)
        except zipfile.BadZipFile as error:
            raise UserError(f"{all_scenes} cannot be parsed: {error}") from error
    if one_scene.is_file():
        return read_matrix(one_scene)[:3, :3]
    raise UserError(f"{folder}: no intrinsics, neither in {all_scenes} nor in {one_scene}")
