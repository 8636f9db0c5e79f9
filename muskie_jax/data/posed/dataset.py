"""Opening a posed dataset of a config, and loading its groups from their files."""

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.data.images import BadImage
from muskie_jax.data.posed import (
    cameras,
    colmap,
    navi,
    neural_rgbd,
    scannet,
    seven_scenes,
    transforms,
)
from muskie_jax.data.posed.frames import Recordings
from muskie_jax.data.posed.groups import choose_groups
from muskie_jax.data.posed.pixels import load_view
from muskie_jax.data.posed.rooms import open_rooms
from muskie_jax.data.posed.settings import PROTOCOLS
from muskie_jax.data.posed.views import Group, PosedSet, PosedViews
from muskie_jax.errors import UserError
from muskie_jax.files import user_path

READ = {
    "navi": navi.read,
    "scannet": scannet.read,
    "seven_scenes": seven_scenes.read,
    "neural_rgbd": neural_rgbd.read,
    "cameras": cameras.read,
    "transforms": transforms.read,
    "colmap": colmap.read,
}


def open_posed(name: str, settings: ConfigDict, views: int, data_root: str = "") -> PosedSet:
    """A posed dataset, its groups chosen; of files only text is read, and depth where overlap is asked for.

    Args:
      name: what it is called in the config.
      settings: made by `posed` and checked by `check_posed`.
      views: of each group.
      data_root: the folder that a relative `settings.root` starts from.

    Raises:
      UserError: if it is not there, cannot be understood, has cameras that cannot be true, or no group.
    """
    if settings.reader == "synthetic":
        return open_rooms(name, settings, views)
    root = user_path(data_root) / user_path(settings.root)
    if not root.exists():
        raise UserError(
            f"config.posed.{name}: no folder {str(root)!r}: write --config.posed.{name}.root=..., or the "
            "folder that relative roots start from, --config.data.root=..."
        )
    try:
        recordings = READ[settings.reader](root, settings)
        groups = choose_groups(
            recordings.sequences,
            views,
            settings.select or PROTOCOLS[settings.reader][0],
            read_depth=recordings.read_depth,
            most=settings.groups,
            one_in=1 if settings.select else recordings.one_in,
            overlap=tuple(settings.overlap),
            stride=settings.stride,
        )
    except (UserError, BadImage) as error:
        raise UserError(f"config.posed.{name}: {error}") from error
    return RecordedSet(name, recordings, groups)


class RecordedSet:
    """A `PosedSet` of files."""

    parallel = True

    def __init__(self, name: str, recordings: Recordings, groups: tuple[Group, ...]):
        self.name, self.groups, self._recordings = name, groups, recordings
        self._frames = {
            f"{sequence.name}/{frame.name}": frame
            for sequence in recordings.sequences
            for frame in sequence.frames
        }

    def load(self, number: int, size: tuple[int, int]) -> PosedViews:
        """See `PosedSet`."""
        frames = [self._frames[name] for name in self.groups[number].frames]
        try:
            views = [load_view(frame, tuple(size), self._recordings) for frame in frames]
        except (UserError, BadImage) as error:
            raise UserError(f"config.posed.{self.name}: {error}") from error
        images, depth, intrinsics = map(np.stack, zip(*views))
        poses = np.stack([frame.world_to_camera for frame in frames])
        return PosedViews(images, depth, depth > 0, intrinsics, poses)
