"""Groups of views from the held-out scenes of a config's sources, the same for every network.

Groups of photographs have no depth or cameras; groups of synthetic rooms have both.
"""

import itertools
from collections.abc import Collection
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from muskie_jax.data.images import BadImage
from muskie_jax.data.mixture import EVALUATION_SEED, Mixture
from muskie_jax.data.pipeline import HELDOUT_STREAM
from muskie_jax.data.posed.rooms import Rooms
from muskie_jax.data.posed.views import Group
from muskie_jax.data.samples import MAX_REPLACEMENTS
from muskie_jax.data.sources import PhotographSource, RecordedSource, SyntheticSource
from muskie_jax.data.views import centre_view
from muskie_jax.errors import UserError


class Photographs(NamedTuple):
    """Views of one scene without depth and cameras."""

    images: UInt8[np.ndarray, "V H W 3"]


class HeldOutPhotographs:
    """Groups of held-out photographs, one scene after the other, with frames drawn as in training.

    No view repeats within a group: a scene with too few photographs has smaller groups.

    Args:
      source: the held-out scenes of a source, and no others.
      views: number of views per group.
      groups: number of groups.

    Attributes:
      name, groups: see `muskie_jax.data.posed.views.PosedSet`.
      image_folders: the folder of each group's images, absolute.
    """

    parallel = True

    def __init__(self, source: PhotographSource, views: int, groups: int):
        self.name, self._source, self._drawn = source.name, source, []
        # By group: number of images tried, and one message per unreadable image.
        self._opened: list[tuple[int, list[str]]] = [(0, [])] * groups
        root = source.root.resolve()
        scenes = np.random.default_rng([EVALUATION_SEED, HELDOUT_STREAM]).permutation(len(source.scenes))
        labelled = []
        for number in range(groups):
            scene = int(scenes[number % len(scenes)])
            rng = np.random.default_rng([EVALUATION_SEED, HELDOUT_STREAM, number])
            drawn, spare = source.draw(rng, scene, views)
            frames = list(dict.fromkeys(drawn.tolist()))
            self._drawn.append((scene, frames, spare[:MAX_REPLACEMENTS].tolist()))
            name, paths = source.scenes[scene]
            label, files = f"{name}/{number:06d}", tuple(paths[frame] for frame in frames)
            labelled.append(Group(label, files, seed=str(number)))
        self.groups = tuple(labelled)
        self.image_folders = tuple((root / group.frames[0]).parent for group in labelled)

    def load(self, number: int, size: tuple[int, int]) -> Photographs:
        """Loads group `number` as largest centred crops, resized to `size` (height, width).

        Unreadable photographs are replaced by other photographs of the scene.

        Raises:
          UserError: if too few photographs of the scene can be read.
        """
        scene, frames, spare = self._drawn[number]
        images, bad = [], []
        for frame in itertools.chain(frames, spare):
            try:
                images.append(centre_view(self._source.open(scene, frame), size))
            except BadImage as error:
                bad.append(str(error))
            if len(images) == len(frames):
                break
        self._opened[number] = len(images) + len(bad), bad
        if len(images) == len(frames):
            return Photographs(np.stack(images))
        raise UserError(
            f"scene {self._source.scenes[scene].name!r} of {self.name} has too few readable images for a "
            f"group of {len(frames)} views: repair or remove unreadable images, such as {bad[-1]}"
        )

    @property
    def unreadable(self) -> str:
        """A line that counts the unreadable images of all groups loaded so far; empty if there are none."""
        bad = [message for _, messages in self._opened for message in messages]
        tried = sum(count for count, _ in self._opened)
        if not bad:
            return ""
        return f"{self.name}: {len(bad)} of {tried} images drawn were unreadable, such as {bad[0]}"


def held_out_rooms(source: SyntheticSource, photos: np.ndarray | None, views: int, groups: int) -> Rooms:
    """Returns groups of synthetic rooms that training never draws; see `Rooms` for arguments."""
    draw = lambda number: np.random.default_rng([EVALUATION_SEED, HELDOUT_STREAM, number])
    seed_of = lambda number: draw(number).integers(2**32, size=2, dtype=np.uint32)
    return Rooms(source.name, source.world, photos, views, groups, seed_of)


def held_out_scenes(
    mixture: Mixture, views: int, groups: int, whole: Collection[str] = ()
) -> tuple[HeldOutPhotographs | Rooms, ...]:
    """Returns the groups of each source that is evaluated; recordings with cameras are not.

    Args:
      mixture: the config's sources, from `muskie_jax.data.mixture.build_mixture`.
      views: maximum number of views per group.
      groups: number of groups per source.
      whole: names of sources whose holdout is 0. They are evaluated on all scenes.

    Raises:
      UserError: if a source's views should overlap, but their overlap is unknown.
    """
    return tuple(
        held_out_rooms(source, mixture.photos.get(number), views, groups)
        if isinstance(source, SyntheticSource)
        else HeldOutPhotographs(source, views, groups)
        for number, source in enumerate(mixture.held_out)
        if not isinstance(source, RecordedSource)
        and (source.weight or (source.name in whole and mixture.training[number].weight))
    )
