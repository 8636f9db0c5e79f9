"""Settings of the data: `config.data`, and the sources of `config.sources`.

Config files import the functions that make sources from `muskie_jax.config`.
"""

import dataclasses
import functools

from ml_collections import ConfigDict, config_dict

from muskie_jax.checks import (
    at_least,
    check_fraction,
    check_keys,
    check_overlap,
    check_types,
    one_of,
    require,
)
from muskie_jax.data.layouts import LAYOUTS, PUBLISHED_DATASETS
from muskie_jax.data.recording_settings import check_recordings, recordings
from muskie_jax.data.world_settings import check_world, world_settings
from muskie_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """How data is found and loaded: `config.data`.

    Attributes:
      root: folder that relative roots of sources start from.
      allow_missing: whether to train on the sources that exist if a source's folder is missing. Otherwise a
        missing folder is an error.
      index: folder for lists of scenes; empty: `scene_index/` next to the work directory.
      cache: folder for local copies of packs in buckets; empty: `~/.cache/muskie_jax/packed`.
      workers: number of processes per host that load photographs; 0: threads of the main process load them.
      threads: number of threads per worker.
      prefetch: number of updates kept ready on the device.
      max_bad_fraction: fraction of unreadable images above which a run stops.
    """

    root: str = ""
    allow_missing: bool = False
    index: str = ""
    cache: str = ""
    workers: int = 8
    threads: int = 4
    prefetch: int = 2
    max_bad_fraction: float = 0.05


def check_data(data: ConfigDict) -> None:
    """Raises UserError for an invalid value of `config.data`."""
    at_least(0, data, "config.data", "workers")
    at_least(1, data, "config.data", "threads", "prefetch")
    check_fraction(data.max_bad_fraction, "config.data.max_bad_fraction")


def folder(
    root: str = "",
    glob: str = "*/*",
    window: int | None = None,
    weight: float = 1.0,
    holdout: float | None = 0.1,
    overlap: tuple[float, ...] = (),
) -> ConfigDict:
    """Returns a source of photographs in a folder.

    Args:
      root: the folder.
      glob: pattern below `root` that matches the images. An image's folder is its scene.
      window: number of consecutive frames that a sample is drawn from; None: the whole scene.
      weight: relative frequency of the source in the mixture.
      holdout: fraction of the scenes that are held out for evaluation. None, for the job "evaluate" only:
        the fraction in the config of the first evaluated model that was trained on this folder, or 0, all
        scenes, if there is none.
      overlap: (low, high), such as (0.3, 0.9): fraction of a sample's first view that each other view must
        see. The overlap must be known (see `muskie_jax.data.overlap`). (): any overlap.
    """
    source = ConfigDict({"kind": "folder", "root": root, "glob": glob, "weight": weight})
    source.window = config_dict.placeholder(int) if window is None else window
    source.holdout = config_dict.placeholder(float) if holdout is None else holdout
    source.overlap = overlap
    return source


