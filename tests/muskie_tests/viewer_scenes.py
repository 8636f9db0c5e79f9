"""A small scene for the viewer: a coloured wall, seen by two cameras."""

import numpy as np

from muskie_jax.viewer.page import Layer

TITLE = "wall </script><b> & co"  # must be shown as text
BRIGHT = 220  # grey level of the second view's picture
NAMES = ("left </script>.jpg", "right.jpg")


def wall(name: str = "predicted", depth: float = 4.0) -> Layer:
    """Points of a wall before two cameras, at a depth. The first camera is turned about its z axis."""
    y, x = np.mgrid[-1.5:1.5:90j, -2:2:120j]
    points = np.stack([x, y, np.full_like(x, depth)], -1).reshape(-1, 3)
    colours = np.stack([60 + 45 * (x + 2), 60 + 60 * (y + 1.5), 200 - 30 * (x + 2)], -1).reshape(-1, 3)
    frame = np.eye(4)
    frame[:3, :3], frame[:3, 3] = [[0, -1, 0], [1, 0, 0], [0, 0, 1]], (5, 6, 7)
    poses = np.repeat(np.eye(4)[None], 2, 0)
    poses[1, 0, 3] = 1.0  # to the right
    points = points @ frame[:3, :3].T + frame[:3, 3]
    return Layer(name, points, colours.astype(np.uint8), frame @ poses, np.tile([0.5, 0.375], (2, 1)))


def pictures() -> list[np.ndarray]:
    return [np.full((48, 64, 3), level, np.uint8) for level in (40, BRIGHT)]
