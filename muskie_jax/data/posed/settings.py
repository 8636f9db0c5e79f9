"""Settings of posed datasets, `config.posed.<name> = posed(...)`, and their checks."""

import dataclasses
import math
from typing import Any

from ml_collections import ConfigDict

from muskie_jax.checks import check_keys, check_overlap, one_of, require, section, suggest
from muskie_jax.data.posed.groups import SELECTIONS
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.data.world_settings import check_world, world_settings
from muskie_jax.errors import UserError

# Protocol of each reader: how groups are chosen (see `choose_groups`), and the stride of video frames.
PROTOCOLS = {
    "navi": ("rotation", 1),
    "scannet": ("consecutive", 1),
    "seven_scenes": ("consecutive", 20),
    "neural_rgbd": ("consecutive", 20),
    "cameras": ("overlap", 1),
    "transforms": ("overlap", 1),
    "colmap": ("overlap", 1),
    "tum": ("overlap", 10),
    "scannetpp": ("overlap", 1),
    "arkitscenes": ("overlap", 1),
    "blendedmvs": ("overlap", 1),
}
READERS = (*PROTOCOLS, "synthetic")
COLLECTIONS = ("multiview", "wild")  # of NAVI
NUM_GROUPS = 20  # number of groups evaluated by default
MIN_DIVISOR = 100  # a larger unit of depth is taken for the number of steps per metre
UNITS = "0.0001 for 0.1 mm, 0.0002 for 1/5000 m (TUM), 1.0 for metres, or 0 for what the recording states"


@dataclasses.dataclass(frozen=True)
class RoomSettings:
    """Settings of the reader "synthetic".

    Attributes:
      reader: "synthetic".
      groups: number of groups to evaluate.
      seed: the seed of the rooms.
      photos: folder whose images become textures; empty: procedural textures.
      num_photos: maximum number of images to use.
      world: the distribution of rooms and cameras.
    """

    reader: str = "synthetic"
    groups: int = NUM_GROUPS
    seed: int = 0
    photos: str = ""
    num_photos: int = 256
    world: WorldConfig = dataclasses.field(default_factory=WorldConfig)


@dataclasses.dataclass(frozen=True)
class RecordingSettings:
    """Settings of every reader of files.

    Attributes:
      reader: a key of PROTOCOLS.
      groups: maximum number of groups to evaluate, evenly spread over all groups; 0: all.
      root: folder of sequences, or of one sequence.
      select: how groups are chosen, "overlap", "consecutive" or "rotation" (see `choose_groups`); empty: as
        in the reader's protocol.
      overlap: (low, high) fraction of the first view's pixels that each other view sees, for "overlap".
      stride: largest difference between the frame numbers of neighbours, for "consecutive".
      every: stride of the frames that are read; 1: all frames.
      check: whether geometry that does not fit the images is refused, see `warp_check`.
    """

    reader: str
    groups: int = NUM_GROUPS
    root: str = ""
    select: str = ""
    overlap: tuple[float, float] = (0.3, 0.9)
    stride: int = 35
    every: int = 1
    check: bool = True


@dataclasses.dataclass(frozen=True)
class UnscaledRecordingSettings(RecordingSettings):
    """Settings of readers whose depth has no fixed unit.

    Attributes:
      depth_unit: metres per step of a depth map. 0: the unit that the recording states; if it states none,
        a millimetre for integers and a metre for floats.
    """

    depth_unit: float = 0.0


@dataclasses.dataclass(frozen=True)
class TumSettings(UnscaledRecordingSettings):
    """Settings of the reader "tum".

    Attributes:
      intrinsics: (fx, fy, cx, cy), pixels; empty: those of the camera that the folder's name contains, fr1,
        fr2 or fr3.
    """

    intrinsics: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class ScanNetSettings(RecordingSettings):
    """Settings of the reader "scannet".

    Attributes:
      pairs: file with the pairs of frames to evaluate, `test.npz` as distributed with the scenes, or
        `scannet_test_pairs_with_gt.txt`; a relative path starts from `root`. Empty: groups as `select`
        chooses them.
    """

    pairs: str = ""


@dataclasses.dataclass(frozen=True)
class NaviSettings(RecordingSettings):
    """Settings of the reader "navi".

    Attributes:
      collections: "multiview", whose groups are those of the paper, or "wild", whose pairs of views are
        drawn as Probe3D draws them.
    """

    collections: str = "multiview"


# Settings of readers that have more settings than `RecordingSettings`.
SETTINGS = {
    "cameras": UnscaledRecordingSettings,
    "transforms": UnscaledRecordingSettings,
    "colmap": UnscaledRecordingSettings,
    "tum": TumSettings,
    "scannet": ScanNetSettings,
    "navi": NaviSettings,
}


