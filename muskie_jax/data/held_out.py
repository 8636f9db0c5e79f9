"""Held-out scenes of a config's sources as groups of views: the same for every network.

Photographs have no geometry, rooms of the synthetic world have all of it.
"""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from muskie_jax.data.images import BadImage
from muskie_jax.data.mixture import EVALUATION_SEED, Mixture
from muskie_jax.data.pipeline import HELDOUT_STREAM
from muskie_jax.data.posed.views import Group, PosedViews
from muskie_jax.data.samples import STAND_INS
from muskie_jax.data.sources import PhotographSource, SyntheticSource
from muskie_jax.data.synthetic.render import render_group
from muskie_jax.data.synthetic.textures import photo_pyramid
from muskie_jax.data.views import centre_view
from muskie_jax.errors import UserError

_render = jax.jit(
    functools.partial(render_group, with_geometry=True),
    static_argnames=("num_views", "height", "width", "config"),
)


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


class HeldOutRooms:
    """Rooms of the synthetic world, each a scene of its own, with exact depth and cameras.

    Args:
      source: the world.
      photos: textures, uint8 (N, S, S, 3), or None.
      views, groups: see `HeldOutPhotographs`.

    Attributes:
      name, groups: see `muskie_jax.data.posed.views.PosedSet`.
    """

    def __init__(self, source: SyntheticSource, photos: np.ndarray | None, views: int, groups: int):
        self.name, self._world, self._views = source.name, source.world, views
        self._pyramid = None if photos is None else photo_pyramid(jnp.asarray(photos))
        frames = tuple(f"view_{view}" for view in range(views))
        self.groups = tuple(Group(f"room_{number:06d}", frames) for number in range(groups))

    def load(self, number: int, size: tuple[int, int]) -> PosedViews:
        """Renders room `number` at (height, width)."""
        rng = np.random.default_rng([EVALUATION_SEED, HELDOUT_STREAM, number])
        rendered = _render(
            rng.integers(2**32, size=2, dtype=np.uint32),
            num_views=self._views,
            height=size[0],
            width=size[1],
            config=self._world,
            photos=self._pyramid,
        )
        images, depth, cameras = jax.device_get((rendered.images, rendered.depth, rendered.cameras))
        return PosedViews(
            images=images,
            depth=depth,
            valid=depth > 0,
            intrinsics=cameras.intrinsics.astype(np.float64),
            world_to_camera=cameras.world_to_camera.astype(np.float64),
        )


def held_out_scenes(
    mixture: Mixture, views: int, groups: int
) -> tuple[HeldOutPhotographs | HeldOutRooms, ...]:
    """One set of groups for each source that is evaluated.

    Args:
      mixture: the sources, see `muskie_jax.data.mixture.build_mixture`.
      views: of a group, at most.
      groups: of each source.

    Raises:
      UserError: if views of a source should overlap, and it is not known which do.
    """
    return tuple(
        HeldOutRooms(source, mixture.photos.get(number), views, groups)
        if isinstance(source, SyntheticSource)
        else HeldOutPhotographs(source, views, groups)
        for number, source in enumerate(mixture.held_out)
        if source.weight
    )
