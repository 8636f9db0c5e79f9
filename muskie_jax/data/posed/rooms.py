"""Rooms of the synthetic world as a posed dataset: exact depth and cameras, any number of groups."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jaxtyping import UInt8
from ml_collections import ConfigDict

from muskie_jax.data.posed.views import Group, PosedViews
from muskie_jax.data.synthetic.render import render_group
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.data.synthetic.textures import photo_pyramid

SEED_STREAM = 6  # separates the seeds of these rooms from other draws from a run's seed


class Rooms:
    """A `PosedSet` whose groups are rooms, each rendered when it is loaded.

    Args:
      name: the dataset's name.
      world: the distribution that rooms are drawn from.
      photos: N square textures of S x S pixels; None for procedural textures only.
      views: number of views per room.
      groups: number of rooms.
      seed_of: function that returns a room's seed, uint32 (2,), for its number; see `render_group`.
    """

    parallel = False  # one room already occupies the device
    has_depth = True

    def __init__(
        self,
        name: str,
        world: WorldConfig,
        photos: UInt8[np.ndarray, "N S S 3"] | None,
        views: int,
        groups: int,
        seed_of: Callable[[int], np.ndarray],
    ):
        self.name, self.seed_of = name, seed_of
        self._world, self._views = world, views
        self._pyramid = None if photos is None else photo_pyramid(jax.numpy.asarray(photos))
        self._programs = {}  # compiled programs by size
        digits = len(str(max(groups, views) - 1))
        rooms = [f"room_{number:0{digits}d}" for number in range(groups)]
        self.groups = tuple(
            Group(room, tuple(f"{room}/{view:0{digits}d}" for view in range(views))) for room in rooms
        )

    def load(self, number: int, size: tuple[int, int]) -> PosedViews:
        """See `PosedSet`; compiles one program per size."""
        if not 0 <= number < len(self.groups):
            raise IndexError(number)
        height, width = size
        rendered = jax.device_get(self._render(height, width)(self.seed_of(number)))
        cameras = rendered.cameras
        return PosedViews(
            images=rendered.images,
            depth=rendered.depth,
            valid=rendered.depth > 0,
            intrinsics=cameras.intrinsics.astype(np.float64),
            world_to_camera=cameras.world_to_camera.astype(np.float64),
        )

    def _render(self, height: int, width: int):
        if (height, width) not in self._programs:
            render = functools.partial(
                render_group,
                num_views=self._views,
                height=height,
                width=width,
                config=self._world,
                with_geometry=True,
            )
            pyramid = self._pyramid
            self._programs[height, width] = jax.jit(lambda seed: render(seed, photos=pyramid))
        return self._programs[height, width]


def open_rooms(name: str, settings: ConfigDict, views: int) -> Rooms:
    """Opens the synthetic rooms configured as a posed dataset.

    Args:
      name: the dataset's name.
      settings: the settings from `posed("synthetic")`. Room i is a function of `settings.seed` and i.
      views: number of views per room.

    Raises:
      UserError: if `settings.photos` is a folder without readable images.
    """
    photos = None
    if settings.photos:
        from muskie_jax.data.mixture import photo_textures  # imported late: importing Grain takes seconds

        photos = photo_textures(settings.photos, settings.num_photos)
    seed = settings.seed  # copied, so that later changes of the settings have no effect
    draw = lambda number: np.random.default_rng([seed, SEED_STREAM, number])
    seed_of = lambda number: draw(number).integers(2**32, size=2, dtype="u4")
    return Rooms(name, WorldConfig(**settings.world), photos, views, settings.groups, seed_of)
