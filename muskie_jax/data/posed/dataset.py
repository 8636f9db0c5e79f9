"""Opening a posed dataset of a config, and loading its groups from their files."""

import contextlib
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.data.images import BadImage
from muskie_jax.data.posed import (
    cameras_json,
    colmap,
    navi,
    neural_rgbd,
    scannet,
    seven_scenes,
    transforms,
)
from muskie_jax.data.posed.frames import Recordings, WrongRoot
from muskie_jax.data.posed.groups import choose_groups
from muskie_jax.data.posed.pixels import check_headers, checked_depth, load_view
from muskie_jax.data.posed.rooms import open_rooms
from muskie_jax.data.posed.settings import PROTOCOLS
from muskie_jax.data.posed.views import Group, PosedSet, PosedViews
from muskie_jax.errors import UserError
from muskie_jax.files import user_path

# Each has `read` and `IN_ROOT`, what a root is known by, for messages.
READING = {
    "navi": navi,
    "scannet": scannet,
    "seven_scenes": seven_scenes,
    "neural_rgbd": neural_rgbd,
    "cameras": cameras_json,
    "transforms": transforms,
    "colmap": colmap,
}


def open_posed(name: str, settings: ConfigDict, views: int, data_root: str = "") -> PosedSet:
    """A posed dataset, its groups chosen and the files of their frames found to be there.

    Of files only text is read, the headers of what the groups need, and depth where overlap is asked for.

    Args:
      name: what it is called in the config.
      settings: made by `posed` and checked by `check_posed`.
      views: of each group.
      data_root: the folder that a relative `settings.root` starts from.

    Raises:
      UserError: if it is not there, cannot be understood, has cameras that cannot be true, no group, or
        images and depth maps whose headers are wrong.
    """
    if settings.reader == "synthetic":
        return open_rooms(name, settings, views)
    root = user_path(data_root) / user_path(settings.root)
    module = READING[settings.reader]
    if not root.exists():
        raise UserError(
            f"config.posed.{name}.root: no folder {str(root)!r}: write --config.posed.{name}.root=..., a "
            f"folder with {module.IN_ROOT} in it, or the folder that relative roots start from, "
            "--config.data.root=..."
        )
    with _said_of(name):
        recordings = module.read(root, settings)
        groups = choose_groups(
            recordings.sequences,
            views,
            settings.select or PROTOCOLS[settings.reader][0],
            read_depth=lambda frame: checked_depth(frame, recordings),
            key=f"config.posed.{name}",
            every=settings.every,
            most=settings.groups,
            one_in=1 if settings.select else recordings.one_in,
            overlap=tuple(settings.overlap),
            stride=settings.stride,
        )
    opened = RecordedSet(name, recordings, groups)
    opened.check_headers()
    return opened


@contextlib.contextmanager
def _said_of(name: str, sequence: str = "") -> Iterator[None]:
    """Errors begin with the dataset that they are of, and its sequence, where they do not name that."""
    try:
        yield
    except WrongRoot as error:
        raise UserError(f"config.posed.{name}.root: {error}") from error
    except (UserError, BadImage) as error:
        raise UserError(f"config.posed.{name}: {sequence and f'{sequence}, '}{error}") from error


class RecordedSet:
    """A `PosedSet` of files."""

    parallel = True

    def __init__(self, name: str, recordings: Recordings, groups: tuple[Group, ...]):
        self.name, self.groups, self._recordings = name, groups, recordings
        self._frames = {
            f"{sequence.name}/{frame.name}": (sequence.name, frame)
            for sequence in recordings.sequences
            for frame in sequence.frames
        }

    def check_headers(self) -> None:
        """Raises UserError for files of the groups that are missing, or whose headers are wrong."""
        for name in dict.fromkeys(name for group in self.groups for name in group.frames):
            sequence, frame = self._frames[name]
            with _said_of(self.name, sequence):
                check_headers(frame, self._recordings)

    def load(self, number: int, size: tuple[int, int]) -> PosedViews:
        """See `PosedSet`."""
        frames, views = [], []
        for name in self.groups[number].frames:
            sequence, frame = self._frames[name]
            with _said_of(self.name, sequence):
                views.append(load_view(frame, tuple(size), self._recordings))
            frames.append(frame)
        images, depth, intrinsics = map(np.stack, zip(*views))
        poses = np.stack([frame.world_to_camera for frame in frames])
        return PosedViews(images, depth, depth > 0, intrinsics, poses)