def dataset(
    layout: str,
    root: str = "",
    weight: float = 1.0,
    holdout: float = 0.01,
    overlap: tuple[float, ...] = (),
) -> ConfigDict:
    """Returns a source of a known dataset, in its published folder layout.

    `window` and `zoom` (the fraction of samples that are cropped to the object) have the published values;
    set them on the result to change them.

    Args:
      layout: name of the dataset in `muskie_jax.data.layouts`.
      root, weight, holdout, overlap: see `folder`.

    Raises:
      UserError: for an unknown layout.
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
    """Returns a source that was packed with `python -m muskie_jax.data pack`.

    Args:
      root: folder of the pack, or a URL such as gs://bucket/pack.
      window: see `folder`. None: the packed source's window. 0: the whole scene.
      zoom: fraction of samples that are cropped to the object. None: the packed source's fraction.
      weight, holdout, overlap: see `folder`.
    """
    source = ConfigDict({"kind": "packed", "root": root, "weight": weight})
    source.window = config_dict.placeholder(int) if window is None else window
    source.zoom = config_dict.placeholder(float) if zoom is None else zoom
    source.holdout, source.overlap = holdout, overlap
    return source


def published_sources(arg: str | None = None) -> ConfigDict:
    """Returns the sources of the published recipe, or one source for the user's own photographs.

    Args:
      arg: argument of the config file. None: the nine datasets of the published run with equal weights,
        each in `<config.data.root>/<name>`. "packed": the same datasets, packed. "photos": one folder.

    Raises:
      UserError: for any other argument.
    """
    sources = ConfigDict()
    if arg == "photos":
        sources.photos = folder(window=32, holdout=0.01)
        return sources
    if arg not in (None, "packed"):
        raise UserError(f"{arg!r} is not a valid argument of this config: use none, :packed or :photos")
    for name in PUBLISHED_DATASETS:
        sources[name] = packed(root=name, holdout=0.01) if arg else dataset(name, root=name)
    return sources


def synthetic(weight: float = 1.0, photos: str = "", num_photos: int = 256, **world) -> ConfigDict:
    """Returns a source of ray-cast rooms.

    Args:
      weight: relative frequency of the source in the mixture.
      photos: folder whose images become textures, searched at any depth; empty: procedural textures.
      num_photos: maximum number of images to use.
      **world: fields of `WorldConfig` that differ from its defaults.

    Raises:
      UserError: for an unknown field.
    """
    source = ConfigDict({"kind": "synthetic", "weight": weight})
    source.photos, source.num_photos = photos, num_photos
    source.world = world_settings("synthetic()", **world)
    return source


SOURCE_KINDS = {
    "folder": folder,
    "dataset": functools.partial(dataset, next(iter(LAYOUTS))),
    "packed": packed,
    "synthetic": synthetic,
    "recordings": recordings,
}
PHOTOGRAPHS = ("folder", "dataset", "packed")  # kinds of sources that read photographs


def check_sources(sources: ConfigDict, needs_data: bool, chooses_holdout: bool = False) -> None:
    """Checks `config.sources`.

    Args:
      sources: `config.sources`.
      needs_data: whether the job reads photographs. If so, sources need a root.
      chooses_holdout: whether the job replaces a holdout of None.

    Raises:
      UserError: for an invalid source, or if no source has a weight above 0.
    """
    require(len(sources) > 0, "config.sources is empty: add a folder(...) or synthetic(...) to it")
    for name, source in sources.items():
        path = f"config.sources.{name}"
        kind = source.get("kind")
        one_of(kind, SOURCE_KINDS, f"{path}.kind")
        defaults = recordings(source.get("reader", "")) if kind == "recordings" else SOURCE_KINDS[kind]()
        check_keys(source, defaults, path)
        if kind != "recordings":
            check_types(source, defaults, path, optional=("window", "zoom", "holdout"))
        at_least(0, source, path, "weight")
        if kind == "recordings":
            check_recordings(source, defaults, path, needs_data)
        elif kind in PHOTOGRAPHS:
            _check_photographs(source, path, needs_data)
            _check_holdout(source.holdout, f"{path}.holdout", chooses_holdout)
        else:
            at_least(1, source, path, "num_photos")
            check_world(source.world, f"{path}.world")
    require(
        any(s.weight > 0 for s in sources.values()), "config.sources: every weight is 0: set one above 0"
    )


def check_kinds(sources: ConfigDict, needs_geometry: bool) -> None:
    """Raises UserError unless all sources have depth and cameras if these are needed, or images alone."""
    for name, source in sources.items():
        if needs_geometry:
            require(
                source.kind not in PHOTOGRAPHS,
                f"config.sources.{name} has no depth and cameras, which config.task='reconstruct' needs: "
                "use synthetic(...) or recordings(...)",
            )
        else:
            require(
                source.kind != "recordings",
                f"config.sources.{name} has recordings, which only config.task='reconstruct' trains on: "
                "use folder(...) for their images, or config.posed to evaluate on them",
            )


def _check_photographs(source: ConfigDict, path: str, needs_data: bool) -> None:
    has_root = source.root or not needs_data
    require(has_root, f"{path}.root is empty: pass --{path}.root=/folder/of/scenes")
    window, minimum = source.window, 0 if source.kind == "packed" else 1
    require(
        window is None or window >= minimum, f"{path}.window={window} must be {minimum} or more, or None"
    )
    if source.overlap:
        check_overlap(source.overlap, f"{path}.overlap", ", or ()")
    if source.kind == "folder":
        glob = source.glob
        if not glob or glob.startswith("/"):
            raise UserError(f"{path}.glob={glob!r} must be a pattern below root, such as '*/*'")
    zoom = source.get("zoom")
    if zoom is not None:
        check_fraction(zoom, f"{path}.zoom")
    if source.kind == "dataset":
        one_of(source.layout, LAYOUTS, f"{path}.layout")
        has_masks = LAYOUTS[source.layout].masks
        require(has_masks or not zoom, f"{path}.zoom={zoom} must be 0: {source.layout} has no object masks")


def _check_holdout(holdout: float | None, path: str, may_be_none: bool) -> None:
    if holdout is None:
        require(may_be_none, f"{path}=None is only for the job evaluate: set a fraction from 0 to below 1")
        return
    require(0 <= holdout < 1, f"{path}={holdout} must be a fraction from 0 to below 1")
