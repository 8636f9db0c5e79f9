"""Settings of posed datasets, `config.posed.<name> = posed(...)`, and their checks."""

import dataclasses

from ml_collections import ConfigDict

from muskie_jax.checks import check_keys, check_overlap, one_of, require, section, suggest
from muskie_jax.data.posed.groups import SELECTIONS
from muskie_jax.data.source_settings import check_world, world_settings
from muskie_jax.data.synthetic.scenes import WorldConfig
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
}
READERS = (*PROTOCOLS, "synthetic")
NUM_GROUPS = 20  # number of groups evaluated by default


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
    """Settings of the readers "transforms" and "colmap", whose depth has no fixed unit.

    Attributes:
      depth_unit: metres per step of a depth PNG; 0: the unit in the file, or a millimetre if it has none.
    """

    depth_unit: float = 0.0


def posed(reader: str, root: str = "", **settings) -> ConfigDict:
    """Returns a posed dataset for a config file.

    Args:
      reader: "navi", "scannet", "seven_scenes" and "neural_rgbd" read datasets in their published layouts;
        "cameras", "transforms" and "colmap" read any recordings with `cameras.json`, with NeRF's
        `transforms.json` or as COLMAP models; "synthetic" renders rooms. Each is a module of
        `muskie_jax.data.posed` that documents its files.
      root: folder of sequences, or of one sequence; not for "synthetic".
      **settings: fields that differ from their defaults. They are the fields of `RoomSettings` for
        "synthetic" (its `world` is a dictionary of `WorldConfig` fields), `UnscaledRecordingSettings` for
        "transforms" and "colmap", and `RecordingSettings` for all other readers.

    Raises:
      UserError: for an unknown reader or setting.
    """
    one_of(reader, READERS, "posed()")
    result = _defaults(reader)
    if root:
        settings["root"] = root
    for key, value in settings.items():
        require(key in result, f"posed({reader!r}): no {key!r}{suggest(key, result)}")
        result[key] = world_settings(f"posed({reader!r}): world", **value) if key == "world" else value
    return result


def _defaults(reader: str) -> ConfigDict:
    if reader == "synthetic":
        return section(RoomSettings())
    has_unit = reader in ("transforms", "colmap")
    settings = UnscaledRecordingSettings if has_unit else RecordingSettings
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
            raise UserError(f"{path}={settings!r}: write posed(...)")
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
    require(has_root, f"{path}.root is empty: write --{path}.root=/folder/of/sequences")
    one_of(settings.select, ("", *SELECTIONS), f"{path}.select")
    check_overlap(settings.overlap, f"{path}.overlap")
    _check_integers(settings, path, stride=1, every=1)
    require(isinstance(settings.check, bool), f"{path}.check={settings.check!r}: write True or False")
    unit = settings.get("depth_unit", 0)
    require(
        unit >= 0, f"{path}.depth_unit={unit}: write metres, such as 0.001, or 0 for the unit of the file"
    )


def _check_integers(settings: ConfigDict, path: str, **least: int) -> None:
    """Raises UserError unless each setting is an integer of at least `least`.

    Sections of posed datasets are not locked, so their values may be of any type.
    """
    for key, smallest in least.items():
        value = settings[key]
        is_integer = isinstance(value, int) and not isinstance(value, bool)
        valid = is_integer and value >= smallest
        require(valid, f"{path}.{key}={value}: write a whole number, {smallest} or more")
