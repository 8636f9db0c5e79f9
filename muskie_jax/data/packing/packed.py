"""Reading packs: the folder of shards, index and TFDS metadata that `pack` writes.

dataset_info.json, features.json, metadata.json       TFDS's; the last has this module's `Pack` in it
muskie-train.array_record-00000-of-00042, ...          one record per frame
index/                                                 the scenes: which records their frames are
"""

import dataclasses
import functools
import json
import pathlib
import threading
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from muskie_jax.data.depth import DEPTH_UNIT, read_depth
from muskie_jax.data.images import BadImage, Photograph, open_photograph
from muskie_jax.data.objects import RelativeBox
from muskie_jax.data.overlap import visible_fraction
from muskie_jax.data.packing.records import DECODERS, Record, features, from_example
from muskie_jax.data.scenes import SceneTable
from muskie_jax.data.sources import PhotographSource
from muskie_jax.errors import UserError

FORMAT = 1  # of what this module reads
KEY = "muskie_jax"  # in metadata.json
METADATA, INDEX, UNFINISHED = "metadata.json", "index", "packing"
TFDS_FILES = ("dataset_info.json", "features.json")
DATASET = "muskie"
SPLIT = "train"  # all of a pack; what is held out is chosen when training starts
SHARDS = f"{DATASET}-{SPLIT}.array_record"  # how their names begin, as TFDS has them
DAMAGED = "Corrupted"  # in ArrayRecord's messages on records that are not as they were written

_lock = threading.RLock()


@dataclasses.dataclass(frozen=True)
class Pack:
    """What metadata.json says of a pack.

    Attributes:
      settings: of its source: `source`, what it was; `window`, `zoom`, as sources have them; `groups`,
        whether scenes are fixed groups of views.
      encoding: `size`, `quality`, `format` of its images; all zero if files were copied unchanged.
      lossless: whether they were.
      geometry: whether records have depth and cameras.
      upright: whether images are to be turned as their EXIF orientation says.
      shards, index: files, each with `name`, `bytes` and `sha256`; shards with `records` too.
      skipped: messages on images that could not be read and are not there.
      dropped: scenes that had no readable image.
      plan: a digest of what was packed, and how.
    """

    settings: dict[str, Any]
    encoding: dict[str, Any]
    lossless: bool
    geometry: bool
    upright: bool
    shards: list[dict[str, Any]]
    index: list[dict[str, Any]]
    skipped: list[str]
    dropped: list[str]
    plan: str

    @property
    def files(self) -> list[dict[str, Any]]:
        return self.shards + self.index

    @property
    def bytes(self) -> int:
        return sum(file["bytes"] for file in self.files)


def parse_metadata(text: str | bytes, root: str) -> Pack:
    """The pack that a metadata.json describes.

    Raises:
      UserError: if it describes none, or one of another version.
    """
    try:
        values = json.loads(text)[KEY]
        written, _ = values.pop("format"), values.pop("version")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{root!r} was not packed by `python -m muskie_jax.data pack`") from None
    if written != FORMAT:
        raise UserError(
            f"{root!r} is a pack of format {written}, this version reads {FORMAT}: pack it again, or "
            "use the version of muskie_jax that packed it"
        )
    return Pack(**values)


def load_pack(root: pathlib.Path) -> Pack:
    """Reads what there is in a folder, and looks whether its files are there and of the right size.

    Raises:
      UserError: if they are not, or this is no pack.
    """
    if (root / UNFINISHED).is_dir():
        raise UserError(f"the pack {str(root)!r} is not finished: give the command that packs it again")
    try:
        pack = parse_metadata((root / METADATA).read_bytes(), str(root))
    except OSError as error:
        raise UserError(
            f"no pack in {str(root)!r} ({METADATA}: {error.strerror}): write the folder that "
            "`python -m muskie_jax.data pack` wrote to"
        ) from error
    for file in pack.files:
        path = root / file["name"]
        # ArrayRecord takes a file that is missing, or cut off, for one without records.
        size = path.stat().st_size if path.is_file() else 0
        if size != file["bytes"]:
            raise UserError(f"{path} has {size} bytes, not {file['bytes']}: copy or pack it again")
    for name in TFDS_FILES:
        if not (root / name).is_file():
            raise UserError(f"there is no {root / name}: copy or pack it again")
    return pack


@dataclasses.dataclass(frozen=True)
class _Reader:
    """An open pack: one for each process."""

    pack: Pack
    examples: Any  # a sequence of what TFDS decodes
    starts: np.ndarray  # int64 (scenes,), where each scene begins in `records`
    records: np.ndarray  # int64 (frames,), the number of each frame's record
    boxes: np.ndarray | None  # float64 (records, 4), see `RelativeBox`; not finite where there is none


