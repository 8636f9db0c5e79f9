"""What the readers of posed datasets have in common: frames with cameras, in sequences, checked.

Axes are OpenCV's (x right, y down, z forward). Intrinsics speak of pixels as squares, the image's upper
left corner being (0, 0).
"""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from muskie_jax.data.depth import DEPTH_UNIT, load_depth
from muskie_jax.data.posed.headers import depth_size
from muskie_jax.data.scan import natural_key
from muskie_jax.errors import UserError, first_line

RIGID = 2e-3  # how far a rotation times its transpose may be from the identity
FOCAL = (0.1, 50.0)  # focal lengths that there are, in units of the image's longer side
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])  # between OpenCV's camera axes and OpenGL's (y up, z backward)


@dataclasses.dataclass(frozen=True)
class Frame:
    """A view as its files describe it; pixels are not read yet.

    Attributes:
      name: unique in its sequence.
      number: its place in the recording, for what is called consecutive.
      image, depth: the files.
      intrinsics: float64 (3, 3), in pixels of an image of `size`.
      world_to_camera: float64 (4, 4), metres.
      size: (height, width) that the intrinsics speak of; None: the image's own.
      depth_unit: metres of one step of the depth map, where its format leaves that open.
    """

    name: str
    number: int
    image: pathlib.Path
    depth: pathlib.Path
    intrinsics: np.ndarray
    world_to_camera: np.ndarray
    size: tuple[int, int] | None = None
    depth_unit: float = DEPTH_UNIT


class Sequence(NamedTuple):
    """A recording of one place; frames in order."""

    name: str
    frames: tuple[Frame, ...]


def png_depth(frame: Frame) -> np.ndarray:
    """Depth in metres, float32 (h, w), from a PNG of a frame's `depth_unit`; raises `BadImage`."""
    return load_depth(frame.depth, frame.depth_unit)


class Recordings(NamedTuple):
    """What a reader found.

    Attributes:
      sequences: all that may be evaluated.
      read_depth: a frame -> z-depth in metres, float32 (h, w), 0 = missing; raises `BadImage`.
      depth_size: the file of a depth map -> its (h, w), from its header; raises `BadImage`.
      upright: whether images are turned as their EXIF orientation says. Only where cameras were given
        for the turned image; elsewhere intrinsics are those of the pixels as they are stored.
      any_depth_size: whether a depth map may have another resolution than its image.
      zoomed: whether views are cropped to what has depth: an object.
      one_in: of all groups of the dataset's protocol, every so many is evaluated.
    """

    sequences: tuple[Sequence, ...]
    read_depth: Callable[[Frame], np.ndarray] = png_depth
    depth_size: Callable[[pathlib.Path], tuple[int, int]] = depth_size
    upright: bool = False
    any_depth_size: bool = False
    zoomed: bool = False
    one_in: int = 1


class WrongRoot(UserError):
    """A root that is no folder of what a reader expects."""

    def __init__(self, root: pathlib.Path, expected: str, or_deeper: str = ""):
        is_file = f"it is a file: write the folder with {expected} in it"
        super().__init__(
            f"{root}: {is_file if root.is_file() else f'there is no {expected} in it{or_deeper}'}"
        )


