"""Opens a posed dataset of a config, and loads its groups of views."""

import contextlib
import functools
import hashlib
import itertools
import pathlib
from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from muskie_jax.data.images import BadImage
from muskie_jax.data.posed import (
    arkitscenes,
    blendedmvs,
    cameras_json,
    colmap,
    navi,
    neural_rgbd,
    scannet,
    scannetpp,
    seven_scenes,
    transforms,
    tum,
)
from muskie_jax.data.posed.frames import RGBDDataset
from muskie_jax.data.posed.groups import choose_groups, groups_of_pairs, overlap_from_depth
from muskie_jax.data.posed.parsing import WrongRoot
from muskie_jax.data.posed.pixels import check_headers, load_view, read_checked_depth
from muskie_jax.data.posed.rooms import open_rooms
from muskie_jax.data.posed.settings import PROTOCOLS
from muskie_jax.data.posed.views import Group, PosedSet, PosedViews
from muskie_jax.data.posed.warp_refusal import check_geometry
from muskie_jax.errors import UserError
from muskie_jax.files import user_path
from muskie_jax.writers import log_main

# Modules with `read` and `EXPECTED_FILES`: see the package's docstring.
READER_MODULES = {
    "navi": navi,
    "scannet": scannet,
    "seven_scenes": seven_scenes,
    "neural_rgbd": neural_rgbd,
    "cameras": cameras_json,
    "transforms": transforms,
    "colmap": colmap,
    "tum": tum,
    "scannetpp": scannetpp,
    "arkitscenes": arkitscenes,
    "blendedmvs": blendedmvs,
}


# Files in the folder of a recording, and the reader of such recordings. Errors of other readers name it.
MARKER_FILES = {
    "cameras.json": "cameras",
    "transforms.json": "transforms",
    "transforms_train.json": "transforms",
    "sparse/cameras.*": "colmap",
    "sparse/*/cameras.*": "colmap",
    "colmap/sparse/*/cameras.*": "colmap",
    "groundtruth.txt": "tum",
    "focal.txt": "neural_rgbd",
    "seq-*/frame-*.color.png": "seven_scenes",
    "multiview[-_]*/annotations.json": "navi",
    "vga_wide": "arkitscenes",
    "Test/*/vga_wide": "arkitscenes",
    "scene_metadata.npz": "scannetpp",
    "color/*.jpg": "scannet",
}

# How groups are chosen by default where overlap is unknown.
SELECT_WITHOUT_OVERLAP = "rotation"


def open_posed(name: str, settings: ConfigDict, views: int, data_root: str = "") -> PosedSet:
    """Opens a posed dataset: chooses its groups, and checks the files of their frames.

    Reads text files and the headers of the groups' images and depth maps. Whole depth maps are read to
    select groups by overlap, and some views to check that the geometry fits (see `warp_check`).

    Args:
      name: the dataset's name in the config.
      settings: the dataset's settings, created by `posed` and checked by `check_posed`.
      views: number of views per group.
      data_root: folder that a relative `settings.root` starts from.

    Raises:
      UserError: if files are missing or cannot be parsed, a camera or a header is invalid, depth and
        cameras do not fit the images, or there is no group.
    """
    if settings.reader == "synthetic":
        return open_rooms(name, settings, views)
    dataset = read_posed(name, settings, data_root)
    protocol_select, _ = PROTOCOLS[settings.reader]
    with _prefix_errors(f"config.posed.{name}"):
        if dataset.pairs and not settings.select:
            groups = groups_of_pairs(
                dataset.pairs, views, f"config.posed.{name}", settings.groups, dataset.group_stride
            )
            check_geometry(name, settings, dataset)
        else:
            check_geometry(name, settings, dataset)
            overlap_of = dataset.overlap
            if dataset.has_depth:
                overlap_of = overlap_from_depth(lambda frame: read_checked_depth(frame, dataset))
            groups = choose_groups(
                dataset.sequences,
                views,
                settings.select or (protocol_select if overlap_of else SELECT_WITHOUT_OVERLAP),
                overlap_of=overlap_of,
                key=f"config.posed.{name}",
                every=settings.every,
                max_groups=settings.groups,
                group_stride=1 if settings.select else dataset.group_stride,
                overlap=tuple(settings.overlap),
                stride=settings.stride,
            )
    opened = RecordedSet(name, dataset, groups)
    opened.check_headers()
    opened.seed_groups()
    return opened


