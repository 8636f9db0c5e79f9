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
from muskie_jax.data.packing.frames import Frames, RenderedFrames, frames_of
from muskie_jax.data.packing.pack import pack
from muskie_jax.data.packing.packed import Pack
from muskie_jax.data.packing.remote import RemotePack, gigabytes
from muskie_jax.data.processes import available_cores
from muskie_jax.data.sources import SyntheticSource
from muskie_jax.errors import UserError
from muskie_jax.files import ADDRESS, user_path
from muskie_jax.writers import log

_SOURCE = flags.DEFINE_string("source", None, "Which of config.sources; may be left out if there is one.")
_SIZE = flags.DEFINE_integer("size", 0, "Short side of larger images, pixels; 0: as they are.")
_QUALITY = flags.DEFINE_integer(
    "quality", 0, f"Of JPEG. 0: files are copied; what shrinks or is rendered gets {DEFAULT_QUALITY}."
)
_FORMAT = flags.DEFINE_string("format", "", f"Of images that are encoded anew: {' or '.join(FORMATS)}.")
_SHARDS = flags.DEFINE_integer("shards", 0, "Files; 0: as --shard_mb says.", lower_bound=0)
_SHARD_MB = flags.DEFINE_integer("shard_mb", 256, "About how large a file is, megabytes.", lower_bound=1)
_WORKERS = flags.DEFINE_integer(
    "workers", None, "Processes; by default one for each CPU. Rooms are rendered in one.", lower_bound=0
)
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Delete another pack that is there.")
_SCENES = flags.DEFINE_integer("scenes", 1000, "Synthetic: rooms.", lower_bound=1)
_VIEWS = flags.DEFINE_integer("views", 8, "Synthetic: views of a room.", lower_bound=1)
_HEIGHT = flags.DEFINE_integer("height", 384, "Synthetic: of a view, pixels.", lower_bound=16)
_WIDTH = flags.DEFINE_integer("width", 512, "Synthetic: of a view, pixels.", lower_bound=16)
SYNTHETIC_FLAGS = ("scenes", "views", "height", "width")
PACK_FLAGS = ("source", "size", "quality", "format", "shards", "shard_mb", "workers", "overwrite")


def run_pack(arguments: list[str]) -> dict[str, Any]:
    """Packs a source of a config into shards for fast reading."""
    del arguments
    config = CONFIG.value
    validate(config)
    if ADDRESS in OUT.value:
        raise UserError(f"--out={OUT.value} is an address: pack to a folder, then copy it there")
    encoding = Encoding(_SIZE.value, _QUALITY.value, _FORMAT.value)
    frames = frames_to_pack(config, _source_name(config), encoding)
    scenes = len(frames.scenes)
    geometry = "with depth and cameras" if frames.geometry else "without depth and cameras"
    log(f"{scenes:,} scenes, {frames.scenes.counts.sum():,} images, {geometry}{frames.reason}")
    start = time.perf_counter()
    workers = len(available_cores()) if _WORKERS.value is None else _WORKERS.value
    done = pack(
        frames,
        user_path(OUT.value),
        encoding,
        shards=_SHARDS.value,
        shard_bytes=_SHARD_MB.value * 10**6,
        workers=workers,
        overwrite=_OVERWRITE.value,
        max_bad_fraction=config.data.max_bad_fraction,
    )
    for message in done.skipped:
        log(f"Skipped an unreadable image: {message}")
    for scene in done.dropped:
        log(f"Left out a scene without a readable image: {scene}")
    seconds = round(time.perf_counter() - start, 1)
    return _summary(OUT.value, done) | {"scenes": scenes - len(done.dropped), "seconds": seconds}


def run_verify(arguments: list[str]) -> dict[str, Any]:
    """Compares the files of a pack, in a folder or at an address, with what was packed."""
    (root,) = arguments
    there = RemotePack(root)
    damaged = there.damaged()
    if damaged:
        raise UserError(
            f"{len(damaged)} of {len(there.pack.files)} files of {root} are missing or damaged, such as "
            f"{damaged[0]}: copy them there again, or pack again with --overwrite"
        )
    return _summary(root, there.pack)


def frames_to_pack(config: ConfigDict, name: str, encoding: Encoding) -> Frames:
    """The frames of one source of a config: of all its scenes, those held out too.

    Raises:
      UserError: if there are none, or flags do not fit the kind of source.
    """
    source = config.sources[name].copy_and_resolve_references()
    config = config.copy_and_resolve_references()
    synthetic = source.kind == "synthetic"
    unfitting = [flag for flag in SYNTHETIC_FLAGS if flags.FLAGS[flag].present] if not synthetic else []
    if synthetic and encoding.size:
        unfitting = ["size"]
    if unfitting:
        kind = "rooms have --height and --width" if synthetic else "it is for synthetic sources"
        raise UserError(f"--{unfitting[0]} is not for {name}: {kind}")
    if not synthetic:
        source.holdout, source.weight = 0.0, 1.0
    config.sources = ConfigDict({name: source})
    mixture = build_mixture(config)
    (whole,) = mixture.training
    if not isinstance(whole, SyntheticSource):
        return frames_of(whole)
    size = (_HEIGHT.value, _WIDTH.value)
    photos = mixture.photos.get(0)
    return RenderedFrames(whole.world, config.seed, _SCENES.value, _VIEWS.value, size, encoding, photos)


def _source_name(config: ConfigDict) -> str:
    names = list(config.sources)
    if _SOURCE.value is None and len(names) > 1:
        raise UserError(f"--source is missing: write --source with one of {', '.join(names)}")
    name = _SOURCE.value or names[0]
    if name not in names:
        raise UserError(f"--source: no {name!r}{suggest(name, names)}")
    return name


def _summary(root: str, done: Pack) -> dict[str, Any]:
    return {
        "pack": root,
        "images": sum(shard["records"] for shard in done.shards),
        "shards": len(done.shards),
        "size": gigabytes(done.bytes),
        "lossless": done.lossless,
        "skipped": len(done.skipped),
    }


PACK = Command(
    run_pack, {"config": "configs/photos.py", "out": "packs/photos"}, (*PACK_FLAGS, *SYNTHETIC_FLAGS)
)
VERIFY = Command(run_verify, {}, arguments=("<folder or address>",))
