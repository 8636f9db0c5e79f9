"""What every posed dataset provides: groups of views with depth and cameras."""

from typing import NamedTuple, Protocol

import numpy as np
from jaxtyping import Bool, Float32, Float64, UInt8


class PosedViews(NamedTuple):
    """Views of one scene with depth and cameras: V views of H x W pixels.

    In pixel coordinates, which intrinsics refer to, the centre of the first pixel is (0.5, 0.5).

    Attributes:
      images: the views' RGB pixels.
      depth: z-depth at the pixels' centres, metres; 0 = missing, everywhere if the set has no depth.
      valid: mask of the pixels where points may be sampled: depth is known and, in datasets of objects,
        the pixel shows the object.
      intrinsics: camera matrices, in pixels of these images.
      world_to_camera: camera poses, in metres, with OpenCV axes (x right, y down, z forward).
    """

    images: UInt8[np.ndarray, "V H W 3"]
    depth: Float32[np.ndarray, "V H W"]
    valid: Bool[np.ndarray, "V H W"]
    intrinsics: Float64[np.ndarray, "V 3 3"]
    world_to_camera: Float64[np.ndarray, "V 4 4"]


class Group(NamedTuple):
    """Views that are evaluated together; query points are sampled in the first view.

    Attributes:
      label: the group's name, unique in its dataset, such as `kitchen/000040`.
      frames: names of the views.
      seed: text that query points, masks and the order of views are drawn from. It does not depend on the
        names of folders, so copies of a recording have the same draws. Empty: they depend on the label.
    """

    label: str
    frames: tuple[str, ...]
    seed: str = ""


class PosedSet(Protocol):
    """A posed dataset, as groups of views.

    Attributes:
      name: the dataset's name in the config.
      groups: all groups to evaluate, always the same for the same settings.
      parallel: whether threads may call `load` concurrently.
      has_depth: whether views have depth; if not, `depth` is 0 and `valid` is False everywhere.
    """

    name: str
    groups: tuple[Group, ...]
    parallel: bool
    has_depth: bool

    def load(self, number: int, size: tuple[int, int]) -> PosedViews:
        """Returns group `number`, each view resized and cropped to `size` (height, width).

        Raises:
          UserError: if a file cannot be read, or its depth or camera is invalid; it names the file.
        """
        ...