def _reader(root: pathlib.Path) -> _Reader:
    with _lock:  # or threads that start together would all open it
        return _open(root)


@functools.cache
def _open(root: pathlib.Path) -> _Reader:
    pack = load_pack(root)
    decoders = {key: decoder for key, decoder in DECODERS.items() if key in features(pack.geometry)}
    examples = tfds.builder_from_directory(str(root)).as_data_source(SPLIT, decoders=decoders)
    examples[0]  # loads what TFDS loads late: see `PackedSource.__setstate__`
    counts = np.load(root / INDEX / "counts.npy")
    boxes = root / INDEX / "boxes.npy"
    return _Reader(
        pack=pack,
        examples=examples,
        starts=np.cumsum(counts) - counts,
        records=np.load(root / INDEX / "records.npy", mmap_mode="r"),
        boxes=np.load(boxes, mmap_mode="r") if boxes.is_file() else None,
    )


@dataclasses.dataclass(frozen=True)
class PackedSource(PhotographSource):
    """Scenes of a pack. Pickled, it is little more than a path: each process opens the shards itself.

    Attributes:
      name, scenes, window, zoom, overlap, weight: as for `FolderSource`.
      root: the folder of the pack, on this machine.
    """

    name: str
    root: pathlib.Path
    scenes: SceneTable
    window: int | None = None
    zoom: float = 0.0
    overlap: tuple[float, float] | tuple[()] = ()
    weight: float = 1.0

    def __setstate__(self, state: dict[str, Any]) -> None:
        # While TFDS loads modules it replaces Python's import for all threads, and what they import
        # meanwhile does not work. So a process opens a pack before it starts threads.
        self.__dict__.update(state)
        _reader(self.root)

    @property
    def pack(self) -> Pack:
        return _reader(self.root).pack

    def _record_number(self, scene: int, frame: int) -> int:
        reader = _reader(self.root)
        return int(reader.records[reader.starts[self.scenes.numbers[scene]] + frame])

    def record(self, scene: int, frame: int) -> Record:
        """All that is known of a frame, raises `BadImage` if its shard is damaged there."""
        number = self._record_number(scene, frame)
        try:
            return from_example(_reader(self.root).examples[number])
        except RuntimeError as error:
            if DAMAGED not in str(error):
                raise
            name = self.scenes[scene].frames[frame]
            raise BadImage(f"{self.root}: {name}: record {number} is damaged") from error

    def open(self, scene: int, frame: int) -> Photograph:
        """One frame; raises `BadImage`."""
        record = self.record(scene, frame)
        return open_photograph(record.image, f"{self.root}: {record.frame}", self.pack.upright)

    def object_box(self, scene: int, frame: int) -> RelativeBox | None:
        """The bounding box of the object in a frame; None where it is not known."""
        boxes = _reader(self.root).boxes
        if boxes is None:
            return None
        box = boxes[self._record_number(scene, frame)]
        return tuple(map(float, box)) if np.isfinite(box).all() else None

    def scene_overlap(self, scene: int) -> np.ndarray:
        """See `PhotographSource`; needs a pack with depth and cameras."""
        if not self.pack.geometry:
            raise UserError(
                f"overlap of views is not known in {str(self.root)!r}: it was packed without depth and "
                "cameras; leave out the source's overlap"
            )
        numbers = tuple(self._record_number(scene, frame) for frame in range(self.scenes.counts[scene]))
        return _overlap(self.root, numbers)


@functools.lru_cache(maxsize=256)
def _overlap(root: pathlib.Path, numbers: tuple[int, ...]) -> np.ndarray:
    """The share of each record's view that each other sees, float32 (n, n)."""
    records = [from_example(_reader(root).examples[number]) for number in numbers]
    depths = [read_depth(r.geometry.depth, r.frame).astype(np.float32) * DEPTH_UNIT for r in records]
    intrinsics = np.stack([r.geometry.intrinsics for r in records])
    poses = np.stack([r.geometry.world_to_camera for r in records])
    return np.stack([visible_fraction(number, depths, intrinsics, poses) for number in range(len(records))])


def open_pack(name: str, root: pathlib.Path, window: int | None, zoom: float | None, **settings):
    """A source of all scenes of a pack.

    Args:
      name: of the source.
      root: a folder on this machine.
      window, zoom: None: as they were in the source that was packed. A window of 0 is the whole scene.
      settings: other attributes of `PackedSource`.

    Raises:
      UserError: if there is no whole pack.
    """
    pack = _reader(root).pack
    window = pack.settings["window"] if window is None else window or None
    zoom = pack.settings["zoom"] if zoom is None else zoom
    return PackedSource(name, root, SceneTable.load(root / INDEX), window, zoom, **settings)
