"""Posed datasets of a config: `config.posed.<name> = posed(...)`, and the checks of what was written."""

from ml_collections import ConfigDict

from muskie_jax.checks import check_keys, one_of, require, suggest
from muskie_jax.data.posed.groups import SELECTIONS
from muskie_jax.data.source_settings import check_world, world_settings
from muskie_jax.errors import UserError

# For each reader its own way to choose groups (see `choose_groups`), and how much it thins out videos.
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


def posed(reader: str, root: str = "", **settings) -> ConfigDict:
    """A posed dataset, for a config file; settings that are not written have their defaults.

    Args:
      reader: "navi", "scannet", "seven_scenes", "neural_rgbd": datasets in their published layouts;
        "cameras", "transforms", "colmap": anybody's recordings, with `cameras.json`, NeRF's
        `transforms.json` or as COLMAP models; "synthetic": rooms, which need no root. Each is a module of
        `muskie_jax.data.posed`, which says how its files must lie.
      root: the folder of sequences, or one sequence.
      **settings: for all readers
        groups (20): evaluated at most, evenly spread over all that there could be; 0: all.
        For those that read files
        select (""): how groups are chosen, "overlap", "consecutive" or "rotation" (see `choose_groups`);
          "": by the reader's own protocol.
        overlap ((0.3, 0.9)): for "overlap", the share of the first view that each other sees.
        stride (35): for "consecutive", the most that neighbours' numbers in the video differ by.
        every (1; 20 for "seven_scenes" and "neural_rgbd"): only every so many frames are there at all.
        For "transforms" and "colmap"
        depth_unit (0.0): metres of one step of a depth PNG; 0: what the file says, or a millimetre.
        For "synthetic"
        seed (0): of the rooms. world ({}): fields of `WorldConfig`. photos (""): a folder whose images
          become textures, num_photos (256) at most.

    Raises:
      UserError: for a reader or setting that there is not.
    """
    one_of(reader, READERS, "posed()")
    known = _defaults(reader)
    if root:
        settings["root"] = root
    for key, value in settings.items():
        require(key in known, f"posed({reader!r}): no {key!r}{suggest(key, known)}")
        known[key] = world_settings(f"posed({reader!r}): world", **value) if key == "world" else value
    return known


def _defaults(reader: str) -> ConfigDict:
    own = ConfigDict({"reader": reader, "groups": 20})
    if reader == "synthetic":
        own.update({"seed": 0, "photos": "", "num_photos": 256})
        own.world = world_settings("world")
        return own
    own.update({"root": "", "select": "", "overlap": (0.3, 0.9), "stride": 35})
    own.every = PROTOCOLS[reader][1]
    if reader in ("transforms", "colmap"):
        own.depth_unit = 0.0
    return own


def check_posed(datasets: ConfigDict, needs_data: bool = True) -> None:
    """Raises UserError for a dataset that cannot be read; roots are needed only where data is read.

    Args:
      datasets: `config.posed`.
    """
    for name, settings in datasets.items():
        path = f"config.posed.{name}"
        if not isinstance(settings, ConfigDict):
            raise UserError(f"{path}={settings!r}: write posed(...)")
        one_of(settings.get("reader"), READERS, f"{path}.reader")
        check_keys(settings, _defaults(settings.reader), path, skip=("world",))
        least = 1 if settings.reader == "synthetic" else 0
        _at_least(settings, "groups", least, path)
        if settings.reader == "synthetic":
            _at_least(settings, "num_photos", 1, path)
            _at_least(settings, "seed", 0, path)
            check_keys(settings.world, world_settings("world"), f"{path}.world")
            check_world(settings.world, f"{path}.world")
        else:
            _check_files(settings, path, needs_data)


def _check_files(settings: ConfigDict, path: str, needs_data: bool) -> None:
    has_root = settings.root or not needs_data
    require(has_root, f"{path}.root is empty: write --{path}.root=/folder/of/sequences")
    one_of(settings.select, ("", *SELECTIONS), f"{path}.select")
    overlap = settings.overlap
    if not (len(overlap) == 2 and 0 <= overlap[0] < overlap[1] <= 1):
        raise UserError(f"{path}.overlap={overlap}: write two shares, such as (0.3, 0.9)")
    _at_least(settings, "stride", 1, path)
    _at_least(settings, "every", 1, path)
    unit = settings.get("depth_unit", 0)
    require(
        unit >= 0, f"{path}.depth_unit={unit}: write metres, such as 0.001, or 0 for what the file says"
    )


def _at_least(settings: ConfigDict, key: str, least: int, path: str) -> None:
    value = settings[key]
    is_number = isinstance(value, int) and not isinstance(value, bool)
    require(is_number and value >= least, f"{path}.{key}={value}: write a whole number, {least} or more")
