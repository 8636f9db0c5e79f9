"""What a reader of a posed dataset returns: sequences of frames with cameras, and checks of those cameras.

Camera axes are OpenCV's: x right, y down, z forward. In pixel coordinates the image's upper left corner is
(0, 0), and the centre of its first pixel is (0.5, 0.5).
"""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

from muskie_jax.data.depth import depth_size, load_depth
from muskie_jax.errors import UserError

ORTHONORMAL_TOLERANCE = 2e-3  # largest deviation of R @ R.T from the identity
FOCAL_RANGE = (0.1, 50.0)  # plausible focal lengths, relative to the image's longer side
REMEDY = "correct it, or remove this frame"
# Converts camera axes between OpenCV and OpenGL (x right, y up, z backward).
OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


@dataclasses.dataclass(frozen=True)
class Frame:
    """One view: the paths of its files, and its camera.

    Attributes:
      name: the frame's name, unique in its sequence.
      number: frame number in the recording; "consecutive" groups compare these numbers.
      image: path of the image.
      depth: path of the depth map; None if the recording has no depth.
      intrinsics: camera matrix, in pixels of an image of `size`.
      world_to_camera: camera pose, in metres.
      size: (height, width) that the intrinsics refer to; None: the image's own size.
      depth_unit: metres per step of the depth map, for formats that do not define it; 0: a millimetre for
        integers, a metre for floats.
    """

    name: str
    number: int
    image: pathlib.Path
    depth: pathlib.Path | None
    intrinsics: Float64[np.ndarray, "3 3"]
    world_to_camera: Float64[np.ndarray, "4 4"]
    size: tuple[int, int] | None = None
    depth_unit: float = 0.0


class Sequence(NamedTuple):
    """A recording of one scene, with its frames in order."""

    name: str
    frames: tuple[Frame, ...]


class RGBDDataset(NamedTuple):
    """What a reader returns: sequences, and how their files are read.

    Attributes:
      sequences: all sequences that may be evaluated.
      read_depth: function of a depth map's path and unit (see `Frame.depth_unit`) that returns z-depth in
        metres, float32 (H, W), 0 = missing. It raises `BadImage`.
      depth_size: function that returns (H, W) of a depth file from its header. It raises `BadImage`.
      upright: whether to apply the images' EXIF orientation. True only if the cameras belong to the turned
        images; otherwise intrinsics refer to pixels as they are stored.
      any_depth_size: whether a depth map's resolution may differ from its image's.
      zoomed: whether views are cropped to the pixels with depth, which show an object.
      group_stride: one in this many candidate groups is evaluated, unless groups are chosen by overlap.
      overlap: function of a sequence and the index of a frame. It returns the fraction of the frame that
        each frame of the sequence sees, float32 (frames). None if only depth can tell.
      pairs: pairs of frames to evaluate, `<sequence>/<frame>`; if there are any, they are the groups by
        default.
      notes: lines for the user, such as how many frames were left out.
    """

    sequences: tuple[Sequence, ...]
    read_depth: Callable[[pathlib.Path, float], np.ndarray] = load_depth
    depth_size: Callable[[pathlib.Path], tuple[int, int]] = depth_size
    upright: bool = False
    any_depth_size: bool = False
    zoomed: bool = False
    group_stride: int = 1
    overlap: Callable[[Sequence, int], np.ndarray] | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def has_depth(self) -> bool:
        """Whether the frames have depth maps: all of a dataset's frames have one, or none has."""
        return all(frame.depth for sequence in self.sequences for frame in sequence.frames)


def build_sequence(name: str, frames: list[Frame], every: int = 1) -> Sequence:
    """Returns a sequence of every `every`-th frame, after checking names and cameras.

    Raises:
      UserError: if a name occurs twice, or a camera is invalid; the message names the frame.
    """
    kept = frames[::every]
    names = set()
    for frame in kept:
        where = f"{name}, {frame.image}"
        if frame.name in names:
            raise UserError(f"{where}: this image occurs twice: keep one of its entries")
        names.add(frame.name)
        check_pose(frame.world_to_camera, where)
        check_intrinsics(frame.intrinsics, where, frame.size)
    return Sequence(name, tuple(kept))


