"""Draws samples of overlapping views from scenes whose overlap is known.

The overlap of a view with another is the fraction of its pixels that the other sees. It is known if the
scene's folder or its parent contains one of these files:

scene_metadata.npz   `images`, file names, and `pairs`, (image index, image index, overlap) entries, as
                     DUSt3R's preprocessing of ARKitScenes and ScanNet++ writes them
cameras.json         depth maps and cameras, see `muskie_jax.data.cameras_json`
"""

import functools
import math
import pathlib
import zipfile
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Float32, Int

from muskie_jax.data.cameras_json import CAMERAS, read_cameras
from muskie_jax.data.depth import load_depth
from muskie_jax.data.images import BadImage
from muskie_jax.data.retries import retried
from muskie_jax.errors import UserError

GRID = (24, 32)  # rows and columns of the pixels that are projected into the other views
TOLERANCE = 0.05  # a visible point is behind the surface by at most this fraction of the surface's depth


def sample_overlapping(
    rng: np.random.Generator,
    overlap: Float[np.ndarray, "frames frames"],
    num_views: int,
    low: float,
    high: float,
) -> tuple[Int[np.ndarray, " num_views"], Int[np.ndarray, " spare"]] | None:
    """Draws an anchor frame, and other frames that overlap it by `low` to `high`.

    Args:
      overlap: entry (i, j) is the fraction of frame i's pixels that frame j sees.
      num_views: number of views to draw. Frames repeat only after all suitable frames have been drawn.
      low, high: inclusive bounds on the overlap of the anchor with the other frames.

    Returns:
      The drawn frames in random order, and the frames that may replace unreadable ones; None if no pair
      of frames overlaps by `low` to `high`.
    """
    fits = (overlap >= low) & (overlap <= high) & ~np.eye(len(overlap), dtype=bool)
    anchors = np.flatnonzero(fits.any(1))
    if not len(anchors):
        return None
    anchor = int(rng.choice(anchors))
    others = rng.permutation(np.flatnonzero(fits[anchor]))
    chosen = np.concatenate([[anchor], others[: num_views - 1]])
    rounds = math.ceil(num_views / len(chosen))
    frames = np.concatenate([rng.permutation(chosen) for _ in range(rounds)])[:num_views]
    return frames, others[num_views - 1 :]


def _from_pairs(path: pathlib.Path) -> tuple[list[str], np.ndarray]:
    with np.load(path, allow_pickle=False) as data:
        names, pairs = [str(name) for name in data["images"]], data["pairs"]
        if pairs.dtype.names:
            pairs = np.stack([pairs[name].astype(float) for name in pairs.dtype.names[:3]], 1)
    first, second = pairs[:, 0].astype(int), pairs[:, 1].astype(int)
    overlap = np.zeros((len(names), len(names)), np.float32)
    overlap[first, second] = overlap[second, first] = pairs[:, 2]
    return names, overlap


def _from_cameras(path: pathlib.Path) -> tuple[list[str], np.ndarray]:
    frames = read_cameras(path)
    without_depth = [frame.image for frame in frames if not frame.depth]
    if without_depth:
        raise UserError(
            f"{path}: the overlap of views is unknown, {without_depth[0]} has no depth: leave out the "
            "source's overlap"
        )
    depths = [load_depth(path.parent / frame.depth) for frame in frames]
    intrinsics = np.stack([frame.intrinsics for frame in frames])
    poses = np.stack([frame.world_to_camera for frame in frames])
    overlap = np.stack(
        [visible_fraction(number, depths, intrinsics, poses) for number in range(len(frames))]
    )
    return [frame.image for frame in frames], overlap


READERS = {"scene_metadata.npz": _from_pairs, CAMERAS: _from_cameras}


@functools.lru_cache(maxsize=256)
def scene_overlap(folder: pathlib.Path, frames: tuple[str, ...]) -> Float32[np.ndarray, "frames frames"]:
    """Returns a matrix whose entry (i, j) is the fraction of frame i's pixels that frame j sees.

    Args:
      folder: the scene's folder.
      frames: file names or paths of the images, in order. Frames that the file does not list overlap no
        other frame.

    Raises:
      UserError: if neither file exists, or if it cannot be parsed.
    """
    files = [parent / name for parent in (folder, folder.parent) for name in READERS]
    file = retried(lambda: next(filter(pathlib.Path.is_file, files), None))
    if file is None:
        raise UserError(
            f"the overlap of views is unknown in {str(folder)!r}: it has neither {' nor '.join(READERS)}; "
            "leave out the source's overlap"
        )
    try:
        known, overlap = retried(lambda: READERS[file.name](file))
    except (OSError, KeyError, ValueError, TypeError, IndexError, zipfile.BadZipFile, BadImage) as error:
        raise UserError(f"{file} has no valid overlap of views: {type(error).__name__} {error}") from error
    index_of = {pathlib.PurePosixPath(name).stem: index for index, name in enumerate(known)}
    indices = [index_of.get(pathlib.PurePosixPath(frame).stem, -1) for frame in frames]
    table = np.zeros((len(known) + 1,) * 2, np.float32)  # the last row and column: unlisted frames
    table[:-1, :-1] = overlap
    return table[np.ix_(indices, indices)]


def visible_fraction(
    number: int,
    depths: Sequence[Float32[np.ndarray, "H W"]],
    intrinsics: Float[np.ndarray, "views 3 3"],
    world_to_camera: Float[np.ndarray, "views 4 4"],
) -> Float32[np.ndarray, " views"]:
    """Returns the fraction of one view's pixels that each view sees, ignoring pixels without depth.

    A view sees a pixel if the pixel's point projects into the view's image and is not behind the surface
    there. Missing depth occludes nothing.

    Args:
      number: index of the view whose pixels are projected.
      depths: z-depth of each view; 0 = missing. Sizes may differ.
      intrinsics: camera matrices, in pixels.
      world_to_camera: camera poses, in the unit of the depths, with OpenCV axes.
    """
    depth = depths[number]
    rows, columns = (
        (np.arange(count) + 0.5) * side / count for count, side in zip(GRID, depth.shape, strict=True)
    )
    v, u = (axis.ravel() for axis in np.meshgrid(rows, columns, indexing="ij"))
    z = depth[v.astype(int), u.astype(int)]
    v, u, z = v[z > 0], u[z > 0], z[z > 0]
    if not len(z):
        return np.zeros(len(depths), np.float32)
    rays = np.linalg.inv(intrinsics[number]) @ np.stack([u, v, np.ones_like(u)])
    points = np.linalg.inv(world_to_camera[number]) @ np.concatenate([rays * z, np.ones((1, len(z)))])
    fractions = []
    for other, camera, pose in zip(depths, intrinsics, world_to_camera):
        x, y, far = camera @ (pose @ points)[:3]
        inside = far > 1e-6
        column, row = (np.where(inside, axis / np.where(inside, far, 1), -1) for axis in (x, y))
        inside &= (column >= 0) & (row >= 0) & (column < other.shape[1]) & (row < other.shape[0])
        surface = other[np.where(inside, row, 0).astype(int), np.where(inside, column, 0).astype(int)]
        fractions.append((inside & ((surface == 0) | (far <= surface * (1 + TOLERANCE)))).mean())
    return np.array(fractions, np.float32)
