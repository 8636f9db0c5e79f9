"""Reads the scenes of a pack as a source of photographs."""

import dataclasses
import functools
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from jaxtyping import Float32

from muskie_jax.data.depth import DEPTH_UNIT, read_depth
from muskie_jax.data.images import BadImage, DiskFault, Photograph, open_photograph
from muskie_jax.data.objects import RelativeBox
from muskie_jax.data.overlap import visible_fraction
from muskie_jax.data.packing.pack_info import INDEX, SPLIT, PackInfo, load_pack_info
from muskie_jax.data.packing.records import DECODERS, Record, features, record_from_example
from muskie_jax.data.retries import retried
from muskie_jax.data.scenes import SceneTable
from muskie_jax.data.sources import PhotographSource
from muskie_jax.errors import UserError, first_line

DAMAGED = "Corrupted"  # part of ArrayRecord's message about a damaged record

_lock = threading.RLock()


@dataclasses.dataclass(frozen=True)
class _Reader:
    """A pack's open files; each process has one per pack."""

    info: PackInfo
    examples: Sequence[Any]  # decoded by TFDS
    starts: np.ndarray  # int64 (scenes,), index in `records` of each scene's first frame
    records: np.ndarray  # int64 (frames,), record number of each frame
    boxes: np.ndarray | None  # float64 (records, 4), see `RelativeBox`; NaN without an object


def _reader(root: pathlib.Path) -> _Reader:
    with _lock:  # otherwise threads that start together would each open the pack
        return _open_reader(root)


@functools.cache
def _open_reader(root: pathlib.Path) -> _Reader:
    info = load_pack_info(root)
    decoders = {key: decoder for key, decoder in DECODERS.items() if key in features(info.geometry)}
    builder = tfds.builder_from_directory(str(root))
    # TFDS's decorator hides the signature.
    examples: Any = builder.as_data_source(SPLIT, decoders=decoders)  # pyright: ignore[reportCallIssue]
    examples[0]  # triggers TFDS's lazy imports: see `PackedSource.__setstate__`
    counts = np.load(root / INDEX / "counts.npy")
    boxes = root / INDEX / "boxes.npy"
    return _Reader(
        info=info,
        examples=examples,
        starts=np.cumsum(counts) - counts,
        records=np.load(root / INDEX / "records.npy", mmap_mode="r"),
        boxes=np.load(boxes, mmap_mode="r") if boxes.is_file() else None,
    )


def _is_disk_fault(error: Exception) -> bool:
    """Returns whether a read failed for another reason than the record's contents."""
    reason = error.__cause__ if isinstance(error, UserError) else error  # of opening a pack again
    return isinstance(reason, (RuntimeError, OSError)) and DAMAGED not in str(reason)


def _read_record(root: pathlib.Path, number: int) -> Record:
    """Reads a record, repeatedly if the disk fails; raises UserError if the pack is no longer complete."""

    def read() -> Record:
        try:
            example = _reader(root).examples[number]
            if example["image"] is None:  # a shard that was truncated while it is open reads as empty
                load_pack_info(root)  # names the file
                raise RuntimeError(f"{DAMAGED}: the record is empty")
            return record_from_example(example)
        except (RuntimeError, OSError) as error:
            if _is_disk_fault(error):
                _open_reader.cache_clear()  # a file handle that became stale stays stale
            raise

    return retried(read, _is_disk_fault)


@dataclasses.dataclass(frozen=True)
class PackedSource(PhotographSource):
    """Scenes of a pack. It pickles to little more than a path; each process opens the shards itself."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        # TFDS replaces Python's import function for all threads during its lazy imports, which breaks
        # concurrent imports. So a process opens its packs on unpickling, before it starts threads.
        vars(self).update(state)
        _reader(self.root)

    @property
    def info(self) -> PackInfo:
        return _reader(self.root).info

    def _record_number(self, scene: int, frame: int) -> int:
        reader = _reader(self.root)
        return int(reader.records[reader.starts[self.scenes.numbers[scene]] + frame])

    def record(self, scene: int, frame: int) -> Record:
        """Returns a frame's record; raises `BadImage` if it is damaged, `DiskFault` if the disk fails."""
        number = self._record_number(scene, frame)
        try:
            return _read_record(self.root, number)
        except (RuntimeError, OSError, UserError) as error:
            name, reason = self.scenes[scene].frames[frame], first_line(error)
            if _is_disk_fault(error):
                raise DiskFault(f"{self.root}: {name}: {reason}") from error
            if DAMAGED in reason:
                raise BadImage(f"{self.root}: {name}: record {number} is damaged") from error
            raise

    def open(self, scene: int, frame: int) -> Photograph:
        """Opens a frame's image; raises `BadImage`."""
        record = self.record(scene, frame)
        return open_photograph(record.image, f"{self.root}: {record.frame}", self.info.upright)

    def object_box(self, scene: int, frame: int) -> RelativeBox | None:
        """Returns the bounding box of the object in a frame; None if it is unknown."""
        boxes = _reader(self.root).boxes
        if boxes is None:
            return None
        left, top, right, bottom = map(float, boxes[self._record_number(scene, frame)])
        return (left, top, right, bottom) if np.isfinite(left) else None

    def scene_overlap(self, scene: int) -> Float32[np.ndarray, "frames frames"]:
        """See `PhotographSource`; raises UserError if the pack has no depth or cameras."""
        if not self.info.geometry:
            raise UserError(
                f"the overlap of views is unknown in {str(self.root)!r}, which was packed without depth "
                "and cameras: leave out the source's overlap"
            )
        numbers = tuple(self._record_number(scene, frame) for frame in range(self.scenes.counts[scene]))
        return _overlap(self.root, numbers)


@functools.lru_cache(maxsize=256)
def _overlap(root: pathlib.Path, numbers: tuple[int, ...]) -> Float32[np.ndarray, "n n"]:
    """Returns a matrix whose entry (i, j) is the fraction of view i's pixels that view j sees."""
    records = [_read_record(root, number) for number in numbers]
    depths, intrinsics, poses = [], [], []
    for record in records:
        assert record.geometry is not None, "a pack with geometry has it in every record"
        depths.append(read_depth(record.geometry.depth, record.frame).astype(np.float32) * DEPTH_UNIT)
        intrinsics.append(record.geometry.intrinsics)
        poses.append(record.geometry.world_to_camera)
    intrinsics, poses = np.stack(intrinsics), np.stack(poses)
    return np.stack([visible_fraction(number, depths, intrinsics, poses) for number in range(len(records))])


def open_pack(
    name: str,
    root: pathlib.Path,
    window: int | None,
    zoom: float | None,
    overlap: tuple[float, float] | tuple[()] = (),
    weight: float = 1.0,
) -> PackedSource:
    """Opens a pack as a source of all its scenes.

    Args:
      name: the source's name.
      root: the pack's folder on this machine.
      window: number of consecutive frames that a sample is drawn from. 0: the whole scene. None: the packed
        source's window.
      zoom: fraction of samples that are cropped to the object. None: the packed source's fraction.
      overlap, weight: see `PhotographSource`.

    Raises:
      UserError: if there is no complete pack.
    """
    packed = _reader(root).info.settings
    window = packed["window"] if window is None else window or None
    zoom = float(packed["zoom"] if zoom is None else zoom)
    return PackedSource(name, root, SceneTable.load(root / INDEX), window, zoom, overlap, weight)