@contextlib.contextmanager
def understood(path: pathlib.Path) -> Iterator[None]:
    """Turns what a file of another kind raises while it is read into one line that names it."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise UserError(f"{path} cannot be understood: {reason}") from error


def read_json(path: pathlib.Path) -> Any:
    """Raises UserError if there is no such file, or it is no JSON."""
    with understood(path):
        return json.loads(path.read_text())


def read_matrix(path: pathlib.Path) -> np.ndarray:
    """Numbers of a text file, as a matrix float64 (4, 4); raises UserError."""
    with understood(path):
        return np.array(path.read_text().split(), np.float64).reshape(4, 4)


def pinhole(focal_x: float, focal_y: float, centre_x: float, centre_y: float) -> np.ndarray:
    """Intrinsics, float64 (3, 3)."""
    return np.array([[focal_x, 0, centre_x], [0, focal_y, centre_y], [0, 0, 1]], np.float64)


def was_tracked(pose: np.ndarray) -> bool:
    """Whether a pose (4, 4) is there at all: recordings write infinities or NaN where tracking failed."""
    return bool(np.isfinite(pose[:3]).any())


def inverse_pose(pose: np.ndarray, where: str) -> np.ndarray:
    """world_to_camera of a camera_to_world (4, 4), or the other way round; raises UserError."""
    check_pose(pose, where)
    return np.linalg.inv(pose)


def check_pose(pose: np.ndarray, where: str) -> None:
    """Raises UserError, beginning with `where`, unless a matrix (4, 4) is a rotation and a translation."""
    rotation = pose[:3, :3]
    if not np.isfinite(pose).all():
        raise UserError(f"{where}: the pose is not finite")
    if np.abs(pose[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise UserError(f"{where}: the last row of the pose is {pose[3].tolist()}, not 0 0 0 1")
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > RIGID:
        raise UserError(f"{where}: the rotation of the pose is no rotation, its axes are not orthonormal")
    if np.linalg.det(rotation) < 0:
        raise UserError(f"{where}: the rotation of the pose is no rotation, it mirrors")


def check_intrinsics(intrinsics: np.ndarray, where: str, size: tuple[int, int] | None = None) -> None:
    """Raises UserError, beginning with `where`, for intrinsics (3, 3) that no camera has.

    Args:
      size: (height, width) of the image, where it is known.
    """
    problem = ""
    focal, centre = np.diag(intrinsics)[:2], intrinsics[:2, 2]
    if not np.isfinite(intrinsics).all():
        problem = "not finite"
    elif np.abs(intrinsics[2] - [0, 0, 1]).max() > 1e-6 or abs(intrinsics[1, 0]) > 1e-6:
        problem = "no pinhole camera's: write fx 0 cx, 0 fy cy, 0 0 1"
    elif focal.min() <= 0:
        problem = f"singular, or mirror: their focal lengths are {focal.tolist()}"
    elif size is not None:
        height, width = size
        share = focal / max(size)
        if share.min() < FOCAL[0] or share.max() > FOCAL[1]:
            problem = f"absurd: focal lengths {focal.tolist()} for an image of {width}x{height}"
        elif (centre < 0).any() or (centre > [width, height]).any():
            problem = f"absurd: the centre {centre.tolist()} is outside of the image of {width}x{height}"
    if problem:
        raise UserError(f"{where}: the intrinsics are {problem}")


def sequence_of(name: str, frames: list[Frame], every: int = 1) -> Sequence:
    """Every so many frames of a recording, their cameras checked.

    Raises:
      UserError: naming the frame, if its camera cannot be true, or its name is there twice.
    """
    seen = set()
    for frame in frames[::every]:
        where = f"{name}, {frame.image}"
        if frame.name in seen:
            raise UserError(f"{where}: this image is there twice")
        seen.add(frame.name)
        check_pose(frame.world_to_camera, where)
        check_intrinsics(frame.intrinsics, where, frame.size)
    return Sequence(name, tuple(frames[::every]))


def sequence_folders(
    root: pathlib.Path, is_one: Callable[[pathlib.Path], bool], expected: str
) -> list[tuple[str, pathlib.Path]]:
    """Names and folders of sequences: the root, if it is one, or those in it, in natural order.

    Args:
      is_one: whether a folder is a sequence.
      expected: in a sequence, for the message.

    Raises:
      WrongRoot: if there is none.
    """
    if is_one(root):
        return [(root.resolve().name, root)]
    found = [folder for folder in subfolders(root) if is_one(folder)]
    if not found:
        raise WrongRoot(root, expected, ", nor in a folder of it")
    return [(folder.name, folder) for folder in found]


def subfolders(root: pathlib.Path) -> list[pathlib.Path]:
    """In natural order, none of a file; raises UserError if the root cannot be read."""
    if root.is_file():
        return []
    with understood(root):
        return sorted((p for p in root.iterdir() if p.is_dir()), key=lambda p: natural_key(p.name))


def short_names(paths: list[str]) -> list[str]:
    """Names of images: their paths without the folders that all are in, and without extension.

    The extension stays where names would not be told apart without it.
    """
    shared = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""
    below = [os.path.relpath(path, shared or ".") for path in paths]
    bare = [os.path.splitext(path)[0] for path in below]
    return bare if len(set(bare)) == len(set(below)) else below
