"""Writing one shard, and reading it back before it counts."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from array_record.python import array_record_module

from muskie_jax.data.images import BadImage
from muskie_jax.data.objects import RelativeBox
from muskie_jax.data.packing.encoding import Encoding
from muskie_jax.data.packing.frames import Frames
from muskie_jax.data.packing.records import serialize
from muskie_jax.errors import UserError

OPTIONS = "group_size:1,uncompressed"  # each record on its own; image files cannot be compressed again
READ_TOGETHER = 64  # records, on reading back


@dataclasses.dataclass
class Shard:
    """What became of one shard.

    Attributes:
      bytes, sha256: of its file.
      kept: whether each image that was meant for it is in it.
      sizes: (height, width) of those that are.
      boxes: of the objects in them, or None.
      skipped: messages on those that are not.
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
    def load(cls, path: pathlib.Path, shard: pathlib.Path) -> "Shard | None":
        """What `save` wrote, if the shard is there and as large as it was then."""
        try:
            loaded = cls(**json.loads(path.read_text()))
            return loaded if shard.stat().st_size == loaded.bytes else None
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def save(self, path: pathlib.Path) -> None:
        """Writes a file, which appears whole or not at all."""
        part = path.with_suffix(".part")
        part.write_text(json.dumps(dataclasses.asdict(self)))
        part.replace(path)


class Stopped(Exception):
    """The shard was given up since the pack was stopped."""


def write_shard(
    path: pathlib.Path,
    part: pathlib.Path,
    numbers: Iterable[tuple[int, int]],
    frames: Frames,
    encoding: Encoding,
    advance: Callable[[], None],
) -> Shard:
    """Writes a shard under a temporary name, reads it back, and gives it its name.

    Args:
      path: of the shard.
      part: the temporary name, on the same disk.
      numbers: (scene, frame) of the images meant for it, in order.
      frames: where they come from.
      encoding: how they are stored.
      advance: called after every image; may raise `Stopped`.

    Raises:
      UserError: if it cannot be written, or is not read back as it was written.
    """
    shard = Shard()
    try:
        digest = _write(shard, part, numbers, frames, encoding, advance)
        with _written(path):
            _sync(part)
            if _digest_of_records(part, shard.records) != digest:
                raise OSError("what is read back is not what was written")
            shard.bytes, shard.sha256 = part.stat().st_size, sha256_of(part)
            part.rename(path)
    finally:
        part.unlink(missing_ok=True)
    return shard


@contextlib.contextmanager
def _written(path: pathlib.Path) -> Iterator[None]:
    """Turns what goes wrong with a shard's file into one line."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # the latter from ArrayRecord
        reason = getattr(error, "strerror", None) or str(error).partition(";")[0]
        reason = reason.removeprefix("write() failed: ")
        raise UserError(f"{path} cannot be written: {reason}; then the same command goes on") from error


def _write(shard: Shard, part, numbers, frames, encoding, advance) -> str:
    """Fills a file; returns the digest of its records."""
    digest = hashlib.sha256()
    with _written(part):
        part.touch()  # ArrayRecord says nothing of a file that it cannot make
        writer = array_record_module.ArrayRecordWriter(str(part), OPTIONS)
    try:
        for scene, frame in numbers:
            advance()
            try:
                record, size = encoding.apply(frames.record(scene, frame), frames.upright)
                box = frames.object_box(scene, frame)
            except BadImage as error:
                shard.skipped.append(str(error))
                shard.kept.append(False)
                continue
            data = serialize(record)
            with _written(part):
                writer.write(data)
            _add(digest, data)
            shard.kept.append(True)
            shard.sizes.append(size)
            shard.boxes.append(box)
    finally:
        with _written(part):
            writer.close()
    return digest.hexdigest()


def _add(digest: Any, record: bytes) -> None:
    digest.update(len(record).to_bytes(8, "little") + record)


def _digest_of_records(path: pathlib.Path, expected: int) -> str:
    """The digest of all records of a file; empty if they are not as many as expected."""
    reader = array_record_module.ArrayRecordReader(str(path), options="readahead_buffer_size:0")
    try:
        if reader.num_records() != expected:
            return ""
        digest = hashlib.sha256()
        for start in range(0, expected, READ_TOGETHER):
            for record in reader.read(list(range(start, min(start + READ_TOGETHER, expected)))):
                _add(digest, record)
        return digest.hexdigest()
    finally:
        reader.close()


def sha256_of(path: pathlib.Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: pathlib.Path) -> None:
    """Waits until a file is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
