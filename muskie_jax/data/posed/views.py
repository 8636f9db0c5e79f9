"""What every posed dataset gives: views with depth and cameras."""

from typing import NamedTuple, Protocol

import numpy as np


class PosedViews(NamedTuple):
    """Views of one scene, whose geometry is known. V views of H x W pixels.

    Pixels are squares: the centre of the first is (0.5, 0.5), and intrinsics speak of that frame.

    Attributes:
      images: uint8 (V, H, W, 3).
      depth: float32 (V, H, W), z-depth at the pixels' centres, metres; 0 = missing.
      valid: bool (V, H, W), where points may be drawn: depth is there and, for objects, it is the object.
      intrinsics: float64 (V, 3, 3), in pixels of these images.
      world_to_camera: float64 (V, 4, 4), metres, OpenCV axes (x right, y down, z forward).
    """

    images: np.ndarray
    depth: np.ndarray
    valid: np.ndarray
    intrinsics: np.ndarray
    world_to_camera: np.ndarray


class Group(NamedTuple):
    """Views that are evaluated together; the first is the one whose points are followed.

    Attributes:
      label: unique in its set, such as `kitchen/000040`.
      frames: names of the views.
    """

    label: str
    frames: tuple[str, ...]


class PosedSet(Protocol):
    """A posed dataset, as groups of views.

    Attributes:
      name: of the dataset, as in the config.
      groups: all that are evaluated, always the same for the same settings.
      parallel: whether threads may call `load` side by side.
    """

    name: str
    groups: tuple[Group, ...]
    parallel: bool

    def load(self, number: int, size: tuple[int, int]) -> PosedViews:
        """Group `number`, each view resized and cropped to (height, width).

        Raises:
          UserError: if a file cannot be read, or its geometry cannot be true; it names the file.
        """
        ...
