"""Creates and opens packs in tests as the command and a training run do."""

import itertools
import pathlib
from typing import Any

import numpy as np

from conftest import write_scene
from muskie_jax.config import default_config, folder, packed
from muskie_jax.data.mixture import build_mixture, training_sampler
from muskie_jax.data.packing.encoding import Encoding
from muskie_jax.data.packing.frames import frames_from_source
from muskie_jax.data.packing.pack import pack
from muskie_jax.data.packing.pack_info import PackInfo
from muskie_jax.data.pipeline import Pipeline

LOSSLESS = Encoding()


def config_of(source, **data):
    """Returns a config with one source, two resolutions and groups of four views."""
    config = default_config()
    config.batch = {"groups": 4, "views": 4, "reuse": 1, "passes": 1}
    config.buckets.update({"resolutions": (((32, 32),), ((32, 48),)), "views": (4,)})
    config.sources.photos = source
    config.data.update(data)
    return config


def sampler_of(source, **data):
    config = config_of(source, **data)
    return training_sampler(config, build_mixture(config))


def batches(sampler, workers=0, count=6) -> list[tuple[Any, str, np.ndarray]]:
    """Returns (bucket, key, array) of all batches of the first `count` updates."""
    updates = itertools.islice(Pipeline(sampler, range(4), workers).updates(), count)
    return [(bucket, key, batch[key]) for u in updates for bucket, batch in u for key in sorted(batch)]


def all_scenes(source, **data) -> Any:
    """Opens a source of a config with all its scenes, none held out."""
    source = source.copy_and_resolve_references()
    source.holdout = 0.0
    return build_mixture(config_of(source, **data)).training[0]


def pack_of(source, out, encoding=LOSSLESS, shards=2, **settings) -> tuple[PackInfo, Any]:
    """Packs a source of a config; returns the pack's description and the packed source, all scenes."""
    info = pack(frames_from_source(all_scenes(source)), out, encoding, shards=shards, **settings)
    return info, all_scenes(packed(root=str(out)))


def write_scenes(root: pathlib.Path, count: int, frames: int):
    """Writes scenes of photographs; returns the folder as a source of a config."""
    for number in range(count):
        write_scene(root / f"scene{number}", frames, number)
    return folder(root=str(root), holdout=0.0)


def flip_bit(path: pathlib.Path) -> None:
    """Damages the last photograph of a shard."""
    data = bytearray(path.read_bytes())
    data[data.rindex(b"\xff\xd8\xff") + 300] ^= 1
    path.write_bytes(data)