def pinhole_intrinsics(
    focal_x: float, focal_y: float, centre_x: float, centre_y: float
) -> Float64[np.ndarray, "3 3"]:
    """Returns the intrinsics of a pinhole camera; arguments are in pixels."""
    return np.array([[focal_x, 0, centre_x], [0, focal_y, centre_y], [0, 0, 1]], np.float64)


def rotation_from_quaternion(quaternion: Float64[np.ndarray, " 4"]) -> Float64[np.ndarray, "3 3"]:
    """Returns the rotation of a quaternion (w, x, y, z) of any length; NaN if all components are zero."""
    with np.errstate(invalid="ignore"):
        w, x, y, z = quaternion / np.linalg.norm(quaternion)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def is_tracked(pose: Float64[np.ndarray, "4 4"]) -> bool:
    """Returns whether a pose is known. Recordings store infinities or NaN where tracking failed."""
    return bool(np.isfinite(pose[:3]).any())


def invert_pose(pose: Float64[np.ndarray, "4 4"], where: str) -> Float64[np.ndarray, "4 4"]:
    """Converts camera_to_world to world_to_camera, or back; raises UserError as `check_pose` does."""
    check_pose(pose, where)
    return np.linalg.inv(pose)


def check_pose(pose: Float64[np.ndarray, "4 4"], where: str) -> None:
    """Raises UserError, prefixed with `where`, unless the pose is a rotation and a translation."""
    rotation = pose[:3, :3]
    if not np.isfinite(pose).all():
        raise UserError(f"{where}: the pose is not finite: {REMEDY}")
    if np.abs(pose[3] - [0, 0, 0, 1]).max() > 1e-6:
        raise UserError(f"{where}: the last row of the pose is {pose[3].tolist()}, not 0 0 0 1: {REMEDY}")
    if np.abs(rotation @ rotation.T - np.eye(3)).max() > ORTHONORMAL_TOLERANCE:
        raise UserError(
            f"{where}: the pose has an invalid rotation, its axes are not orthonormal: {REMEDY}"
        )
    if np.linalg.det(rotation) < 0:
        raise UserError(f"{where}: the pose has an invalid rotation, it is a reflection: {REMEDY}")


def check_intrinsics(
    intrinsics: Float64[np.ndarray, "3 3"], where: str, size: tuple[int, int] | None = None
) -> None:
    """Raises UserError, prefixed with `where`, for intrinsics that no pinhole camera has.

    Args:
      intrinsics: camera matrix, in pixels.
      where: prefix of the message.
      size: (height, width) of the image; None skips the checks that need it.
    """
    problem = ""
    focal, centre = np.diag(intrinsics)[:2], intrinsics[:2, 2]
    if not np.isfinite(intrinsics).all():
        problem = "not finite"
    elif np.abs(intrinsics[2] - [0, 0, 1]).max() > 1e-6 or abs(intrinsics[1, 0]) > 1e-6:
        problem = "not of the form fx 0 cx, 0 fy cy, 0 0 1"
    elif focal.min() <= 0:
        problem = f"invalid, the focal lengths {focal.tolist()} are not positive"
    elif size is not None:
        height, width = size
        relative_focal = focal / max(size)
        if relative_focal.min() < FOCAL_RANGE[0] or relative_focal.max() > FOCAL_RANGE[1]:
            problem = f"implausible, focal lengths {focal.tolist()} for an image of {width}x{height}"
        elif (centre < 0).any() or (centre > [width, height]).any():
            problem = f"implausible, the centre {centre.tolist()} is outside the image of {width}x{height}"
    if problem:
        raise UserError(f"{where}: the intrinsics are {problem}: {REMEDY}")
