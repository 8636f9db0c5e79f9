"""Where scenes come from: folders of photographs, and the synthetic world.

A photograph source has `scenes`, frames of which it opens, and says which of them make a sample. The
synthetic world has no list: a seed is a scene, and it is rendered on the device.
"""

import abc
import dataclasses
import pathlib

import numpy as np

from muskie_jax.data.images import Photograph, read_photograph
from muskie_jax.data.layouts import Layout
from muskie_jax.data.objects import RelativeBox, object_box
from muskie_jax.data.overlap import sample_overlapping, scene_overlap
from muskie_jax.data.scenes import SceneTable, place
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.data.views import sample_frames


class PhotographSource(abc.ABC):
    """What sources of photographs have in common.

    Each has the attributes `name`, `root`, `scenes`, `window`, `zoom`, `overlap` and `weight` (see
    `FolderSource`), `open` and `object_box`, and knows by `scene_overlap` which views overlap.
    """

    def draw(self, rng: np.random.Generator, scene: int, views: int) -> tuple[np.ndarray, np.ndarray]:
        """The frames of one sample, in random order, and those that may stand in for unreadable ones.

        Raises:
          UserError: if views should overlap, and it is not known which do.
        """
        if self.overlap:
            drawn = sample_overlapping(rng, self.scene_overlap(scene), views, *self.overlap)
            if drawn is not None:
                return drawn
        return sample_frames(rng, int(self.scenes.counts[scene]), views, self.window)

    @abc.abstractmethod
    def scene_overlap(self, scene: int) -> np.ndarray:
        """The share of each frame of a scene that each other sees: float32 (frames, frames).

        Raises:
          UserError: if it is not known.
        """


@dataclasses.dataclass(frozen=True)
class FolderSource(PhotographSource):
    """Scenes of photographs under one root.

    Attributes:
      name: of the dataset, for logs and per-dataset losses.
      root: the folder.
      layout: how it is laid out.
      scenes: found by `scan`, in natural order.
      window: consecutive frames that a sample is drawn from; None means the whole scene.
      zoom: share of samples that are cropped to the object.
      overlap: lowest and highest share of a sample's first view that each other sees, where poses or
        pairs are known (see `muskie_jax.data.overlap`); empty: views are drawn from the window.
      weight: how often the source is drawn, relative to the others.
    """

    name: str
    root: pathlib.Path
    layout: Layout
    scenes: SceneTable
    window: int | None = None
    zoom: float = 0.0
    overlap: tuple[float, float] | tuple[()] = ()
    weight: float = 1.0

    def scene_overlap(self, scene: int) -> np.ndarray:
        """See `PhotographSource`."""
        name, frames = self.scenes[scene]
        return scene_overlap(self.root / place(name), frames)

    def path(self, scene: int, frame: int) -> pathlib.Path:
        """The file of one frame."""
        return self.root / self.scenes[scene].frames[frame]

    def open(self, scene: int, frame: int) -> Photograph:
        """One frame; raises `BadImage`."""
        return read_photograph(self.path(scene, frame))

    def object_box(self, scene: int, frame: int) -> RelativeBox | None:
        """The bounding box of the object in a frame, by its mask; None without one, or if it is empty.

        Raises:
          BadImage: if the mask is there and cannot be read.
        """
        if not self.layout.masks:
            return None
        path = self.root / self.layout.mask_of(self.scenes[scene].frames[frame])
        return object_box(path) if path.is_file() else None


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
    """An endless supply of rooms, each a function of its seed (see `muskie_jax.data.synthetic`)."""

    name: str
    world: WorldConfig
    weight: float = 1.0


Source = PhotographSource | SyntheticSource
