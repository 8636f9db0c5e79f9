"""Refuses geometry that does not fit the images, and says what is probably wrong and how to correct it."""

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.data.posed.frames import RGBDDataset
from muskie_jax.data.posed.warp_check import STILL, Hypothesis, WarpReport, examine_dataset
from muskie_jax.errors import UserError

OPENCV_AXES, OPENGL_AXES = "OpenCV's", "OpenGL's"
FLIP = "diag(1, -1, -1, 1)"
# What the files of each reader contain: the direction of poses, and camera axes.
CONVENTIONS = {
    "cameras": ("world_to_camera", OPENCV_AXES),
    "transforms": ("camera_to_world", OPENGL_AXES),
    "colmap": ("world_to_camera", OPENCV_AXES),
    "navi": ("world_to_camera", OPENCV_AXES),
    "scannet": ("camera_to_world", OPENCV_AXES),
    "seven_scenes": ("camera_to_world", OPENCV_AXES),
    "neural_rgbd": ("camera_to_world", OPENGL_AXES),
    "tum": ("camera_to_world", OPENCV_AXES),
    "scannetpp": ("camera_to_world", OPENCV_AXES),
    "arkitscenes": ("camera_to_world", OPENCV_AXES),
    "blendedmvs": ("camera_to_world", OPENCV_AXES),
}
KNOWN_SCALES = (10.0, 100.0, 1000.0, 5.0, 5000.0)  # millimetres as metres and the like; TUM's 1/5000 m
ROUNDING = 1.3  # a factor within this ratio of a known one is taken to be that one


def check_geometry(name: str, settings: ConfigDict, dataset: RGBDDataset, path: str = "") -> None:
    """Raises UserError if the geometry of a sequence does not fit its images.

    Checks nothing without depth, or with `settings.check=False`.

    Args:
      name: the dataset's name in the config.
      settings: the dataset's settings.
      dataset: the dataset.
      path: path of the settings, for messages; by default, that of a dataset of `config.posed`.
    """
    path = path or f"config.posed.{name}"
    if not settings.check:
        return
    for report in examine_dataset(dataset):
        problem = describe(report, settings, path)
        if problem:
            raise UserError(
                f"{report.name}: depth and cameras do not fit the images: {problem}; to use them "
                f"anyway, pass --{path}.check=False"
            )


def describe(report: WarpReport, settings: ConfigDict, key: str) -> str:
    """Returns what is wrong with a geometry and how to correct it; "" if it fits.

    Args:
      report: the report of a sequence.
      settings: settings of its dataset.
      key: path of these settings.
    """
    best = report.best
    if best == Hypothesis():
        return ""
    if best == STILL:
        return (
            "views fit no better with them than without, and neither other axes, nor inverted poses, nor "
            "another unit of depth would help. Check that each pose and depth map belongs to its image"
        )
    if best.scale != 1:
        return _describe_scale(best.scale, report, settings, key)
    return _describe_poses(best, settings.reader)


def _describe_scale(scale: float, report: WarpReport, settings: ConfigDict, key: str) -> str:
    factor = nearest_known(max(scale, 1 / scale))
    too = "large" if scale < 1 else "small"
    reason = ""
    if factor == 5 and scale < 1:
        reason = ", as when TUM's 1/5000 m is read as millimetres"
    if "depth_unit" in settings and report.depth_unit:
        unit = report.depth_unit * (factor if scale > 1 else 1 / factor)
        remedy = f"pass --{key}.depth_unit={unit:.6g}"
    else:
        remedy = f"{'divide' if scale < 1 else 'multiply'} it by {factor:g}, or scale the poses"
    return f"depth is about {factor:g} times too {too} for the poses{reason}: {remedy}"


def nearest_known(factor: float) -> float:
    """Returns a usual factor between units of length if one is near, otherwise two digits of `factor`."""
    known = min(KNOWN_SCALES, key=lambda scale: abs(np.log(scale / factor)))
    return known if abs(np.log(known / factor)) < np.log(ROUNDING) else float(f"{factor:.2g}")


def _describe_poses(best: Hypothesis, reader: str) -> str:
    direction, axes = CONVENTIONS[reader]
    other_direction = {"world_to_camera": "camera_to_world", "camera_to_world": "world_to_camera"}[
        direction
    ]
    other_axes = OPENGL_AXES if axes == OPENCV_AXES else OPENCV_AXES
    if not best.inverted:  # only the axes differ
        found, found_axes = direction, other_axes
    else:  # poses are inverted after the reader has converted the axes
        found, found_axes = other_direction, OPENGL_AXES if best.flipped else OPENCV_AXES
    steps = ["invert each pose"] if best.inverted else []
    if found_axes != axes:
        side = "left" if direction == "world_to_camera" else "right"
        steps.append(f"multiply each by {FLIP} from the {side}")
    return (
        f"the poses look like {found} with {found_axes} camera axes, but must be {direction} with {axes}: "
        f"{', then '.join(steps)}"
    )
