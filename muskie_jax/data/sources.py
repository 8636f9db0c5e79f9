"""Sources of scenes: photographs, and the synthetic world.

A source of photographs has a list of scenes, opens their frames, and draws the frames of a sample. The
synthetic world has no list: every seed is a scene, which is rendered on the device.
"""

import abc
import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float32, Int

from muskie_jax.data.images import DiskFault, Photograph, read_photograph
from muskie_jax.data.layouts import Layout
from muskie_jax.data.objects import RelativeBox, object_box
from muskie_jax.data.overlap import sample_overlapping, scene_overlap
from muskie_jax.data.recordings import RecordedSource
from muskie_jax.data.retries import retried
from muskie_jax.data.scenes import SceneTable, location
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.data.views import sample_frames


@dataclasses.dataclass(frozen=True)
class PhotographSource(abc.ABC):
    """A source of photographs, in files or in a pack.

    Attributes:
      name: the dataset's name, for logs and per-dataset losses.
      root: the folder with the data, on this machine.
      scenes: all scenes, in natural order.
      window: number of consecutive frames that a sample is drawn from; None: the whole scene.
      zoom: fraction of samples that are cropped to the object.
      overlap: lowest and highest fraction of a sample's first view that each other view sees. The scenes'
        overlap must be known (see `muskie_jax.data.overlap`). Empty: views are drawn from the window.
      weight: probability of drawing the source, relative to the other sources.
    """

    name: str
    root: pathlib.Path
    scenes: SceneTable
    window: int | None = None
    zoom: float = 0.0
    overlap: tuple[float, float] | tuple[()] = ()
    weight: float = 1.0

    def draw(
        self, rng: np.random.Generator, scene: int, views: int
    ) -> tuple[Int[np.ndarray, " views"], Int[np.ndarray, " spare"]]:
        """Draws the frames of one sample.

        Args:
          rng: the generator to draw from.
          scene: index of the scene.
          views: number of frames to draw.

        Returns:
          The drawn frames in random order, and the frames that may replace unreadable ones.

        Raises:
          UserError: if views should overlap, but their overlap is unknown.
        """
        if self.overlap:
            drawn = sample_overlapping(rng, self.scene_overlap(scene), views, *self.overlap)
            if drawn is not None:
                return drawn
        return sample_frames(rng, int(self.scenes.counts[scene]), views, self.window)

    @abc.abstractmethod
    def open(self, scene: int, frame: int) -> Photograph:
        """Opens one frame; raises `BadImage` if it cannot be read."""

    @abc.abstractmethod
    def object_box(self, scene: int, frame: int) -> RelativeBox | None:
        """Returns the bounding box of the object in a frame; None if there is no mask or it is empty.

        Raises:
          BadImage: if the mask exists but cannot be read.
        """

    @abc.abstractmethod
    def scene_overlap(self, scene: int) -> Float32[np.ndarray, "frames frames"]:
        """Returns a matrix whose entry (i, j) is the fraction of frame i's pixels that frame j sees.

        Raises:
          UserError: if the overlap is unknown.
        """


@dataclasses.dataclass(frozen=True)
class FolderSource(PhotographSource):
    """Scenes of photographs in folders below one root.

    Attributes:
      layout: the layout of the folders.
    """

    layout: Layout = dataclasses.field(kw_only=True)

    def path(self, scene: int, frame: int) -> pathlib.Path:
        """Returns the file of one frame."""
        return self.root / self.scenes[scene].frames[frame]

    def open(self, scene: int, frame: int) -> Photograph:
        """See `PhotographSource`."""
        return read_photograph(self.path(scene, frame))

    def object_box(self, scene: int, frame: int) -> RelativeBox | None:
        """See `PhotographSource`."""
        if not self.layout.masks:
            return None
        path = self.root / self.layout.mask_path(self.scenes[scene].frames[frame])
        try:
            exists = retried(path.is_file)
        except OSError as error:
            raise DiskFault(f"{path}: {error.strerror}") from error
        return object_box(path) if exists else None

    def scene_overlap(self, scene: int) -> Float32[np.ndarray, "frames frames"]:
        """See `PhotographSource`."""
        name, frames = self.scenes[scene]
        return scene_overlap(self.root / location(name), frames)


@dataclasses.dataclass(frozen=True)
class SyntheticSource:
    """An endless supply of rooms, each a function of its seed (see `muskie_jax.data.synthetic`)."""

    name: str
    world: WorldConfig
    weight: float = 1.0


Source = PhotographSource | SyntheticSource | RecordedSource
