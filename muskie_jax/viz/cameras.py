"""How cameras are drawn among points: in the axes of viewers, as pyramids of one size, in colours."""

import numpy as np
from jaxtyping import Float, UInt8
from matplotlib import colormaps

CAMERA_SIZE = 0.05  # depth of a camera's pyramid, relative to the scene's size
EXTENT = (5, 95)  # percentiles of the points between which the scene's size is measured
# From OpenCV's axes to those of glTF and of most viewers: x right, y up, z backward.
TO_VIEWER = np.diag([1.0, -1.0, -1.0])


def scene_size(points: Float[np.ndarray, "N 3"], camera_to_world: Float[np.ndarray, "V 4 4"]) -> float:
    """Returns the largest extent of most points, or the largest distance from the first camera."""
    extent = np.subtract(*np.percentile(points, EXTENT[::-1], axis=0)) if len(points) else 1.0
    distances = np.linalg.norm(camera_to_world[:, :3, 3] - camera_to_world[0, :3, 3], axis=1)
    return max(float(np.max(extent)), float(distances.max()), 1e-6 / CAMERA_SIZE)


def camera_colours(count: int) -> UInt8[np.ndarray, "count 3"]:
    """Returns a colour per camera, from blue for the first to red for the last."""
    return (255 * colormaps["turbo"](np.linspace(0.1, 0.9, count))[:, :3]).astype(np.uint8)