def posed(reader: str, root: str = "", **settings) -> ConfigDict:
    """Returns a posed dataset for a config file.

    Args:
      reader: "cameras", "transforms", "colmap" and "tum" read any recordings with `cameras.json`, with
        NeRF's `transforms.json`, as COLMAP models or in the layout of TUM RGB-D; "synthetic" renders rooms;
        the others read a dataset in its published layout. Each is a module of `muskie_jax.data.posed`
        that documents its files.
      root: folder of sequences, or of one sequence; not for "synthetic".
      **settings: fields that differ from their defaults. They are the fields of `RoomSettings` for
        "synthetic" (its `world` is a dictionary of `WorldConfig` fields), and those of the class in
        `SETTINGS`, or else `RecordingSettings`, for all other readers.

    Raises:
      UserError: for an unknown reader or setting.
    """
    one_of(reader, READERS, "posed()")
    result = _defaults(reader)
    if root:
        settings["root"] = root
    for key, value in settings.items():
        require(key in result, f"posed({reader!r}): unknown setting {key!r}{suggest(key, result)}")
        result[key] = world_settings(f"posed({reader!r}): world", **value) if key == "world" else value
    return result


def _defaults(reader: str) -> ConfigDict:
    if reader == "synthetic":
        return section(RoomSettings())
    settings = SETTINGS.get(reader, RecordingSettings)
    _, every = PROTOCOLS[reader]
    return section(settings(reader, every=every))


def check_posed(datasets: ConfigDict, needs_data: bool = True) -> None:
    """Checks `config.posed`.

    Args:
      datasets: `config.posed`.
      needs_data: whether the job reads files. If so, readers of files need a root.

    Raises:
      UserError: for an invalid setting.
    """
    for name, settings in datasets.items():
        path = f"config.posed.{name}"
        if not isinstance(settings, ConfigDict):
            raise UserError(f"{path}={settings!r} must be posed(...)")
        one_of(settings.get("reader"), READERS, f"{path}.reader")
        check_keys(settings, _defaults(settings.reader), path)
        if settings.reader == "synthetic":
            _check_integers(settings, path, groups=1, num_photos=1, seed=0)
            check_world(settings.world, f"{path}.world")
        else:
            _check_integers(settings, path, groups=0)
            _check_recordings(settings, path, needs_data)


def _check_recordings(settings: ConfigDict, path: str, needs_data: bool) -> None:
    has_root = settings.root or not needs_data
    require(has_root, f"{path}.root is empty: pass --{path}.root=/folder/of/sequences")
    one_of(settings.select, ("", *SELECTIONS), f"{path}.select")
    check_overlap(settings.overlap, f"{path}.overlap")
    _check_integers(settings, path, stride=1, every=1)
    check_depth_unit(settings.get("depth_unit", 0), f"{path}.depth_unit")
    check_intrinsics(settings.get("intrinsics", ()), f"{path}.intrinsics")
    one_of(settings.get("collections", COLLECTIONS[0]), COLLECTIONS, f"{path}.collections")
    pairs = settings.get("pairs", "")  # only some readers have these settings
    require(
        isinstance(pairs, str), f"{path}.pairs={pairs!r} must be the path of a file, such as 'test.npz'"
    )


def readers_with(setting: str) -> list[str]:
    """Returns the readers that have a setting."""
    return [reader for reader in READERS if setting in _defaults(reader)]


def check_depth_unit(unit: Any, path: str) -> None:
    """Raises UserError unless a unit of depth is a plausible number of metres, or text of such a number."""
    try:
        metres = math.nan if isinstance(unit, bool) else float(unit)
    except (TypeError, ValueError):
        metres = math.nan
    divisor = metres >= MIN_DIVISOR
    example = f"{1 / metres:g} if {metres:g} steps are a metre" if divisor else "0.001 for millimetres"
    require(
        0 <= metres < MIN_DIVISOR,
        f"{path}={unit} must be metres per step of the depth maps: {example}, {UNITS}",
    )


def check_intrinsics(intrinsics: Any, path: str) -> None:
    """Raises UserError unless intrinsics are four numbers, or none."""
    valid = len(intrinsics) in (0, 4) and all(isinstance(x, (int, float)) for x in intrinsics)
    require(
        valid,
        f"{path}={intrinsics} must be (fx, fy, cx, cy) in pixels, such as (525.0, 525.0, 319.5, 239.5)",
    )


def _check_integers(settings: ConfigDict, path: str, **minimum: int) -> None:
    """Raises UserError unless each setting is an integer of at least its minimum.

    Sections of posed datasets are not locked, so their values may be of any type.
    """
    for key, smallest in minimum.items():
        value = settings[key]
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        valid = is_integer and value >= smallest
        require(valid, f"{path}.{key}={value} must be a whole number, {smallest} or more")
