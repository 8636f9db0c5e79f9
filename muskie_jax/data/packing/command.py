"""`python -m muskie_jax.data pack` and `verify`."""

import time
from typing import Any

from absl import flags
from ml_collections import ConfigDict

from muskie_jax.checks import suggest
from muskie_jax.command_line import CONFIG, OUT, Command
from muskie_jax.config import validate
from muskie_jax.data.mixture import build_mixture
from muskie_jax.data.packing.encoding import DEFAULT_QUALITY, FORMATS, Encoding
from muskie_jax.data.packing.frames import Frames, RenderedFrames, frames_from_source
from muskie_jax.data.packing.pack import pack
from muskie_jax.data.packing.pack_info import PackInfo
from muskie_jax.data.packing.remote import RemotePack, format_bytes
from muskie_jax.data.processes import available_cores
from muskie_jax.data.sources import SyntheticSource
from muskie_jax.errors import UserError
from muskie_jax.files import ADDRESS, user_path
from muskie_jax.writers import log

_SOURCE = flags.DEFINE_string("source", None, "Name of one of config.sources; optional if there is one.")
_SIZE = flags.DEFINE_integer("size", 0, "Short side to shrink larger images to, pixels; 0 keeps all sizes.")
_QUALITY = flags.DEFINE_integer(
    "quality",
    0,
    f"JPEG quality. 0 copies files unchanged; resized or rendered images get {DEFAULT_QUALITY}.",
)
_FORMAT = flags.DEFINE_string("format", "", f"Format of re-encoded images: {' or '.join(FORMATS)}.")
_SHARDS = flags.DEFINE_integer("shards", 0, "Number of shards; 0 follows --shard_mb.", lower_bound=0)
_SHARD_MB = flags.DEFINE_integer("shard_mb", 256, "Approximate size of a shard, megabytes.", lower_bound=1)
_WORKERS = flags.DEFINE_integer(
    "workers",
    None,
    "Worker processes; default: one per core. Rooms are rendered in one.",
    lower_bound=0,
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Delete a different pack in --out.")
_SCENES = flags.DEFINE_integer("scenes", 1000, "Synthetic: number of rooms.", lower_bound=1)
_VIEWS = flags.DEFINE_integer("views", 8, "Synthetic: views per room.", lower_bound=1)
_HEIGHT = flags.DEFINE_integer("height", 384, "Synthetic: height of a view, pixels.", lower_bound=16)
_WIDTH = flags.DEFINE_integer("width", 512, "Synthetic: width of a view, pixels.", lower_bound=16)
SYNTHETIC_FLAGS = ("scenes", "views", "height", "width")
PACK_FLAGS = ("source", "size", "quality", "format", "shards", "shard_mb", "workers", "overwrite")


def run_pack(arguments: list[str]) -> dict[str, Any]:
    """Packs a source of a config into shards for fast reading."""
    del arguments
    config = CONFIG.value
    out = OUT.value
    assert out is not None, "PACK requires --out"
    validate(config)
    if ADDRESS in out:
        raise UserError(f"--out={out} is a URL: choose a local folder, then copy the pack to the URL")
    encoding = Encoding(_SIZE.value, _QUALITY.value, _FORMAT.value)
    frames = frames_from_config(config, _source_name(config), encoding)
    scenes = len(frames.scenes)
    geometry = "with depth and cameras" if frames.geometry else "without depth and cameras"
    log(f"{scenes:,} scenes, {frames.scenes.counts.sum():,} images, {geometry}{frames.geometry_note}")
    start = time.perf_counter()
    workers = len(available_cores()) if _WORKERS.value is None else _WORKERS.value
    info = pack(
        frames,
        user_path(out),
        encoding,
        shards=_SHARDS.value,
        shard_bytes=_SHARD_MB.value * 10**6,
        workers=workers,
        overwrite=_OVERWRITE.value,
        max_bad_fraction=config.data.max_bad_fraction,
    )
    for message in info.skipped:
        log(f"Skipped an unreadable image: {message}")
    for scene in info.dropped:
        log(f"Left out a scene without a readable image: {scene}")
    seconds = round(time.perf_counter() - start, 1)
    return _summary(out, info) | {"scenes": scenes - len(info.dropped), "seconds": seconds}


def run_verify(arguments: list[str]) -> dict[str, Any]:
    """Reads all files of a pack, in a folder or at a URL, and compares them with their checksums."""
    (root,) = arguments
    remote = RemotePack(root)
    remote.verify()
    return _summary(root, remote.info)


def frames_from_config(config: ConfigDict, name: str, encoding: Encoding) -> Frames:
    """Returns the frames of all scenes of one source of a config, held-out scenes included.

    Args:
      config: the command line's config.
      name: the source's name in `config.sources`.
      encoding: the encoding of rendered frames.

    Raises:
      UserError: if there are no frames, or a flag does not apply to this kind of source.
    """
    source = config.sources[name].copy_and_resolve_references()
    config = config.copy_and_resolve_references()
    if source.kind == "recordings":
        raise UserError(f"{name} has recordings with depth, which packs do not hold: train from its files")
    if source.kind == "synthetic":
        if encoding.size:
            raise UserError(f"--size does not apply to {name}, a source of rooms: use --height and --width")
    else:
        for flag in SYNTHETIC_FLAGS:
            if flags.FLAGS[flag].present:
                raise UserError(f"--{flag} does not apply to {name}, a source of photographs: leave it out")
        source.holdout, source.weight = 0.0, 1.0
    config.sources = ConfigDict({name: source})
    mixture = build_mixture(config)
    (all_scenes,) = mixture.training
    if not isinstance(all_scenes, SyntheticSource):
        return frames_from_source(all_scenes)
    return RenderedFrames(
        all_scenes.world,
        config.seed,
        scenes=_SCENES.value,
        views=_VIEWS.value,
        size=(_HEIGHT.value, _WIDTH.value),
        encoding=encoding,
        photos=mixture.photos.get(0),
    )


def _source_name(config: ConfigDict) -> str:
    names = list(config.sources)
    if _SOURCE.value is None and len(names) > 1:
        raise UserError(f"--source is missing: pass --source with one of {', '.join(names)}")
    name = _SOURCE.value or names[0]
    if name not in names:
        raise UserError(f"--source={name!r} is not a source of the config{suggest(name, names)}")
    return name


def _summary(root: str, info: PackInfo) -> dict[str, Any]:
    return {
        "pack": root,
        "images": sum(shard["records"] for shard in info.shards),
        "shards": len(info.shards),
        "size": format_bytes(info.bytes),
        "lossless": info.lossless,
        "skipped": len(info.skipped),
    }


PACK = Command(
    run_pack, {"config": "configs/photos.py", "out": "packs/photos"}, (*PACK_FLAGS, *SYNTHETIC_FLAGS)
)
VERIFY = Command(run_verify, {}, arguments=("<folder or URL>",))
