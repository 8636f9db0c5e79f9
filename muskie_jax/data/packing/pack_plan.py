"""What a pack will be: which records, in how many shards."""

import dataclasses
import hashlib
import itertools
import json
from typing import Any

import numpy as np

from muskie_jax.data.packing.encoding import Encoding
from muskie_jax.data.packing.frames import Frames
from muskie_jax.data.packing.packed import FORMAT, SHARDS


@dataclasses.dataclass(frozen=True)
class PackPlan:
    """Which records there will be.

    Attributes:
      records: int64 (records, 2), the scene and frame of each.
      numbers: int64 (frames of all scenes,), the record of each frame.
      description: what a rerun must agree with to go on.
      shards: how many files.
    """

    records: np.ndarray
    numbers: np.ndarray
    description: dict[str, Any]
    shards: int

    def name_of_shard(self, number: int) -> str:
        return f"{SHARDS}-{number:05d}-of-{self.shards:05d}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()

    def of_shard(self, number: int) -> np.ndarray:
        """(scene, frame) of the records of a shard; their numbers differ by one between shards at most."""
        start, stop = (len(self.records) * i // self.shards for i in (number, number + 1))
        return self.records[start:stop]


def make_plan(frames: Frames, encoding: Encoding, shards: int) -> PackPlan:
    """The plan of packing all frames."""
    records, numbers = _records(frames)
    description = {
        "format": FORMAT,
        "settings": frames.settings,
        "encoding": dataclasses.asdict(encoding),
        "geometry": frames.geometry,
        "scenes": _digest_of_scenes(frames),
    }
    return PackPlan(records, numbers, json.loads(json.dumps(description)), shards)


def _records(frames: Frames) -> tuple[np.ndarray, np.ndarray]:
    """The (scene, frame) of every record, and the record of every frame."""
    counts = frames.scenes.counts
    scene = np.repeat(np.arange(len(counts)), counts)
    frame = np.arange(len(scene)) - np.repeat(np.cumsum(counts) - counts, counts)
    every = np.stack([scene, frame], 1)
    if not frames.settings["groups"]:
        return every, np.arange(len(every))
    paths = itertools.chain.from_iterable(scene.frames for scene in frames.scenes)
    first: dict[str, int] = {}
    numbers = np.array([first.setdefault(path, len(first)) for path in paths], np.int64)
    return every[np.unique(numbers, return_index=True)[1]], numbers


def _digest_of_scenes(frames: Frames) -> str:
    """Of where they are, and of all names."""
    digest = hashlib.sha256(frames.origin.encode(errors="surrogateescape"))
    for name, paths in frames.scenes:
        digest.update("\0".join((name, *paths, "")).encode(errors="surrogateescape"))
    return digest.hexdigest()