def read_posed(name: str, settings: ConfigDict, data_root: str = "", path: str = "") -> RGBDDataset:
    """Returns the sequences of a dataset of files, without groups; see `open_posed`.

    `path` is the path of the settings, for messages: by default, that of a dataset of `config.posed`.
    """
    path = path or f"config.posed.{name}"
    root = user_path(data_root) / user_path(settings.root)
    reader = READER_MODULES[settings.reader]
    if not root.exists():
        raise UserError(
            f"{path}.root: folder {str(root)!r} does not exist: choose one that contains "
            f"{reader.EXPECTED_FILES} (--{path}.root=...), or the folder that relative roots "
            "start from (--config.data.root=...)"
        )
    try:
        with _prefix_errors(path):
            dataset = reader.read(root, settings)
    except WrongRoot as error:
        other = _suggest_reader(root, settings.reader)
        raise UserError(f"{path}.root: {error}{other}") from error
    for note in dataset.notes:
        _log_once(f"{path}: {note}")
    return dataset


def _suggest_reader(root: pathlib.Path, wrong: str) -> str:
    """Returns text that names the reader whose files are in a folder or its subfolders, or an empty one."""
    for pattern, reader in MARKER_FILES.items():
        for found in itertools.chain(root.glob(pattern), root.glob(f"*/{pattern}")):
            if reader != wrong:
                return f"; it contains {found.relative_to(root)}: use configs/evaluate.py:{reader}"
    return ""


@functools.cache
def _log_once(message: str) -> None:
    """Logs a line. A dataset is opened once per number of views, but its notes are logged only once."""
    log_main(message)


@contextlib.contextmanager
def _prefix_errors(path: str, sequence: str = "") -> Iterator[None]:
    """Re-raises errors as a `UserError` that begins with a path in the config and a sequence, if given."""
    try:
        yield
    except WrongRoot:
        raise  # see `read_posed`
    except (UserError, BadImage) as error:
        raise UserError(f"{path}: {sequence and f'{sequence}, '}{error}") from error


class RecordedSet:
    """A `PosedSet` whose views are read from files."""

    parallel = True

    def __init__(self, name: str, dataset: RGBDDataset, groups: tuple[Group, ...]):
        self.name, self.groups, self._dataset = name, groups, dataset
        self.has_depth = dataset.has_depth
        self._frames = {
            f"{sequence.name}/{frame.name}": (sequence.name, frame)
            for sequence in dataset.sequences
            for frame in sequence.frames
        }

    def check_headers(self) -> None:
        """Raises UserError if a file of the groups is missing or its header is invalid."""
        for name in dict.fromkeys(name for group in self.groups for name in group.frames):
            sequence, frame = self._frames[name]
            with _prefix_errors(f"config.posed.{self.name}", sequence):
                check_headers(frame, self._dataset)

    def seed_groups(self) -> None:
        """Sets the seed of every group to the digest of its first view's image file."""
        digests = []
        for group in self.groups:
            with open(self._frames[group.frames[0]][1].image, "rb") as file:
                digests.append(hashlib.file_digest(file, "sha256").hexdigest())
        self.groups = tuple(group._replace(seed=seed) for group, seed in zip(self.groups, digests))

    @property
    def image_folders(self) -> tuple[pathlib.Path, ...]:
        """The folder of each group's first image, absolute."""
        images = [self._frames[group.frames[0]][1].image for group in self.groups]
        return tuple(image.parent.resolve() for image in images)

    def load(self, number: int, size: tuple[int, int]) -> PosedViews:
        """See `PosedSet`."""
        height, width = size
        poses, views = [], []
        for name in self.groups[number].frames:
            sequence, frame = self._frames[name]
            with _prefix_errors(f"config.posed.{self.name}", sequence):
                views.append(load_view(frame, (height, width), self._dataset))
            poses.append(frame.world_to_camera)
        images, depth, intrinsics = map(np.stack, zip(*views))
        return PosedViews(images, depth, depth > 0, intrinsics, np.stack(poses))
