"""How much of one view another sees: for samples of views that overlap, where that can be known.

It is known where a scene's folder, or the one that it is in, has

- `scene_metadata.npz` with `images`, file names, and `pairs`, (number of one image, number of another,
  their overlap) each, as common processings of ARKitScenes and ScanNet++ write it;
- or `cameras.json` (see `muskie_jax.data.cameras_json`).
"""

import functools
import math
import pathlib
import zipfile

import numpy as np

from muskie_jax.data.cameras_json import CAMERAS, read_cameras
from muskie_jax.data.depth import load_depth
from muskie_jax.data.images import BadImage
from muskie_jax.errors import UserError

GRID = (24, 32)  # rows and columns of the pixels that are followed from view to view
TOLERANCE = 0.05  # how far behind a view's surface a point may lie and be seen in it, share of its depth


def sample_overlapping(
    rng: np.random.Generator, overlap: np.ndarray, num_views: int, low: float, high: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """Frame indices of one sample: a frame, and others that see enough of it, and not too much.

    Args:
      overlap: (frames, frames), the share of the row's frame that the column's sees.
      num_views: views to draw; without replacement, starting over when there are fewer.
      low, high: the overlap of the others with the first, inclusive.

    Returns:
      The frames, int (num_views,), in random order, and those not drawn that may stand in, or None if
      no two frames overlap so.
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
    depths = [load_depth(path.parent / frame.depth) for frame in frames]
    intrinsics = np.stack([frame.intrinsics for frame in frames])
    poses = np.stack([frame.world_to_camera for frame in frames])
    overlap = np.stack(
        [visible_fraction(number, depths, intrinsics, poses) for number in range(len(frames))]
    )
    return [frame.image for frame in frames], overlap


READERS = {"scene_metadata.npz": _from_pairs, CAMERAS: _from_cameras}


@functools.lru_cache(maxsize=256)
def scene_overlap(folder: pathlib.Path, frames: tuple[str, ...]) -> np.ndarray:
    """The share of each frame that each other sees: float32 (frames, frames), rows see by columns.

    Args:
      folder: of the scene.
      frames: file names or paths of the images, in order; those that the file does not know overlap
        with none.

    Raises:
      UserError: if neither file is there, or cannot be understood.
    """
    files = [place / name for place in (folder, folder.parent) for name in READERS]
    file = next(filter(pathlib.Path.is_file, files), None)
    if file is None:
        raise UserError(
            f"overlap of views is not known in {str(folder)!r}: it has neither {' nor '.join(READERS)}; "
            "leave out the source's overlap"
        )
    try:
        known, overlap = READERS[file.name](file)
    except (OSError, KeyError, ValueError, TypeError, IndexError, zipfile.BadZipFile, BadImage) as error:
        raise UserError(f"{file}: overlap of views: {type(error).__name__} {error}") from error
    numbers = {pathlib.PurePosixPath(name).stem: number for number, name in enumerate(known)}
    own = [numbers.get(pathlib.PurePosixPath(frame).stem, -1) for frame in frames]
    table = np.zeros((len(known) + 1,) * 2, np.float32)  # the last row is that of unknown frames
    table[:-1, :-1] = overlap
    return table[np.ix_(own, own)]


def visible_fraction(
    number: int, depths: list[np.ndarray], intrinsics: np.ndarray, world_to_camera: np.ndarray
) -> np.ndarray:
    """The share of a view's pixels with depth that each view sees: float32 (views,).

    A pixel is seen where its point falls into the image and is not behind the surface there; a hole in
    a depth map hides nothing.

    Args:
      number: of the view whose pixels are followed.
      depths: z-depth (H, W) of each view; 0 = missing.
      intrinsics: (views, 3, 3) in pixels.
      world_to_camera: (views, 4, 4).
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
    shares = []
    for other, camera, pose in zip(depths, intrinsics, world_to_camera):
        x, y, far = camera @ (pose @ points)[:3]
        inside = far > 1e-6
        column, row = (np.where(inside, axis / np.where(inside, far, 1), -1) for axis in (x, y))
        inside &= (column >= 0) & (row >= 0) & (column < other.shape[1]) & (row < other.shape[0])
        surface = other[np.where(inside, row, 0).astype(int), np.where(inside, column, 0).astype(int)]
        shares.append((inside & ((surface == 0) | (far <= surface * (1 + TOLERANCE)))).mean())
    return np.array(shares, np.float32)
