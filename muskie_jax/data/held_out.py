"""Held-out scenes of a config's sources as groups of views: the same for every network.

Photographs have no geometry, rooms of the synthetic world have all of it.
"""

import itertools
from typing import NamedTuple

import numpy as np

from muskie_jax.data.images import BadImage
from muskie_jax.data.mixture import EVALUATION_SEED, Mixture
from muskie_jax.data.pipeline import HELDOUT_STREAM
from muskie_jax.data.posed.rooms import Rooms
from muskie_jax.data.posed.views import Group
from muskie_jax.data.samples import STAND_INS
from muskie_jax.data.sources import PhotographSource, SyntheticSource
from muskie_jax.data.views import centre_view
from muskie_jax.errors import UserError


class Photographs(NamedTuple):
    """Views of one scene, uint8 (V, H, W, 3), whose geometry is not known."""

    images: np.ndarray


class HeldOutPhotographs:
    """Groups of photographs; scenes take turns, and a group's views are drawn as in training.

    No view is there twice: a group of a scene with too few photographs has fewer views.

    Args:
      source: with the held-out scenes.
      views: of a group.
      groups: how many.

    Attributes:
      name, groups: see `muskie_jax.data.posed.views.PosedSet`.
    """

    parallel = True

    def __init__(self, source: PhotographSource, views: int, groups: int):
        self.name, self._source, self._drawn = source.name, source, []
        scenes = np.random.default_rng([EVALUATION_SEED, HELDOUT_STREAM]).permutation(len(source.scenes))
        labelled = []
        for number in range(groups):
            scene = int(scenes[number % len(scenes)])
            rng = np.random.default_rng([EVALUATION_SEED, HELDOUT_STREAM, number])
            drawn, spare = source.draw(rng, scene, views)
            frames = list(dict.fromkeys(map(int, drawn)))
            self._drawn.append((scene, frames, [int(frame) for frame in spare[:STAND_INS]]))
            name, paths = source.scenes[scene]
            labelled.append(Group(f"{name}/{number:06d}", tuple(paths[frame] for frame in frames)))
        self.groups = tuple(labelled)

    def load(self, number: int, size: tuple[int, int]) -> Photographs:
        """Group `number`, the largest centred crops resized to (height, width).

        Another photograph of the scene stands in for one that cannot be read.

        Raises:
          UserError: if there are too few that can.
        """
        scene, frames, spare = self._drawn[number]
        images, bad = [], []
        for frame in itertools.chain(frames, spare):
            try:
                images.append(centre_view(self._source.open(scene, frame), size))
            except BadImage as error:
                bad.append(str(error))
            if len(images) == len(frames):
                return Photographs(np.stack(images))
        raise UserError(
            f"scene {self._source.scenes[scene].name!r} of {self.name}: too few images for a group of "
            f"{len(frames)} views can be read, such as {bad[-1]}: mend or remove it"
        )


def held_out_rooms(source: SyntheticSource, photos: np.ndarray | None, views: int, groups: int) -> Rooms:
    """Rooms that no training sees; for arguments see `Rooms`."""
    draw = lambda number: np.random.default_rng([EVALUATION_SEED, HELDOUT_STREAM, number])
    seed_of = lambda number: draw(number).integers(2**32, size=2, dtype=np.uint32)
    return Rooms(source.name, source.world, photos, views, groups, seed_of)


def held_out_scenes(mixture: Mixture, views: int, groups: int) -> tuple[HeldOutPhotographs | Rooms, ...]:
    """One set of groups for each source that is evaluated.

    Args:
      mixture: the sources, see `muskie_jax.data.mixture.build_mixture`.
      views: of a group, at most.
      groups: of each source.

    Raises:
      UserError: if views of a source should overlap, and it is not known which do.
    """
    return tuple(
        held_out_rooms(source, mixture.photos.get(number), views, groups)
        if isinstance(source, SyntheticSource)
        else HeldOutPhotographs(source, views, groups)
        for number, source in enumerate(mixture.held_out)
        if source.weight
    )
