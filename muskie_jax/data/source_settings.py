"""Sources of a config: where photographs come from, or rooms, and the checks of what was written.

A config file imports these functions from `muskie_jax.config`.
"""

import dataclasses
import functools

from ml_collections import ConfigDict, config_dict

from muskie_jax.checks import check_keys, one_of, require, suggest
from muskie_jax.data.layouts import LAYOUTS
from muskie_jax.data.synthetic.scenes import WorldConfig
from muskie_jax.errors import UserError


def folder(
    root: str = "",
    glob: str = "*/*",
    window: int | None = None,
    weight: float = 1.0,
    holdout: float = 0.1,
    overlap: tuple[float, ...] = (),
) -> ConfigDict:
    """A source of photographs: `<root>/<scene>/<image>`, or what `glob` matches below `root`.

    `window` is the number of consecutive frames a sample is drawn from (None: the whole scene);
    `holdout` the share of scenes kept for evaluation; `overlap`, such as (0.3, 0.9), how much of a
    sample's first view the others see, where it is known (see `muskie_jax.data.overlap`).
    """
    source = ConfigDict({"kind": "folder", "root": root, "glob": glob, "weight": weight})
    source.window = config_dict.placeholder(int) if window is None else window
    source.holdout, source.overlap = holdout, overlap
    return source


def dataset(
    layout: str,
    root: str = "",
    weight: float = 1.0,
    holdout: float = 0.01,
    overlap: tuple[float, ...] = (),
) -> ConfigDict:
    """A source of one of the datasets of `muskie_jax.data.layouts`, in its published folder layout.

    Its `window` and `zoom`, the share of samples cropped to the object, are the published ones, and can
    be set. `holdout` and `overlap`: see `folder`.
    """
    one_of(layout, LAYOUTS, "dataset()")
    row = LAYOUTS[layout]
    source = ConfigDict({"kind": "dataset", "layout": layout, "root": root, "weight": weight})
    source.window = config_dict.placeholder(int) if row.window is None else row.window
    source.zoom, source.holdout, source.overlap = row.zoom, holdout, overlap
    return source


def packed(
    root: str = "",
    window: int | None = None,
    zoom: float | None = None,
    weight: float = 1.0,
    holdout: float = 0.1,
    overlap: tuple[float, ...] = (),
) -> ConfigDict:
    """A source that `python -m muskie_jax.data pack` packed: a folder, or an address such as gs://...

    `window` and `zoom` are by default those of the source that was packed; a `window` of 0 is the whole
    scene. `holdout` and `overlap`: see `folder`.
    """
    source = ConfigDict({"kind": "packed", "root": root, "weight": weight})
    source.window = config_dict.placeholder(int) if window is None else window
    source.zoom = config_dict.placeholder(float) if zoom is None else zoom
    source.holdout, source.overlap = holdout, overlap
    return source


def published_sources(arg: str | None = None) -> ConfigDict:
    """The sources of the published recipe, or a user's own photographs in its stead.

    Args:
      arg: of the config file. None: all ten datasets, drawn equally often, each in the folder of its
        name below `config.data.root`. "packed": the same, each packed. "photos": one folder of scenes.
    """
    sources = ConfigDict()
    if arg == "photos":
        sources.photos = folder(window=32, holdout=0.01)
        return sources
    if arg not in (None, "packed"):
        raise UserError(f"no {arg!r} of this config: write nothing after its name, or :packed, or :photos")
    for name in LAYOUTS:
        sources[name] = packed(root=name, holdout=0.01) if arg else dataset(name, root=name)
    return sources


def synthetic(weight: float = 1.0, photos: str = "", num_photos: int = 256, **world) -> ConfigDict:
    """A source of ray-cast rooms; `world` overrides fields of `WorldConfig`.

    `photos` is a folder, searched at any depth, whose images become textures (`num_photos` at most).
    """
    source = ConfigDict({"kind": "synthetic", "weight": weight})
    source.photos, source.num_photos = photos, num_photos
    source.world = world_settings("synthetic()", **world)
    return source


def world_settings(where: str, **world) -> ConfigDict:
    """All fields of `WorldConfig`, some overridden; a UserError begins with `where`."""
    defaults = dataclasses.asdict(WorldConfig())
    for key in world:
        require(key in defaults, f"{where}: no {key!r}{suggest(key, defaults)}")
    return ConfigDict(defaults | world)


SOURCE_KINDS = {
    "folder": folder,
    "dataset": functools.partial(dataset, next(iter(LAYOUTS))),
    "packed": packed,
    "synthetic": synthetic,
}


PHOTOGRAPHS = ("folder", "dataset", "packed")


def check_sources(sources: ConfigDict, needs_data: bool) -> None:
    """Raises UserError for a source that cannot be read; roots are needed only where data is read."""
    require(len(sources) > 0, "config.sources is empty: add a folder(...) or synthetic(...) to it")
    for name, source in sources.items():
        path = f"config.sources.{name}"
        kind = source.get("kind")
        one_of(kind, SOURCE_KINDS, f"{path}.kind")
        check_keys(source, SOURCE_KINDS[kind](), path)
        require(source.weight >= 0, f"{path}.weight={source.weight}: write 0 or more")
        if kind in PHOTOGRAPHS:
            _check_photographs(source, path, needs_data)
        else:
            require(source.num_photos >= 1, f"{path}.num_photos={source.num_photos}: write 1 or more")
            check_world(source.world, f"{path}.world")
    require(any(s.weight > 0 for s in sources.values()), "config.sources: every weight is 0")


def _check_photographs(source: ConfigDict, path: str, needs_data: bool) -> None:
    has_root = source.root or not needs_data
    require(has_root, f"{path}.root is empty: write --{path}.root=/folder/of/scenes")
    held = source.holdout
    require(0 <= held < 1, f"{path}.holdout={held}: write a share from 0 to below 1")
    window, least = source.window, 0 if source.kind == "packed" else 1
    require(window is None or window >= least, f"{path}.window={window}: write {least} or more, or None")
    overlap = source.overlap
    if overlap and not (len(overlap) == 2 and 0 <= overlap[0] < overlap[1] <= 1):
        raise UserError(f"{path}.overlap={overlap}: write two shares, such as (0.3, 0.9), or ()")
    if source.kind == "folder":
        glob = source.glob
        if not glob or glob.startswith("/"):
            raise UserError(f"{path}.glob={glob!r}: write a pattern below root, such as '*/*'")
    zoom = source.get("zoom")
    require(zoom is None or 0 <= zoom <= 1, f"{path}.zoom={zoom}: write a share from 0 to 1")
    if source.kind == "dataset":
        one_of(source.layout, LAYOUTS, f"{path}.layout")
        masks = LAYOUTS[source.layout].masks
        require(masks or not zoom, f"{path}.zoom={zoom}: {source.layout} has no object masks, write 0")


def check_world(world: ConfigDict, path: str) -> None:
    """Raises UserError for settings of the synthetic world that make none."""
    for key, default in dataclasses.asdict(WorldConfig()).items():
        if isinstance(default, tuple) and len(world[key]) != len(default):
            raise UserError(f"{path}.{key}={world[key]}: write {len(default)} numbers, such as {default}")
    try:
        WorldConfig(**world)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error
