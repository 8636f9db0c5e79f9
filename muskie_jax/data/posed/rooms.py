"""Rooms of the synthetic world: exact depth and cameras, and as many as one likes."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from ml_collections import ConfigDict

from muskie_jax.data.posed.views import Group, PosedViews
from muskie_jax.data.synthetic.render import render_group
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.data.synthetic.textures import photo_pyramid

SEED_STREAM = 6  # keeps the seeds of these rooms apart from what else is drawn from a run's seed


class Rooms:
    """A `PosedSet` whose groups are a room each, rendered when they are asked for.

    Args:
      name: of the dataset.
      world: what rooms are like.
      photos: textures, uint8 (N, S, S, 3), or None.
      views: of each room.
      groups: rooms.
      seed_of: a room's number -> its seed, uint32 (2,); see `render_group`.
    """

    parallel = False  # the device is busy with one room already

    def __init__(
        self,
        name: str,
        world: WorldConfig,
        photos: np.ndarray | None,
        views: int,
        groups: int,
        seed_of: Callable[[int], np.ndarray],
    ):
        self.name, self.seed_of = name, seed_of
        self._world, self._views = world, views
        self._pyramid = None if photos is None else photo_pyramid(jax.numpy.asarray(photos))
        self._programs = {}
        digits = len(str(max(groups, views) - 1))
        rooms = [f"room_{number:0{digits}d}" for number in range(groups)]
        self.groups = tuple(
            Group(room, tuple(f"{room}/{view:0{digits}d}" for view in range(views))) for room in rooms
        )

    def load(self, number: int, size: tuple[int, int]) -> PosedViews:
        """See `PosedSet`. A program is compiled for every size."""
        if not 0 <= number < len(self.groups):
            raise IndexError(number)
        rendered = jax.device_get(self._render(tuple(size))(self.seed_of(number)))
        cameras = rendered.cameras
        return PosedViews(
            images=rendered.images,
            depth=rendered.depth,
            valid=rendered.depth > 0,
            intrinsics=cameras.intrinsics.astype(np.float64),
            world_to_camera=cameras.world_to_camera.astype(np.float64),
        )

    def _render(self, size: tuple[int, int]):
        if size not in self._programs:
            render = functools.partial(
                render_group,
                num_views=self._views,
                height=size[0],
                width=size[1],
                config=self._world,
                with_geometry=True,
            )
            pyramid = self._pyramid
            self._programs[size] = jax.jit(lambda seed: render(seed, photos=pyramid))
        return self._programs[size]


def open_rooms(name: str, settings: ConfigDict, views: int) -> Rooms:
    """Rooms as evaluation sees them.

    Args:
      name: of the dataset.
      settings: `groups`, the number of rooms; `seed`: room i is a function of it and i; `world`, fields of
        `WorldConfig`; `photos`, a folder whose images become textures, `num_photos` at most.
      views: of each room.

    Raises:
      UserError: if there are no images for textures where there should be.
    """
    photos = None
    if settings.photos:
        from muskie_jax.data.mixture import photo_textures  # late: Grain takes its time to load

        photos = photo_textures(settings.photos, settings.num_photos)
    seed = settings.seed  # as it is now, whatever becomes of the settings
    draw = lambda number: np.random.default_rng([seed, SEED_STREAM, number])
    seed_of = lambda number: draw(number).integers(2**32, size=2, dtype="u4")
    return Rooms(name, WorldConfig(**settings.world), photos, views, settings.groups, seed_of)
