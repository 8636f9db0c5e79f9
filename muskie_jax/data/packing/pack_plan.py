"""Plans a pack: which frames become records, and how records are split into shards."""

import dataclasses
import hashlib
import itertools
import json
from typing import Any

import numpy as np
from jaxtyping import Int64

from muskie_jax.data.packing.encoding import Encoding
from muskie_jax.data.packing.frames import Frames
from muskie_jax.data.packing.pack_info import FORMAT, SHARDS


@dataclasses.dataclass(frozen=True)
class PackPlan:
    """The frame that each record of a pack stores, and the number of shards.

    Attributes:
      records: scene and frame of each record.
      numbers: record number of each frame, scene after scene. Frames that several groups share have the
        same number.
      description: settings and digests that must be equal for a rerun to continue the pack.
      shards: number of shards; 0 until it is chosen.
    """

    records: Int64[np.ndarray, "records 2"]
    numbers: Int64[np.ndarray, " frames"]
    description: dict[str, Any]
    shards: int

    def shard_name(self, number: int) -> str:
        return f"{SHARDS}-{number:05d}-of-{self.shards:05d}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()

    def records_of_shard(self, number: int) -> Int64[np.ndarray, "records 2"]:
        """Returns (scene, frame) of the shard's records; shards differ by at most one record."""
        start, stop = (len(self.records) * i // self.shards for i in (number, number + 1))
        return self.records[start:stop]


def make_plan(frames: Frames, encoding: Encoding, shards: int) -> PackPlan:
    """Returns the plan for packing all frames into `shards` files."""
    records, numbers = _records(frames)
    description = {
        "format": FORMAT,
        "settings": frames.settings,
        "encoding": dataclasses.asdict(encoding),
        "geometry": frames.geometry,
        "scenes": _digest_of_scenes(frames),
    }
    # A JSON round trip, so that it compares equal to a description read from a file.
    return PackPlan(records, numbers, json.loads(json.dumps(description)), shards)


def _records(
    frames: Frames,
) -> tuple[Int64[np.ndarray, "records 2"], Int64[np.ndarray, " frames"]]:
    """Returns (scene, frame) of every record, and the record number of every frame.

    Fixed groups of views share frames; a shared frame becomes one record.
    """
    counts = frames.scenes.counts
    scene = np.repeat(np.arange(len(counts)), counts)
    frame = np.arange(len(scene)) - np.repeat(np.cumsum(counts) - counts, counts)
    all_frames = np.stack([scene, frame], 1)
    if not frames.settings["groups"]:
        return all_frames, np.arange(len(all_frames))
    paths = itertools.chain.from_iterable(scene.frames for scene in frames.scenes)
    record_of_path: dict[str, int] = {}
    numbers = np.array([record_of_path.setdefault(path, len(record_of_path)) for path in paths], np.int64)
    return all_frames[np.unique(numbers, return_index=True)[1]], numbers


def _digest_of_scenes(frames: Frames) -> str:
    """Returns a digest of the source's path and of all names of scenes and frames."""
    digest = hashlib.sha256(frames.origin.encode(errors="surrogateescape"))
    for name, paths in frames.scenes:
        digest.update("\0".join((name, *paths, "")).encode(errors="surrogateescape"))
    return digest.hexdigest()
