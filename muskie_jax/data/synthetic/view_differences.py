"""Measures how the views of synthetic groups differ in viewpoint.

Wide baselines are useful only while views see the same surfaces, so angles come with the overlap.
"""

import functools
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from muskie_jax.data.synthetic.correspondence import find_in_view, surface_points
from muskie_jax.data.synthetic.rays import nearest_primitive
from muskie_jax.data.synthetic.render import pixel_rays
from muskie_jax.data.synthetic.scenes import Cameras, WorldConfig, sample_scene
from muskie_jax.data.synthetic.viewpoints import sample_cameras
from muskie_jax.writers import table_head, table_row

PROBE_SIDE = 16  # points along each side of a view
MIN_SHARED_POINTS = 3  # shared points below which a pair has no angle or scale
SIDE = 64  # pixels of the square views whose depth is measured
BATCH = 20  # groups rendered together
PERCENTILES = (10, 50, 90)
COLUMNS = (
    ("percentile", 12), ("shared pixels", 13), ("angle, degrees", 14), ("size ratio", 10),
    ("roll, degrees", 13),
)  # fmt: skip


class ViewDifferences(NamedTuple):
    """How two views of a group differ in viewpoint, one value per ordered pair of views.

    Attributes:
      overlap: fraction of the first view's pixels that the second view sees.
      angle: degrees between the lines of sight from a shared surface point to both cameras, median over
        the shared points. NaN if hardly any point is shared.
      scale: absolute log2 of the ratio of the sizes at which both views show a shared point, median over
        the shared points; 1 is twice as large. NaN if hardly any point is shared.
      roll: degrees by which the second view is rotated in the image plane, relative to the first.
    """

    overlap: Float[np.ndarray, " pairs"]
    angle: Float[np.ndarray, " pairs"]
    scale: Float[np.ndarray, " pairs"]
    roll: Float[np.ndarray, " pairs"]

    def summary(self) -> dict[str, list[float]]:
        """Returns the 10th, 50th and 90th percentile of each attribute."""
        values = self._asdict().items()
        return {
            name: [round(float(p), 3) for p in np.nanpercentile(value, PERCENTILES)]
            for name, value in values
        }


@functools.cache
def _geometry(world: WorldConfig, num_views: int):
    """Returns the jitted function from seeds (B, 2) to the cameras and depth of square views."""

    def group(seed):
        key = jax.random.wrap_key_data(seed, impl="threefry2x32")
        scene = sample_scene(key, world)
        cameras = sample_cameras(key, scene, world, num_views, SIDE, SIDE)
        depth, _ = nearest_primitive(scene, *pixel_rays(cameras, SIDE, SIDE))
        return cameras, depth

    return jax.jit(jax.vmap(group))


def measure_view_differences(
    world: WorldConfig, groups: int = 200, num_views: int = 4, seed: int = 0
) -> ViewDifferences:
    """Returns how the views of random groups differ: all ordered pairs of all groups.

    Args:
      world: the distribution of rooms.
      groups: number of groups, rounded up to a multiple of 20.
      num_views: number of views per group.
      seed: seed of the groups.
    """
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(-(-groups // BATCH)):
        seeds = rng.integers(2**32, size=(BATCH, 2), dtype=np.uint32)
        cameras, depth = jax.device_get(_geometry(world, num_views)(seeds))
        for number in range(BATCH):
            of_group = Cameras(cameras.intrinsics[number], cameras.world_to_camera[number])
            pairs += [
                compare_views(depth[number], of_group, a, b)
                for a, b in np.argwhere(~np.eye(num_views, dtype=bool))
            ]
    return ViewDifferences(*np.array(pairs, float).reshape(-1, 4).T)


def compare_views(
    depth: Float[np.ndarray, "V H W"], cameras: Cameras, first: int, second: int
) -> tuple[float, float, float, float]:
    """Returns overlap, angle, scale and roll of two views: see `ViewDifferences`."""
    height, width = depth.shape[1:]
    columns, rows = ((2 * np.arange(PROBE_SIDE) + 1) * side // (2 * PROBE_SIDE) for side in (width, height))
    points = np.stack(np.meshgrid(columns, rows), -1).reshape(-1, 2) + 0.5  # centres of pixels
    intrinsics, poses = np.asarray(cameras.intrinsics), np.asarray(cameras.world_to_camera)
    _, visible = find_in_view(points, depth, cameras, first, second)
    relative = poses[second, :3, :3] @ poses[first, :3, :3].T
    roll = float(
        np.degrees(np.abs(np.arctan2(relative[1, 0] - relative[0, 1], relative[0, 0] + relative[1, 1])))
    )
    if visible.sum() < MIN_SHARED_POINTS:
        return float(visible.mean()), np.nan, np.nan, roll
    shared = surface_points(points[visible], depth[first], intrinsics[first], poses[first])
    centres = [-pose[:3, :3].T @ pose[:3, 3] for pose in (poses[first], poses[second])]
    sights = np.stack([centre - shared for centre in centres])
    sights /= np.linalg.norm(sights, axis=-1, keepdims=True)
    angle = np.degrees(np.arccos(np.clip((sights[0] * sights[1]).sum(-1), -1, 1)))
    depths = [shared @ poses[view, 2, :3] + poses[view, 2, 3] for view in (first, second)]
    scale = np.abs(np.log2(intrinsics[second, 0, 0] / depths[1] * depths[0] / intrinsics[first, 0, 0]))
    return float(visible.mean()), float(np.median(angle)), float(np.median(scale)), roll


def view_difference_lines(summary: dict[str, list[float]]) -> list[str]:
    """Returns a `ViewDifferences.summary` as text: a title, and a table with a row per percentile."""
    title = "differences between two views of a group (each column is sorted separately)"
    lines = [title, table_head(COLUMNS)]
    for number, percentile in enumerate(PERCENTILES):
        overlap, angle, scale, roll = (summary[key][number] for key in ViewDifferences._fields)
        cells = [f"{percentile}th", f"{overlap:.0%}", f"{angle:.0f}", f"{2**scale:.2f}", f"{roll:.0f}"]
        lines.append(table_row(cells, COLUMNS))
    return lines
