"""Writes one shard, and verifies it by reading it back."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

# A compiled module without type stubs.
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from muskie_jax.data.images import BadImage, DiskFault
from muskie_jax.data.objects import RelativeBox
from muskie_jax.data.packing.encoding import Encoding
from muskie_jax.data.packing.frames import Frames
from muskie_jax.data.packing.records import serialize
from muskie_jax.errors import UserError
from muskie_jax.files import replace_text

# Random access reads single records, and image files do not compress further.
OPTIONS = "group_size:1,uncompressed"
VERIFY_BATCH = 64  # records read at a time for verification


@dataclasses.dataclass
class ShardResult:
    """Outcome of writing one shard; saved in the pack's folder so that a rerun can skip the shard.

    Attributes:
      bytes, sha256: size and digest of the shard's file.
      kept: whether the shard contains each of the images assigned to it.
      sizes: (height, width) of each contained image.
      boxes: object box of each contained image, or None.
      skipped: messages about unreadable images.
    """

    bytes: int = 0
    sha256: str = ""
    kept: list[bool] = dataclasses.field(default_factory=list)
    sizes: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    boxes: list[RelativeBox | None] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)

    @property
    def records(self) -> int:
        return len(self.sizes)

    @classmethod
    def load(cls, path: pathlib.Path, shard: pathlib.Path) -> "ShardResult | None":
        """Loads what `save` wrote; None if it is missing or damaged, or if the shard's size has changed."""
        try:
            loaded = cls(**json.loads(path.read_text()))
            return loaded if shard.stat().st_size == loaded.bytes else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def save(self, path: pathlib.Path) -> None:
        """Writes the result to a JSON file atomically."""
        replace_text(path, json.dumps(dataclasses.asdict(self)))


class Stopped(Exception):
    """Raised to abandon a shard when packing is interrupted."""


def write_shard(
    path: pathlib.Path,
    part: pathlib.Path,
    numbers: Iterable[tuple[int, int]],
    frames: Frames,
    encoding: Encoding,
    advance: Callable[[], None],
) -> ShardResult:
    """Writes a shard to a temporary file, verifies it, and renames it to its final name.

    Args:
      path: final path of the shard.
      part: temporary path, on the same file system.
      numbers: (scene, frame) of the images assigned to the shard, in order.
      frames: the source of the images.
      encoding: how the images are stored.
      advance: function called before every image; may raise `Stopped`.

    Raises:
      UserError: if the file cannot be written, reads back differently from what was written, or a disk
        fails to read an image.
    """
    result = ShardResult()
    try:
        digest = _write_records(result, part, numbers, frames, encoding, advance)
        with _write_errors(path):
            _fsync(part)
            if _digest_of_records(part, result.records) != digest:
                raise OSError("it reads back differently from what was written")
            result.bytes, result.sha256 = part.stat().st_size, sha256_of(part)
            part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return result


@contextlib.contextmanager
def _write_errors(path: pathlib.Path) -> Iterator[None]:
    """Turns an error while a shard is written or verified into a `UserError` that names the file."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # ArrayRecord raises RuntimeError
        reason = getattr(error, "strerror", None) or str(error).partition(";")[0]
        reason = reason.removeprefix("write() failed: ")
        raise UserError(
            f"{path} cannot be written: {reason}: fix the cause, then run the same command to continue"
        ) from error


def _write_records(
    result: ShardResult,
    part: pathlib.Path,
    numbers: Iterable[tuple[int, int]],
    frames: Frames,
    encoding: Encoding,
    advance: Callable[[], None],
) -> str:
    """Writes the records to a file, adds them to `result`, and returns the digest of all records."""
    digest = hashlib.sha256()
    with _write_errors(part):
        part.touch()  # ArrayRecord does not report that it cannot create a file
        writer = array_record_module.ArrayRecordWriter(str(part), OPTIONS)
    try:
        for scene, frame in numbers:
            advance()
            try:
                record, size = encoding.apply(frames.record(scene, frame), frames.upright)
                box = frames.object_box(scene, frame)
            except DiskFault as error:  # the image may be good, and a pack is kept for long
                raise UserError(
                    f"{error}: repair the disk or the network, then run the same command to continue"
                ) from error
            except BadImage as error:
                result.skipped.append(str(error))
                result.kept.append(False)
                continue
            data = serialize(record)
            with _write_errors(part):
                writer.write(data)
            _update_digest(digest, data)
            result.kept.append(True)
            result.sizes.append(size)
            result.boxes.append(box)
    finally:
        with _write_errors(part):
            writer.close()
    return digest.hexdigest()


def _update_digest(digest: Any, record: bytes) -> None:
    digest.update(len(record).to_bytes(8, "little") + record)


def _digest_of_records(path: pathlib.Path, expected: int) -> str:
    """Returns the digest of all records of a file; "" if the file does not have `expected` records."""
    reader = array_record_module.ArrayRecordReader(str(path), options="readahead_buffer_size:0")
    try:
        if reader.num_records() != expected:
            return ""
        digest = hashlib.sha256()
        for start in range(0, expected, VERIFY_BATCH):
            for record in reader.read(list(range(start, min(start + VERIFY_BATCH, expected)))):
                _update_digest(digest, record)
        return digest.hexdigest()
    finally:
        reader.close()


def sha256_of(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
